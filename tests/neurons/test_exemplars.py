"""The pass over a model against plain Python on the activations of transformers' own Arcee."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fp64_throughout import widen
from plain_exemplars import octave, padded, plain
from rounding import bounded, of_post

sys.path.append(str(Path(__file__).parents[1] / "model"))
from reference import pair

import arcee_lab as al
from arcee_lab.data.windows import Windows, plan_batches
from arcee_lab.neurons.reading import negatives, state
from arcee_lab.neurons.reading.job import ExemplarsJob
from arcee_lab.runs.ranks import Ranks

VOCAB, BOS = 40, 1
SETTINGS = {"top": 4, "strata": 6, "per_stratum": 2, "negatives": 5}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return al.load("demo")[1]


def windows_of(seed: int, n: int = 14) -> Windows:
    """Random windows, some of them short, some with BOS, with several per document."""
    draw = np.random.default_rng(seed)
    parts = [draw.integers(3, VOCAB, draw.integers(1, 24)).astype(np.int32) for _ in range(n)]
    for part in parts[::2]:
        part[0] = BOS
    parts[1] = parts[0].copy()  # equal windows, whose maxima tie
    return Windows(
        ids=np.concatenate(parts),
        bounds=np.cumsum([0, *map(len, parts)]),
        documents=np.sort(draw.integers(0, n, n)),
        bos_id=BOS,
        pad_id=0,
    )


def read(reference: Any, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """What each layer's activation function gives, `[row, pos, unit]`."""
    found: list[torch.Tensor] = []
    hooks = [
        layer.mlp.act_fn.register_forward_hook(lambda module, args, x: found.append(x))
        for layer in reference.model.layers
    ]
    with torch.no_grad():
        reference(input_ids=ids, attention_mask=mask)
    for hook in hooks:
        hook.remove()
    return found


def seen(reference: Any, windows: Windows, batch_size: int, side: str) -> list[dict]:
    """Per layer, window -> activations and which tokens count, of padded batches."""
    layers: list[dict] = [{} for _ in reference.model.layers]
    counted = windows.ids != BOS
    counted[windows.bounds[:-1]] = False
    for numbers in plan_batches(np.diff(windows.bounds).tolist(), batch_size):
        ids, mask = padded([windows[w] for w in numbers], side)
        for layer, x in enumerate(read(reference, ids, mask)):
            for row, window in enumerate(numbers):
                start, end = windows.bounds[window : window + 2]
                mine = x[row][mask[row].bool()].float()
                assert mine.isfinite().all()  # NaN is above nothing, so it would look silent
                layers[layer][window] = (mine, torch.from_numpy(counted[start:end]))
    return layers


def check(run: Any, layers: list[dict], *, seed: int, near: float = 0) -> None:
    """Every list, place and count is equal, and values differ by no more than `near`."""
    documents, width = run.corpus.windows.documents, run.d_mlp
    lengths = np.diff(run.corpus.windows.bounds)
    for layer in run.layers:
        for unit in range(width):
            want = plain(
                layers[layer], unit, layer * width + unit, top=SETTINGS["top"],
                per=SETTINGS["per_stratum"], seed=seed,
            )  # fmt: skip

            def same(found: Any, expected: Any) -> None:
                places = [(one.window, one.document, one.position) for one in found]
                assert places == [(w, documents[w], at) for _, w, at in expected]
                values = [one.value for one in found]
                assert values == pytest.approx([v for v, _, _ in expected], rel=0, abs=near)

            same(run.top(layer, unit), want.top)
            assert int(run.fired(layer)[unit]) == want.fired
            assert float(run.rates(layer)[unit]) == want.fired / run.n_tokens
            assert run.histogram(layer, unit)[1].tolist() == want.histogram
            top = want.top[0][0] if want.top else 0.0
            assert float(run.maxima(layer)[unit]) == pytest.approx(top, rel=0, abs=near)
            strata = run.stratified(layer, unit)
            assert len(strata) == SETTINGS["strata"]
            highest = octave(top) if top else 0
            for step, stratum in enumerate(strata):
                here = want.drawn.get(highest - SETTINGS["strata"] + 1 + step, [])
                same(stratum, sorted(here, key=lambda one: (-one[0], one[1])))
            silent = [int(w) for w in run.pool if w in want.silent]
            taken: list[int] = []
            like = [w for _, w, _ in want.top]
            while like and len(taken) < min(SETTINGS["negatives"], len(silent)):
                for window in like:
                    left = [w for w in silent if w not in taken]
                    if left and len(taken) < SETTINGS["negatives"]:
                        taken.append(min(left, key=lambda w: abs(lengths[w] - lengths[window])))
            assert list(run.negatives(layer, unit)) == taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_equal_to_plain_python_on_the_reference(tokenizer, dtype, batch_size):
    """In the same batches the eager kernels agree bit for bit, so everything is equal."""
    ours, reference = pair(dtype=dtype, attn="eager", seed=batch_size)
    windows = windows_of(batch_size)
    run = al.neurons.exemplars(
        ours, tokenizer, windows, batch_size=batch_size, seed=3, progress=False, **SETTINGS
    )
    check(run, seen(reference, windows, batch_size, "right"), seed=3)
    counted = (windows.ids != BOS).sum() - (windows.ids[windows.bounds[:-1]] != BOS).sum()
    assert (run.n_tokens, run.n_windows) == (counted, len(windows))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_padding_decides_nothing(tokenizer, attn, side):
    """Where padding changes only the rounding, and less than anything here depends on.

    That holds in fp64 throughout. Half precision rounds to 8 or 11 bits, and sums of another length
    or kernel round otherwise: there only runs of equal batches are equal. And a model in fp64 takes
    its norms, angles and eager softmax in fp32, which moves activations by up to 2e-5 here. With
    the eager kernel and padding on the left, transformers gives NaN for it from layer 1 on: its
    mask, the least fp64 number, is -inf in fp32.
    """
    ours, reference = pair(dtype=torch.float64, attn=attn, seed=5)
    widen(ours), widen(reference)
    windows = windows_of(5)
    windows = replace(windows, ids=windows.ids.copy())
    windows.ids[windows.bounds[1] : windows.bounds[2]][1:] = 7  # no equal windows, whose ties
    run = al.neurons.exemplars(ours, tokenizer, windows, batch_size=4, progress=False, **SETTINGS)
    one, padding = (1, "right") if side == "none" else (5, side)
    near = most_apart(reference, windows)
    check(run, seen(reference, windows, one, padding), seed=0, near=near)


def most_apart(reference: Any, windows: Windows) -> float:
    """How far values of two forwards may be apart, by the bound of `rounding`.

    Asserts that no order, place, sign or octave depends on that. Two forwards, and the plain one
    with which this is looked at, are each within the bound of exact arithmetic: what is further
    than twice the bounds from its border here is on the same side of it in both.
    """
    longest = int(np.diff(windows.bounds).max())
    maxima: list[list] = [[] for _ in reference.model.layers]
    most = 0.0
    for number in range(len(windows)):
        start, end = windows.bounds[number : number + 2]
        counts = torch.from_numpy(windows.ids[start:end] != BOS)
        counts[0] = False
        ids = torch.from_numpy(windows[number]).long()
        for layer, (u, bound) in enumerate(bounded(reference, ids, longest=longest)):
            u, bound = u[counts], bound[counts]
            assert (u.abs() > 2 * bound).all()  # who fires
            post, off = u.relu().square(), 2 * of_post(u, bound, 2.0**-24)
            most = max([most, *off.flatten().tolist()])
            if len(post) > 1:
                two, at = post.topk(2, 0)
                apart = two[0] - two[1] > off.gather(0, at).sum(0)
                assert (apart | (two[0] == 0)).all()  # where in the window
            if len(post):
                best, at = post.max(0)
                maxima[layer].append((best, off.gather(0, at[None])[0]))
    for each in maxima:
        best, off = (torch.stack(x) for x in zip(*each, strict=True))
        best, order = best.sort(0)
        off = off.gather(0, order)
        apart = best.diff(dim=0) > off[1:] + off[:-1]
        assert (apart | (best[1:] == 0)).all()  # which window is before which
        octaves = 2.0 ** torch.arange(-12, 18)
        assert ((best[..., None] - octaves).abs() > off[..., None]).all()
    return most


class Alone(Ranks):
    """A rank that gets only its own part, for the test to put together."""

    def gather(self, tensors: Any) -> list:
        return [{name: x.clone() for name, x in tensors.items()}]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_in_any_order_give_what_one_process_gives(tokenizer, size):
    ours, _ = pair(dtype=torch.bfloat16, attn="eager")
    windows = windows_of(8)

    def job() -> ExemplarsJob:
        return ExemplarsJob(ours, tokenizer, windows, batch_size=2, **SETTINGS)

    whole = job().run(progress=False)
    parts = []
    for rank in range(size):
        one = job()
        parts.append(one.planned.run(Alone(rank, size, rank, torch.device("cpu"))))
    for order in (range(size), reversed(range(size))):
        chosen = list(order)
        for layer in whole.layers:
            run, kept = job().planned, parts[chosen[0]][layer]
            neurons = torch.from_numpy(run.neurons(layer))
            for rank in chosen[1:]:
                kept = state.merge(kept, parts[rank][layer], run.places, neurons)
            assert all(torch.equal(kept[name], whole.states[layer][name]) for name in kept)


def test_some_layers_are_those_of_all(tokenizer):
    ours, _ = pair(attn="eager", num_hidden_layers=3)
    whole, some = (
        al.neurons.exemplars(
            ours, tokenizer, windows_of(2), layers=layers, progress=False, **SETTINGS
        )
        for layers in (None, [1])
    )
    assert (whole.layers, some.layers) == ((0, 1, 2), (1,))
    for name, x in some.states[1].items():
        assert torch.equal(x, whole.states[1][name])


def test_values_are_those_at_which_windows_were_found(tokenizer):
    ours, reference = pair(dtype=torch.float64, attn="eager")
    windows = windows_of(4)
    run = al.neurons.exemplars(ours, tokenizer, windows, progress=False, **SETTINGS)
    wanted = [3, 0, 9]
    # In the same batches the kernels agree bit for bit.
    rows = []
    for some in (wanted[:2], wanted[2:]):
        ids, mask = padded([windows[w] for w in some], "right")
        x = read(reference, ids, mask)[1][..., 7].float()
        rows += [row[real.bool()] for row, real in zip(x, mask, strict=True)]
    for values, row, window in zip(
        run.values(ours, 1, 7, wanted, batch_size=2), rows, wanted, strict=True
    ):
        assert torch.equal(values, row)
        assert run.ids(window) == tuple(windows[window].tolist())
        assert len(run.counted(window)) == len(values)


def test_negatives_are_of_the_domain_and_nearest_length():
    lengths = np.array([5, 9, 30, 8, 6, 31, 12, 7])
    domains = np.array([0, 0, 0, 1, 1, 0, 1, 0])
    pool = np.array([7, 5, 4, 6, 1])
    found = negatives.matched([0, 3], pool, lengths=lengths, domains=domains, most=4)
    # 5 tokens of domain 0: 7, then 9, then 31; 8 tokens of domain 1: 6, then 12.
    assert found == (7, 4, 1, 6)
    assert negatives.matched([], pool, lengths=lengths, domains=domains, most=4) == ()
    assert len(negatives.matched([3], pool, lengths=lengths, domains=domains, most=9)) == 2


def test_the_pool_has_windows_of_every_domain_and_length():
    lengths = np.where(np.arange(4000) % 100 == 0, 20, 128)
    domains = np.where(np.arange(4000) < 3960, 0, 1)
    pool = negatives.pool(lengths, domains, seed=1, most=64)
    assert len(set(pool.tolist())) == 64
    cells = {(int(domains[w]), int(lengths[w])) for w in pool}
    assert cells == {(0, 20), (0, 128), (1, 128)}
    assert (pool != negatives.pool(lengths, domains, seed=2, most=64)).any()
    assert len(negatives.pool(lengths[:5], domains[:5], seed=1, most=64)) == 5
    # In a cell the choice is uniform: the mean place of 2000 drawn of 4000 is that of the middle,
    # within four standard errors of drawing without replacement.
    drawn = negatives.pool(np.full(4000, 9), np.zeros(4000, int), seed=3, most=2000)
    assert abs(drawn.mean() - 1999.5) < 4 * 1154.7 / np.sqrt(2000) * np.sqrt(0.5)


def test_domains_number_their_documents_one_after_the_other(tokenizer):
    model, _ = al.load("demo")
    texts = {"a": ["The dogs sleep .", "", "The kings bark ."], "b": ["The lamp is red ."]}
    run = al.neurons.exemplars(model, tokenizer, texts, progress=False)
    assert [run.domain(w) for w in range(run.n_windows)] == ["a", "a", "b"]
    assert [run.document(w) for w in range(run.n_windows)] == [0, 2, 3]
    # Of equal domains the negatives are taken, and domain b has no other window.
    for unit in range(0, run.d_mlp, 50):
        of = {run.domain(one.window) for one in run.top(0, unit)}
        assert {run.domain(w) for w in run.negatives(0, unit)} <= of


def test_an_intervention_is_seen_and_what_is_not_above_zero_does_not_fire(tokenizer):
    model, _ = al.load("demo")
    texts = ["The dogs near the gate bark .", "The king finds the lamp ."]
    site = "layers.0.mlp.hook_post"
    with al.intervene(model, [al.Add(site, direction=-0.5)]):
        run = al.neurons.exemplars(model, tokenizer, texts, layers=0, progress=False)
    plainly = al.neurons.exemplars(model, tokenizer, texts, layers=0, progress=False)
    want = (plainly.maxima(0) - 0.5).clamp(min=0)
    torch.testing.assert_close(run.maxima(0), want)
    assert int((run.fired(0) > 0).sum()) == int((want > 0).sum())
