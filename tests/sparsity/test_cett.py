"""CETT against its definition, neuron by neuron, and its cut as an intervention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slowly import CONTEXT, dense, losses

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.sparsity.sampled._cett import cett, tails
from arcee_lab.sparsity.sampled.cett_perplexity import cett_ppl
from arcee_lab.sparsity.sampled.sample import draw

HOW = {"sample_tokens": 160, "context": CONTEXT, "seed": 3}
TARGETS = (0.01, 0.05, 0.1, 0.2, 0.5)


@pytest.fixture(scope="module")
def texts():
    return [document.text for document in documents(n=40, seed=1, split="test")]


@pytest.fixture(scope="module")
def curves(demo, texts):
    return cett(*demo, texts, batch_size=7, **HOW)


@pytest.fixture(scope="module")
def plain(demo, texts):
    """(u, a) of transformers' own model, and the columns of its down projections."""
    u, a = dense(demo[0], draw(*demo, texts, **HOW))
    return u, a, [layer.mlp.down_proj.weight.detach() for layer in demo[0].model.layers]


def error_and_share(a, weight, eps):
    """CETT and the share of neurons dropped, from the definition, in double precision."""
    a, weight = a.double(), weight.double()
    small = a * weight.norm(dim=0) < eps
    lost, y = (a * small) @ weight.T, a @ weight.T
    return float((lost.norm(dim=1) / y.norm(dim=1)).mean()), float(small.double().mean())


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 6),
    d_mlp=st.integers(1, 12),
    edges=st.integers(1, 9),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_tails_are_sums_below_each_edge(tokens, d_mlp, edges, density, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(tokens, d_mlp, generator=generator).square()
    a *= torch.rand(tokens, d_mlp, generator=generator) < density
    weight = torch.randn(d_mlp, 5, generator=generator)
    norms = weight.norm(dim=1)
    at = torch.rand(edges, generator=generator).mul(2).sort().values
    lengths, dropped = tails(a, weight, norms, at)
    for number, eps in enumerate([*at.tolist(), float("inf")]):
        small = a * norms < torch.tensor(eps)
        expected = ((a * small) @ weight).norm(dim=1)
        assert torch.allclose(lengths[:, number], expected, atol=1e-5)
        if number < edges:
            assert int(dropped[number]) == int(small.sum())


@pytest.mark.parametrize("layer", [0, 3])
def test_equals_the_definition_on_the_reference(curves, plain, layer):
    _, a, weights = plain
    assert curves.n_tokens == a.shape[1]
    assert float(curves.zeros[layer]) == pytest.approx(float((a[layer] == 0).double().mean()))
    for edge in range(0, curves.eps.shape[1], 31):
        eps = float(curves.eps[layer, edge])
        error, share = error_and_share(a[layer], weights[layer], eps)
        assert float(curves.error[layer, edge]) == pytest.approx(error, rel=1e-4, abs=1e-7)
        assert float(curves.sparsity[layer, edge]) == pytest.approx(share, abs=2e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_the_threshold_is_the_largest_within_the_target(curves, target):
    assert (curves.error_at(target) <= target).all()
    for layer, eps in enumerate(curves.eps_at(target)):
        place = int((curves.eps[layer] == eps).nonzero())
        assert float(curves.error[layer, place + 1]) > target
        assert float(curves.sparsity_at(target)[layer]) == float(curves.sparsity[layer, place])


def test_thresholds_are_sparser_than_exact_zeros(curves):
    shares = torch.stack([curves.zeros, *(curves.sparsity_at(target) for target in TARGETS)])
    assert (shares.diff(dim=0) > 0).all()
    assert (curves.sparsity_at(0.0) >= curves.zeros).all()


def test_one_comparison_with_relu_makes_the_cut(curves, plain):
    u, _, _ = plain
    tau = curves.thresholds(0.1)
    for layer in range(4):
        below = torch.relu(u[layer]) < tau[layer].float()
        share = float(below.double().mean())
        assert share == pytest.approx(float(curves.sparsity_at(0.1)[layer]), abs=2e-5)


def test_batches_do_not_matter(demo, texts, curves):
    other = cett(*demo, texts, batch_size=32, **HOW)
    # The first batch sets the edges, so compare what a cut at a target comes to.
    for target in TARGETS:
        near = (other.sparsity_at(target) - curves.sparsity_at(target)).abs()
        assert near.max() < 0.002
    assert torch.equal(other.active, curves.active)


def test_the_cut_as_a_value_drops_what_the_curves_say(demo, texts, curves):
    model, _ = demo
    sample = draw(*demo, texts, **HOW)
    edits = curves.interventions(0.1)
    assert al.interventions.from_json(al.interventions.to_json(edits)) == edits
    site, zeros, n = "layers.0.mlp.hook_post", 0, 0
    for batch in sample.batches(8, model.device):
        with torch.no_grad(), al.capture(model, site) as acts, al.intervene(model, edits):
            model(**batch.inputs)
        zeros += int((acts[site][batch.counted] == 0).sum())
        n += acts[site][batch.counted].numel()
    assert zeros / n == pytest.approx(float(curves.sparsity_at(0.1)[0]), abs=1e-5)


def test_frame_figures_and_words(curves):
    frame = curves.frame((0.05, 0.2))
    assert len(frame) == 8
    assert (frame["cett"] <= frame["target"]).all()
    assert (frame["sparsity"] > frame["zeros"]).all()
    assert f"N = {curves.n_tokens:,}" in curves.headline
    assert curves.headline in repr(curves)
    assert "at CETT 0.05" in curves._repr_html_()
    for figure in (curves.figure_layers(), curves.figure_curves(dark=True), curves.figure()):
        assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="CETT target is 2"):
        curves.eps_at(2.0)


def test_other_families_and_heads(demo, tiny):
    from transformers import NemotronConfig, NemotronForCausalLM

    _, tokenizer = demo
    config = NemotronConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    curves = cett(NemotronForCausalLM(config).eval(), tokenizer, ["The dogs sleep near a barn ."])
    assert (curves.sparsity_at(0.2) > curves.zeros).all()
    model = tiny("sequence", vocab_size=len(tokenizer))
    assert len(cett(model, tokenizer, ["The dogs sleep near a barn ."]).zeros) == 3


def test_nan_is_an_error(tiny, demo):
    model = tiny(vocab_size=len(demo[1]))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] = float("nan")
    with pytest.raises(ValueError, match="layer 1 holds NaN"):
        cett(model, demo[1], ["The dogs sleep near a barn ."])


# ---------------------------------------------------------------------- CETT-PPL


@pytest.fixture(scope="module")
def found(demo, texts):
    return cett_ppl(*demo, texts, increases=(0.01, 0.1), batch_size=16, **HOW)


def test_perplexity_stays_within_and_the_next_trial_does_not(found):
    trials = found.trials()
    for increase, place in zip(found.increases, found.found, strict=True):
        assert found.ratio[place] <= 1 + increase
        after = trials[trials["cett"] > found.cett[place]].iloc[0]
        assert after["ppl_ratio"] > 1 + increase
        assert after["cett"] - found.cett[place] <= 2**-12 + 1e-12
    assert found.cett[found.found[0]] < found.cett[found.found[1]]


def test_the_found_cut_has_that_perplexity_on_the_reference(demo, texts, found):
    model, sample = demo[0], draw(*demo, texts, **HOW)
    (edit,) = found.interventions(0.1)
    eps = dict(edit.eps.entries)
    norms = [layer.mlp.down_proj.weight.detach().norm(dim=0) for layer in model.model.layers]

    def cut(layer, u, a):
        return a * (a >= eps[f"layers.{layer}.mlp.hook_post"] / norms[layer])

    clean = torch.cat(losses(model, sample)).mean()
    ratio = (torch.cat(losses(model, sample, cut)).mean() - clean).exp()
    assert float(ratio) == pytest.approx(float(found.ratio[found.found[1]]), rel=1e-4)


def test_cett_ppl_says_what_it_found(found):
    frame = found.frame()
    assert list(frame["increase"].unique()) == [0.01, 0.1]
    assert (frame["sparsity"] > frame["zeros"]).all()
    assert "+1% of perplexity" in repr(found)
    assert found.figure()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"0.2 was not searched; expected one of \(0.01, 0.1\)"):
        found.interventions(0.2)


def test_cett_ppl_refuses(demo, tiny):
    text = ["The dogs sleep near a barn ."]
    with pytest.raises(ValueError, match="increases are"):
        cett_ppl(*demo, text, increases=(0.0,))
    with pytest.raises(ValueError, match="predicts no next token"):
        cett_ppl(tiny("sequence", vocab_size=len(demo[1])), demo[1], text)
