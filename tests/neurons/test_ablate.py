"""`ablate` against transformers' own Arcee with a plain hook, and against `al.intervene`."""

import numpy as np
import pytest
import torch
from neuron_models import random_model
from neuron_texts import Letters
from tiny_calls import reference_of

import arcee_lab as al
from arcee_lab.errors import ArceeLabError, ModelError, SettingError, TextError
from arcee_lab.neurons.ablation import scored
from arcee_lab.neurons.ablation.named import Neuron, sets_of

TEXTS = ["abcab cab", "hello there", "a", "the cat sat on a mat", "zzzz", "no"]


def reference_scores(model, change=None, *, texts=TEXTS):
    """NLL and KL sums text by text from transformers' Arcee; `change(layer, post) -> post`."""
    reference = reference_of(model, model.config._attn_implementation)
    tokenizer = Letters.tokenizer()

    def run(text):
        batch = tokenizer([text], return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            return batch["input_ids"][0], reference(**batch).logits[0].double().log_softmax(-1)

    base = [run(text) for text in texts]
    handles = []
    for number, layer in enumerate(reference.model.layers):
        if change is not None:
            handles.append(
                layer.mlp.act_fn.register_forward_hook(
                    lambda m, args, out, number=number: change(number, out)
                )
            )
    rows = []
    for text, (ids, before) in zip(texts, base, strict=True):
        after = run(text)[1]
        if len(ids) > 1:
            nll = -after[:-1].gather(1, ids[1:, None]).sum()
            kl = (before.exp() * (before - after)).sum(-1)[:-1].sum()
            rows.append((float(nll), float(kl)))
    for handle in handles:
        handle.remove()
    return np.array(rows).T


def zeroed(neurons):
    def change(layer, post):
        post = post.clone()
        for neuron in neurons:
            if neuron[0] == layer:
                post[..., neuron[1]] = 0
        return post

    return change


@pytest.mark.parametrize(
    ("seed", "attn", "batch_size"), [(0, "eager", 2), (1, "sdpa", 5), (2, "eager", 64)]
)
def test_every_set_is_as_in_the_reference(seed, attn, batch_size):
    model = random_model(seed, dtype=torch.float64, attn=attn)
    last = model.config.num_hidden_layers - 1
    sets = [[(0, 3)], [(last, 5)], [(0, 1), (last, 2), (0, 9)], [(0, 10)]]
    entries = [(0, 3), f"L{last}/N5", sets[2], sets[3]]
    found = al.neurons.ablate(model, Letters.tokenizer(), entries, TEXTS, batch_size=batch_size)
    base = reference_scores(model)
    # The mean square of the norm is fp32 in both, of the same numbers: nothing else differs but
    # the order of sums in fp64.
    np.testing.assert_allclose(found.base, base[0], rtol=1e-6)
    assert found.tokens.tolist() == [8, 10, 19, 3, 1]  # "a" predicts nothing
    for place, neurons in enumerate(sets):
        nll, kl = reference_scores(model, zeroed(neurons))
        np.testing.assert_allclose(found.nll[place], nll, rtol=1e-6)
        np.testing.assert_allclose(found.kl[place], kl, rtol=1e-5, atol=1e-8)
        change = (nll - base[0]).sum() / 41
        assert found.nll_change[place] == pytest.approx(change, abs=1e-6)
    frame = found.frame()
    assert (frame["NLL low"] <= frame["NLL change"]).all()
    assert (frame["NLL change"] <= frame["NLL high"]).all()
    assert "4 ablations" in found.headline


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_at_once_are_as_one_by_one_under_intervene(dtype):
    model, tokenizer = random_model(4, dtype=dtype), Letters.tokenizer()
    units = [(0, unit) for unit in range(8)]
    for how in ("zero", "mean"):
        found = al.neurons.ablate(model, tokenizer, units, TEXTS, how=how, batch_size=24)
        means = mean_of(model, tokenizer)
        for place, (_, unit) in enumerate(units):
            value = None if how == "zero" else means
            one = al.Ablate("layers.0.mlp.hook_post", how, value, units=[unit])
            total = 0.0
            with al.intervene(model, [one]), torch.no_grad():
                for text in TEXTS:
                    ids = tokenizer([text], return_tensors="pt")["input_ids"]
                    log = model(ids).logits[0].float().log_softmax(-1)
                    total -= float(log[:-1].gather(1, ids[0, 1:, None]).sum())
            # Batches of other shapes add up in another order: of logits some units of the last
            # place, and about as much of the NLL, which adds 41 of them.
            unit_of_last_place = torch.finfo(dtype).eps
            assert found.nll[place].sum() == pytest.approx(total, rel=8 * unit_of_last_place)


def mean_of(model, tokenizer) -> torch.Tensor:
    """Each neuron's mean over all tokens that are not first."""
    rows = []
    for text in TEXTS:
        with al.capture(model, "layers.0.mlp.hook_post") as acts, torch.no_grad():
            model(tokenizer([text], return_tensors="pt")["input_ids"])
        rows.append(acts["layers.0.mlp.hook_post"][0, 1:].double())
    return torch.cat(rows).mean(0)


def test_resampled_tokens_get_those_of_another_and_batches_do_not_matter():
    model, tokenizer = random_model(5, dtype=torch.float64), Letters.tokenizer()
    whole = al.neurons.ablate(model, tokenizer, [(0, 2), (0, 3)], TEXTS, how="resample")
    apart = al.neurons.ablate(model, tokenizer, [(0, 3)], TEXTS, how="resample", batch_size=2)
    np.testing.assert_allclose(whole.nll[1], apart.nll[0], rtol=1e-6)
    other = al.neurons.ablate(model, tokenizer, [(0, 3)], TEXTS, how="resample", seed=1)
    assert not np.allclose(other.nll, apart.nll)
    from arcee_lab.neurons.ablation.replaced import _sources

    counted = np.array([False, True, True, True, False, True])
    for seed in range(20):
        found = _sources(counted, np.random.default_rng(seed))
        assert counted[found].all()
        assert (found[counted] != np.flatnonzero(counted)).all()
        assert sorted(found[counted]) == np.flatnonzero(counted).tolist()


def test_windows_of_a_long_text_and_a_few_logits_at_a_time(monkeypatch):
    model, tokenizer = random_model(6, dtype=torch.float64), Letters.tokenizer()
    texts = ["abcdefgh" * 4]
    whole = al.neurons.ablate(model, tokenizer, [(0, 1)], texts, context=8)
    pieces = reference_scores(model, zeroed([(0, 1)]), texts=["abcdefgh"] * 4)
    np.testing.assert_allclose(whole.nll[0], [pieces[0].sum()], rtol=1e-6)
    monkeypatch.setattr(scored, "_AT_ONCE", 3 * model.config.vocab_size)
    again = al.neurons.ablate(model, tokenizer, [(0, 1)], texts, context=8)
    np.testing.assert_allclose(again.nll, whole.nll, rtol=1e-9)
    with pytest.raises(SettingError):
        al.neurons.ablate(model, tokenizer, [(0, 1)], texts, context=65)


def test_inside_intervene_both_sides_are_changed():
    model, tokenizer = random_model(7, dtype=torch.float64), Letters.tokenizer()
    with al.intervene(model, [al.Ablate("layers.0.mlp.hook_post", units=[4])]):
        found = al.neurons.ablate(model, tokenizer, [(0, 4), (0, 5)], TEXTS)
    assert abs(found.nll_change[0]) < 1e-9
    nll, _ = reference_scores(model, zeroed([(0, 4), (0, 5)]))
    np.testing.assert_allclose(found.nll[1], nll, rtol=1e-6)


# ---------------------------------------------------------------- the estimate


@pytest.mark.parametrize("how", ["zero", "mean"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_estimate_is_the_slope_of_the_ablation(how, batch_size):
    """Moving every neuron a little towards what replaces it changes the NLL by the estimate."""
    model, tokenizer = random_model(8, dtype=torch.float64), Letters.tokenizer()
    found = al.neurons.ablation_estimate(
        model, tokenizer, TEXTS, how=how, layers=0, batch_size=batch_size
    )
    means = mean_of(model, tokenizer)
    step, slopes = 1e-3, []
    for unit in range(0, model.config.intermediate_size, 3):
        goal = float(means[unit]) if how == "mean" else 0.0

        def moved(layer, post, sign, unit=unit, goal=goal):
            if layer == 0:
                post = post.clone()
                post[..., unit] += sign * step * (goal - post[..., unit])
            return post

        ends = [
            reference_scores(model, lambda n, p, s=s, f=moved: f(n, p, s))[0].sum() for s in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / (2 * step) / 41
        # The norms' mean squares are rounded to fp32: some 6e-8 of a NLL around 200, over 2e-3 and
        # 41 tokens; and a slope over a step of 1e-3 errs by its square.
        assert float(found.change[0, unit]) == pytest.approx(slope, rel=1e-3, abs=2e-4)
        slopes.append(abs(slope))
    assert max(slopes) > 0.02, "the tolerance is far below what is measured"
    assert found.tokens == 41


def test_the_shortlist_of_the_demo_holds_the_neurons_that_matter():
    model, tokenizer = al.load("demo")
    texts = [document.text for document in al.demo.documents("story", n=12, seed=4)]
    estimate = al.neurons.ablation_estimate(model, tokenizer, texts)
    best = estimate.top(10)
    assert all(isinstance(one, Neuron) for one in best)
    found = al.neurons.ablate(model, tokenizer, [*best, best], texts)
    random = [(layer, unit) for layer in range(4) for unit in range(100, 800, 350)]
    others = al.neurons.ablate(model, tokenizer, random, texts)
    # Of 3,584 neurons the ten that are estimated to matter most change predictions more than any
    # of eight that were not chosen.
    assert np.median(found.kl_change[:10]) > others.kl_change.max()
    assert found.kl_change[10] > found.kl_change[:10].max()
    assert len(estimate.frame(most=7)) == 7
    assert "3,584 neurons" in estimate.headline


BAD = {
    "layer": {"units": [(9, 0)]},
    "unit": {"units": [(0, 5000)]},
    "negative": {"units": [(0, -1)]},
    "name": {"units": ["L0N3"]},
    "a name of nothing": {"units": ["L0/N99999"]},
    "a number": {"units": [3]},
    "nothing": {"units": []},
    "an empty set": {"units": [[]]},
    "twice": {"units": [[(0, 1), (0, 1)]]},
    "how": {"how": "half"},
    "batch": {"batch_size": 1},
    "tokens": {"max_tokens": 10_000},
    "no text": {"texts": [""]},
    "one token": {"texts": ["a"]},
}


@pytest.mark.parametrize("what", BAD)
def test_bad_ablations_are_one_sentence(what):
    settings = {"units": [(0, 1)], "texts": TEXTS, **BAD[what]}
    units, texts = settings.pop("units"), settings.pop("texts")
    with pytest.raises(ArceeLabError) as caught:
        al.neurons.ablate(random_model(0), Letters.tokenizer(), units, texts, **settings)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_bad_estimates():
    model, tokenizer = random_model(0), Letters.tokenizer()
    for settings in ({"how": "resample"}, {"batch_size": 0}, {"layers": 7}):
        with pytest.raises(SettingError):
            al.neurons.ablation_estimate(model, tokenizer, TEXTS, **settings)
    with pytest.raises(TextError, match="no token to predict"):
        al.neurons.ablation_estimate(model, tokenizer, ["a"])
    with pytest.raises(ModelError):
        al.neurons.ablate(al.load("demo", head="token")[0], tokenizer, [(0, 1)], TEXTS)


def test_neurons_are_written_in_several_ways():
    class Unit:
        layer, unit, site = 1, 4, "layers.1.mlp.hook_post"

    found = sets_of([(0, 3), "L1/N2", Unit(), [(0, 1), "L0/N2"]], layers=2, d_mlp=5)
    assert found == (((0, 3),), ((1, 2),), ((1, 4),), ((0, 1), (0, 2)))
    assert sets_of("L1/N2", layers=2, d_mlp=5) == (((1, 2),),)
    Unit.site = "layers.1.hook_resid_post"
    with pytest.raises(SettingError, match="is no neuron"):
        sets_of([Unit()], layers=2, d_mlp=5)


# ---------------------------------------------------------------- one logit of any head


@pytest.mark.parametrize("at", [-1, 1])
@pytest.mark.parametrize("head", ["causal", "sequence", "token", "qa"])
def test_a_target_is_as_under_intervene(head, at):
    model, tokenizer = al.load("demo", head=head)
    texts = [d.text for d in al.demo.documents("review", n=3, seed=2)] + ["The dogs sleep ."]
    target = {"causal": 7, "sequence": "good", "token": 1, "qa": "end"}[head]
    sets = [[(0, 420)], [(1, 3), (3, 594)], [(0, 9)]]
    found = al.neurons.ablate_target(model, tokenizer, sets, texts, target, at=at, batch_size=8)
    for place, neurons in [(None, []), *enumerate(sets)]:
        off = [al.Ablate(f"layers.{n[0]}.mlp.hook_post", units=[n[1]]) for n in neurons]
        for row, text in enumerate(texts):
            batch = tokenizer([text], return_tensors="pt")
            with al.intervene(model, off), torch.no_grad():
                output = model(**batch)
            if head == "sequence":
                wanted = output.logits[0, model.config.label2id["good"]]
            elif head == "qa":
                wanted = output.end_logits[0, at]
            else:
                wanted = output.logits[0, at, target]
            mine = found.base[row] if place is None else found.values[place, row]
            # fp32 logits of a few units, from batches of another shape: some units of the last
            # place after sums of 128 products.
            assert mine == pytest.approx(float(wanted), abs=2e-4)
    assert found.frame()["change"].tolist() == pytest.approx(found.change.tolist())
    assert f"{len(sets)} ablations" in found.headline


def test_bad_targets_of_ablations():
    model, tokenizer = al.load("demo", head="sequence")
    for given, error in [
        ({"target": "godo"}, SettingError),
        ({"target": ["good", "bad"]}, SettingError),
        ({"at": 99}, SettingError),
        ({"how": "half"}, SettingError),
        ({"batch_size": 1}, SettingError),
        ({"context": 4}, SettingError),
        ({"units": [(9, 9)]}, SettingError),
    ]:
        settings = {"target": "good", "units": [(0, 1)], **given}
        with pytest.raises(error):
            al.neurons.ablate_target(
                model, tokenizer, settings.pop("units"), ["The dogs sleep ."], **settings
            )
    qa, base = al.load("demo", head="qa")[0], al.load("demo", head="base")[0]
    with pytest.raises(SettingError, match="read at two tokens"):
        al.neurons.ablate_target(qa, tokenizer, [(0, 1)], ["The dogs sleep ."], "span")
    with pytest.raises(ModelError):
        al.neurons.ablate_target(base, tokenizer, [(0, 1)], ["The dogs sleep ."], 0)
