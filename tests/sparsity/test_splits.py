"""How the work is cut (batches, files, ranks, a kill) leaves every number bit-identical."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from dense import Letters, activations, fill, is_real, pair, plant, windows_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

TEXTS = [
    "".join(chr(ord("a") + (3 * number + place * (1 + number % 4)) % 8) for place in range(length))
    for number, length in enumerate([5, 17, 2, 9, 30, 1, 12, 7, 23, 3, 14, 8])
]


@pytest.fixture(scope="module")
def model():
    return plant(*pair(d_mlp=40, bias=True))[0]


def same(one, two, *, but=()):
    """All counts of two reports are equal, to the last bit."""
    assert set(one.states) == set(two.states)
    for name, state in one.states.items():
        for key, tensor in state.items():
            if (name, key) not in but:
                assert torch.equal(tensor, two.states[name][key]), (name, key)
    assert (one.n_tokens, one.n_first, one.n_sampled) == (two.n_tokens, two.n_first, two.n_sampled)


@settings(max_examples=6)
@given(batch_size=st.integers(1, 13), sample_every=st.sampled_from([1, 2, 3]))
def test_batches_change_nothing(model, batch_size, sample_every):
    """In double precision the batch flips no neuron; rounded terms may differ by a unit."""
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.core import window_means

    found = [
        measure(model, Letters(), TEXTS, sample_every=sample_every, batch_size=size, context=16)
        for size in (batch_size, 4)
    ]
    assert found[0].n_sampled == found[1].n_sampled
    for name, state in found[0].states.items():
        for key, tensor in state.items():
            other = found[1].states[name][key]
            if name in ("core", "unions", "overlap") or not is_real(key):
                assert torch.equal(tensor, other), (name, key)
                continue
            # Real terms come from matrix products, whose last bits depend on the batch: each may
            # be rounded another way, and there are as many as tokens at most.
            one, two = window_means.real(tensor), window_means.real(other)
            limit = found[0].n_tokens / window_means.FRACTION + np.abs(one) * 1e-9
            assert (np.abs(one - two) <= limit).all(), (name, key)


@settings(max_examples=5)
@given(cuts=st.lists(st.integers(1, len(TEXTS) - 1), min_size=1, max_size=3, unique=True))
def test_files_add_up_exactly_and_in_any_grouping(model, cuts):
    from arcee_lab.sparsity import measure

    def of(texts):
        # One window per forward: then every forward of a part is one of the whole.
        try:
            return measure(model, Letters(), texts, sample_every=2, batch_size=1, context=16)
        except ValueError:  # no window of the part is sampled
            assume(False)

    bounds = [0, *sorted(cuts), len(TEXTS)]
    parts = [of(TEXTS[start:stop]) for start, stop in pairwise(bounds)]
    left = parts[0]
    for part in parts[1:]:
        left = left.merge(part)
    right = parts[-1]
    for part in parts[-2::-1]:
        right = part.merge(right)
    whole = of(TEXTS)
    same(left, right)
    same(left, whole)
    for name in ("overlap", "blocks", "concentration", "predictors", "losses", "tokens"):
        assert left.frames[name].equals(whole.frames[name]), name
    assert left.n_documents == whole.n_documents == len(TEXTS)


def one_of(rank, size, left):
    """A rank of several that run one after the other: each leaves its state for the last one."""
    from arcee_lab.runs.ranks import Ranks

    class Together(Ranks):
        def barrier(self):
            pass

        def gather(self, tensors):
            left.append({name: x.clone() for name, x in tensors.items()})
            return left

    return Together(rank, size, 0, torch.device("cpu"))


@pytest.mark.parametrize("size", [2, 5])
def test_ranks_change_nothing(model, size):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity.job import plan_pass
    from arcee_lab.sparsity.registry import chosen

    windows = cut(Letters(), TEXTS, context=16)

    def states(rank, size, left):
        run = plan_pass(model, windows, chosen(["all"]), sample_every=2, batch_size=3)
        return run.run(one_of(rank, size, left))

    alone = states(0, 1, [])
    left = []
    for rank in range(size):
        together = states(rank, size, left)
    for name, state in alone.items():
        for key, tensor in state.items():
            assert torch.equal(tensor, together[name][key]), (name, key)


def test_a_killed_run_goes_on_with_the_same_numbers(model, tmp_path, monkeypatch):
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.streamed import runner

    settings = {"sample_every": 2, "batch_size": 2, "context": 16}
    whole = measure(model, Letters(), TEXTS, **settings)
    file = tmp_path / "state.safetensors"
    monkeypatch.setattr(runner, "_SAVE_EVERY", 0)
    forward = runner.Pass._forward
    ran = []

    def killed(self, job):
        if len(ran) == 4:
            raise KeyboardInterrupt
        ran.append(job)
        forward(self, job)

    monkeypatch.setattr(runner.Pass, "_forward", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(model, Letters(), TEXTS, resume=file, **settings)
    assert file.is_file()
    with pytest.raises(ValueError, match="was saved by another run: its sample_every is 2, not 1"):
        measure(model, Letters(), TEXTS, resume=file, **(settings | {"sample_every": 1}))
    again = []
    monkeypatch.setattr(
        runner.Pass, "_forward", lambda self, job: (again.append(job), forward(self, job))
    )
    resumed = measure(model, Letters(), TEXTS, resume=file, **settings)
    same(whole, resumed)
    assert not file.exists()
    batches = len(again) + len(ran)
    assert len(again) < batches
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is damaged; remove it"):
        measure(model, Letters(), TEXTS, resume=file, **settings)


def test_the_share_is_chosen_by_the_tokens_alone():
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity.streamed.schedule import plan

    windows = cut(Letters(), TEXTS * 6, context=16)
    some = plan(windows, batch_size=4, sample_every=None)
    assert some.sample_every == 8
    rows = {row for batch, in_sample in some.batches for row in batch if in_sample}
    assert sorted(row for batch, _ in some.batches for row in batch) == list(range(len(windows)))
    texts = {windows[row].tobytes() for row in rows}
    assert rows == {row for row in range(len(windows)) if windows[row].tobytes() in texts}
    assert 0 < len(rows) < len(windows)
    assert some.sampled_tokens == sum(len(windows[row]) - 1 for row in rows)
    assert (
        plan(cut(Letters(), TEXTS, context=16), batch_size=4, sample_every=None).sample_every == 1
    )


def other(name):
    """A tiny model of another family, with weights far from zero."""
    import transformers

    shape = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    if name != "Persimmon":
        shape["num_key_value_heads"] = 1
    if name == "Nemotron":
        shape["head_dim"] = 8
    config = getattr(transformers, f"{name}Config")(**shape)
    model = getattr(transformers, f"{name}ForCausalLM")(config).double().eval()
    fill([parameter for parameter in model.parameters() if parameter.dim() > 1], std=0.3, seed=0)
    return model


@pytest.mark.parametrize("name", ["Nemotron", "NanoChat", "Persimmon"])
def test_other_families_equal_brute_force(name):
    from arcee_lab.sparsity import measure, mlps

    model = other(name)
    report = measure(model, Letters(), TEXTS[:5], batch_size=2, context=64)
    assert "losses" not in report.states
    posts = []
    hooks = [
        mlp.down.register_forward_hook(lambda module, args, out: posts.append(args[0][0]))
        for mlp in mlps(model)
    ]
    fired = np.zeros((2, 24), np.int64)
    with torch.no_grad():
        for text in TEXTS[:5]:
            posts.clear()
            model(torch.tensor([Letters()(text)["input_ids"]]))
            fired += np.stack([(post[1:] > 0).sum(0).numpy() for post in posts])
    for hook in hooks:
        hook.remove()
    assert np.array_equal(report.fired, fired)
    assert 0.1 < report.zeros.mean() < 0.9


def test_a_share_without_a_window_is_an_error(model):
    from arcee_lab.sparsity import measure

    with pytest.raises(ValueError, match="none of the 1 windows is sampled at sample_every=1000"):
        measure(model, Letters(), ["abc"], sample_every=1000)
    assert measure(model, Letters(), ["abc"], sample_every=1000, analyses=["core"]).n_tokens == 3


def test_the_shortest_text_that_counts_gives_a_whole_report(model):
    from arcee_lab.sparsity import measure

    report = measure(model, Letters(), ["a"])
    assert report.n_tokens == 1
    for name in report.results:
        assert len(report.frames[name]) > 0 or name == "losses"  # there is no next token
        assert "nan" not in report.results[name].headline.split(":")[0]
    assert report.frames["overlap"]["jaccard"].isna().all()


def test_a_gated_mlp_is_an_error():
    import transformers

    from arcee_lab.sparsity import measure

    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, hidden_act="relu",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"layers\.0\.mlp .* is gated"):
        measure(transformers.LlamaForCausalLM(config), Letters(), ["abc"])
    config = transformers.NemotronConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, hidden_act="gelu",
    )  # fmt: skip
    with pytest.raises(ValueError, match="gives no exact zeros; expected relu or relu2"):
        measure(transformers.NemotronForCausalLM(config), Letters(), ["abc"])


@pytest.fixture(scope="module")
def two_models():
    return [plant(*pair(d_mlp=40, bias=True, seed=seed), seed=seed) for seed in (0, 1)]


def overlaps(references, texts, context):
    """By window, of each token and layer: both masks of the references, of distinct windows."""
    windows = windows_of(Letters()(texts)["input_ids"], context)
    for ids in {tuple(ids) for ids in windows}:
        yield [activations(reference, ids)[:, 1:] != 0 for reference in references]


@pytest.mark.parametrize("analyses", [["core"], ["overlap"], ["all"]])
def test_two_models_agree_at_all_tokens(two_models, analyses):
    """At every token that both counted, whatever analyses were asked for."""
    from arcee_lab import bootstrap
    from arcee_lab.sparsity import measure

    one, two = (
        measure(ours, Letters(), TEXTS, context=16, sample_every=2, analyses=analyses)
        for ours, _ in two_models
    )
    found = one.compare(two)
    frame = found.frame()
    pairs = list(overlaps([reference for _, reference in two_models], TEXTS, 16))
    pairs = [pair for pair in pairs if pair[0].shape[1]]
    n = sum(a.shape[1] for a, _ in pairs)
    assert (frame["same_tokens"] == n).all()
    assert (frame["same_windows"] == len(pairs)).all()
    assert n == one.n_tokens == two.n_tokens
    for layer in range(2):
        shares, meet = [], 0
        for a, b in pairs:
            both, either = (a[layer] & b[layer]).sum(1), (a[layer] | b[layer]).sum(1)
            shares.append([x / y if y else 1.0 for x, y in zip(both, either, strict=True)])
            meet += both.sum()
        assert frame["agreement"][layer] == pytest.approx(np.mean(np.concatenate(shares)))
        fired = [sum(pair[which][layer].sum(0) for pair in pairs) for which in (0, 1)]
        # Of all pairs of two different tokens, one read by each model.
        chance = ((fired[0] * fired[1]).sum() - meet) / (n * (n - 1))
        assert frame["agreement_chance"][layer] == pytest.approx(
            chance / ((fired[0] + fired[1]).sum() / n - chance)
        )
        # The interval is that of windows: its width is that of the ratio estimator, about.
        sums, sizes = np.array([sum(x) for x in shares]), np.array([len(x) for x in shares])
        mean, w = sums.sum() / n, len(shares)
        error = np.sqrt(((sums - mean * sizes) ** 2).sum() * w / (w - 1)) / n
        low, high = frame["agreement_low"][layer], frame["agreement_high"][layer]
        assert low < mean < high
        assert high - low == pytest.approx(2 * 1.96 * error, rel=0.3)
        weights = bootstrap.resamples(w, seed=0)
        order = np.argsort(np.random.default_rng(0).random(w))  # the order of windows is no matter
        ends = bootstrap.interval((sums[order] @ weights) / (sizes[order] @ weights))
        assert (low, high) == pytest.approx(ends, abs=(high - low) / 4)
    assert f"at {n:,} tokens in common" in found.headline
    assert "agreement" in found.headline


def test_few_kept_tokens_are_a_uniform_sample_and_still_add_up(two_models, monkeypatch):
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.core import kept_tokens

    settings = {"analyses": ["core"], "context": 16, "batch_size": 1}
    (ours, _), (others, _) = two_models
    every = measure(ours, Letters(), TEXTS, **settings)
    monkeypatch.setattr(kept_tokens, "BYTES", 30 * 2 * 5)  # 30 tokens of two layers of 40 neurons
    whole = measure(ours, Letters(), TEXTS, **settings)
    kept, all_kept = (r.states["core"]["drawn_order"].tolist() for r in (whole, every))
    assert len(kept) == 30 < every.n_tokens == len(all_kept)
    assert kept == sorted(all_kept)[:30]
    assert len(set(whole.states["core"]["drawn_windows"].tolist())) > 5  # over the whole text
    parts = [measure(ours, Letters(), TEXTS[at : at + 4], **settings) for at in (0, 4, 8)]
    same(parts[0].merge(parts[1]).merge(parts[2]), whole)
    same(parts[0].merge(parts[1].merge(parts[2])), whole)
    # Another model keeps the same tokens, so all that is kept is in common.
    other = measure(others, Letters(), TEXTS, **settings)
    assert whole.compare(other).agreement.tokens == 30
    assert whole.compare(every).agreement.tokens == 30
    assert (whole.compare(every).agreement.value == 1).all()


def test_the_draw_takes_the_lowest_numbers_however_the_text_is_cut(monkeypatch):
    from arcee_lab.sparsity.core import kept_tokens

    rng = np.random.default_rng(0)
    bounds = np.cumsum([0, *rng.integers(1, 30, 40)])
    keys, counted = rng.integers(0, 2**32, 40), rng.random(bounds[-1]) < 0.8
    row = np.repeat(np.arange(40), np.diff(bounds))
    order = kept_tokens.mixed(keys[row], np.arange(bounds[-1]) - bounds[row])[counted]
    assert len(set(order.tolist())) == len(order)
    assert order.min() >= 0
    for most in (1, 17, 10**6):
        for at_once in (5, 2**22):
            monkeypatch.setattr(kept_tokens, "_AT_ONCE", at_once)
            found = kept_tokens.draw(counted, bounds, keys, most)
            lowest = np.sort(order)[:most]
            assert np.array_equal(order[found.numbers][np.argsort(found.slots)], lowest)
            assert (np.diff(found.numbers) > 0).all()


def test_a_neuron_that_never_fired_is_not_busy():
    from arcee_lab.sparsity.compared.comparison import hot_overlap

    first, second = np.zeros((2, 2, 20))
    first[0, [3, 7]], second[0, [3, 9]] = 0.5, 0.5
    found = hot_overlap(first, second)
    assert found[0] == 1 / 3  # of 3, 7 and 9; silent neurons would make it more
    assert np.isnan(found[1])


def test_two_models_on_the_same_tokens(two_models):
    from arcee_lab.sparsity import measure

    one, two = (measure(m, Letters(), TEXTS, sample_every=1, context=16) for m, _ in two_models)
    found = one.compare(two)
    frame = found.frame()
    for layer in range(2):
        p, q = one.rates[layer].numpy(), two.rates[layer].numpy()
        assert frame["mean_abs_delta"][layer] == pytest.approx(np.abs(q - p).mean())
        a, b = p / p.sum(), q / q.sum()
        js = sum(
            0.5 * x[i] * np.log2(x[i] / (0.5 * (a[i] + b[i])))
            for x in (a, b) for i in range(40) if x[i]
        )  # fmt: skip
        assert frame["js_bits"][layer] == pytest.approx(js)
        hot = [set(np.argsort(-x, kind="stable")[:8].tolist()) for x in (p, q)]
        assert frame["hot_jaccard"][layer] == len(hot[0] & hot[1]) / len(hot[0] | hot[1])
    drawn = {line.get_label(): line.get_ydata() for line in found.figure().axes[0].lines}
    assert np.array_equal(drawn["agreement of what fires"], frame["agreement"])
    assert np.array_equal(drawn["agreement by chance"], frame["agreement_chance"])
    mine = one.compare(one).frame()
    assert (mine["agreement"] == 1).all()
    assert np.allclose(mine["js_bits"], 0)
    assert (mine["agreement_low"] == 1).all()
    assert len(found.neurons()) == 80
    apart = one.compare(measure(two_models[0][0], Letters(), ["hhh", "ggfe"], context=16))
    assert apart.agreement.tokens == 0
    assert apart.frame()["agreement"].isna().all()
    assert "no token in common, so no agreement" in apart.headline
    assert (apart.frame()["n_tokens_second"] == 7).all()
    assert apart.figure()._repr_png_().startswith(b"\x89PNG")
    twice = [measure(m, Letters(), TEXTS * 2, analyses=["core"]) for m, _ in two_models]
    assert twice[0].compare(twice[1]).agreement.tokens == twice[0].n_tokens  # windows come twice
    single = one.compare(measure(two_models[1][0], Letters(), TEXTS[:1], context=16))
    assert single.agreement.windows == 1
    assert single.frame()["agreement_low"].isna().all()
    with pytest.raises(ValueError, match="expected models of one shape"):
        one.compare(measure(pair(layers=1)[0], Letters(), ["abc"]))


def test_domains_side_by_side(model):
    from arcee_lab.sparsity import domains, measure

    reports = {
        name: measure(model, Letters(), texts, analyses=["core"])
        for name, texts in (("odd", TEXTS[1::2]), ("even", TEXTS[::2]), ("all", TEXTS))
    }
    found = domains(reports)
    rates = [report.rates.numpy() for report in reports.values()]
    neurons = found.neurons()
    # The neuron whose rate differs most between the texts, so that no two shares are alike.
    layer, unit = np.unravel_index(abs(rates[0] - rates[1]).argmax(), rates[0].shape)
    assert rates[0][layer, unit] != rates[1][layer, unit]
    row = neurons.query("layer == @layer and unit == @unit").iloc[0]
    total = sum(rate[layer, unit] for rate in rates)
    assert row["odd"] == pytest.approx(rates[0][layer, unit] / total)
    assert row[["odd", "even", "all"]].sum() == pytest.approx(1)
    frame = found.frame().query("domain == 'even'")
    assert np.allclose(frame["zeros"], 1 - rates[1].mean(1))
    assert len(found.pairs()) == 3 * 2
    with pytest.raises(ValueError, match="at least two"):
        domains({"odd": reports["odd"]})


def test_activation_law_is_found_again():
    from arcee_lab.sparsity import fit_activation

    tokens = np.geomspace(1e6, 1e9, 12)
    true = np.exp(-4.0 * (tokens / 1e9) ** 0.6 - 1.2) + 0.1
    law = fit_activation(tokens, true)
    assert np.allclose(law(tokens), true, atol=1e-4)
    assert law.limit == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ValueError, match="at least 5"):
        fit_activation([1, 2], [0.5, 0.4])
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        fit_activation(range(1, 7), [0.5, 0.4, 0.3, 0.2, 0.1, 1.2])


@pytest.mark.slow
def test_torchrun_gives_the_numbers_of_one_process(tmp_path):
    import subprocess
    import sys

    words = ["sparsity", "demo", "--world", "story", "--max-tokens", "700", "--analyses", "all"]
    words += ["--sample-every", "2", "--batch-size", "4"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "arcee_lab"]
    for name, launcher in (("one", ["arcee_lab"]), ("two", torchrun)):
        command = [sys.executable, "-m", *launcher, *words, "--out", str(tmp_path / name)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert child.returncode == 0, child.stderr
        assert child.stdout.count("exactly zero") == 1
    from arcee_lab.sparsity import SparsityReport

    one, two = (SparsityReport.load(tmp_path / name) for name in ("one", "two"))
    same(one, two)
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["tokens"] == one.n_tokens


@pytest.mark.parametrize("kind", ["stacked", "listed"])
def test_routed_experts_are_refused(kind):
    """In addition, the shared expert of NemotronH is an MLP like any other, and stood for all."""
    import transformers

    from arcee_lab.sparsity import mlps

    config = transformers.NemotronHConfig(
        vocab_size=40,
        hidden_size=32,
        layers_block_type=["moe", "attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        moe_shared_expert_intermediate_size=24,
        mlp_hidden_act="relu2",
    )
    model = transformers.NemotronHForCausalLM(config)
    if kind == "listed":
        shared = next(m for m in model.modules() if type(m).__name__ == "NemotronHMLP")
        model = torch.nn.ModuleDict({"experts": torch.nn.ModuleList([shared, shared])})
    with pytest.raises(ValueError, match=r"experts.*holds routed experts"):
        mlps(model)
