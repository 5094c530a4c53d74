"""Truncation curves against transformers' own model with neurons dropped by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slowly import CONTEXT, dense, losses

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.sparsity.sampled import selection_rules
from arcee_lab.sparsity.sampled.sample import draw
from arcee_lab.sparsity.sampled.truncation import truncation
from arcee_lab.sparsity.sampled.truncation_curves import KEEPS_ALL, TruncationCurves

HOW = {"sample_tokens": 130, "context": CONTEXT, "seed": 5}
LEVELS = {
    "top_k": (0.05, 0.005),
    "top_norm": (0.005,),
    "top_p": (0.9, 0.4),
    "cett": (0.1, 0.4),
    "fat": (0.01, 0.003),
    "spark": (0.01,),
    "random": (0.01,),
}


@pytest.fixture(scope="module")
def texts():
    return [document.text for document in documents(n=40, seed=2, split="test")]


def hooks_of(model):
    return {
        (name, hook)
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    }


@pytest.fixture(scope="module")
def before(demo):
    """The demo's hooks: none of ours, but transformers leaves some after output_hidden_states."""
    return hooks_of(demo[0])


@pytest.fixture(scope="module")
def curves(demo, texts, before):
    return truncation(*demo, texts, levels=LEVELS, batch_size=16, **HOW)


def chosen(rule, a, u, norms, parameter):
    """The rules once more, one token at a time with NumPy; which neurons stay."""
    a, u, norms = (x.double().numpy() for x in (a, u, norms))
    kept = np.zeros(a.shape, bool)
    for t, row in enumerate(a):
        k = max(1, round(parameter * len(row)))
        if rule == "top_k":
            kept[t, np.argsort(-row, kind="stable")[:k]] = True
        elif rule == "top_norm":
            kept[t, np.argsort(-row * norms, kind="stable")[:k]] = True
        elif rule == "top_p":
            for i in np.argsort(-row, kind="stable"):
                if row[kept[t]].sum() >= parameter * row.sum():
                    break
                kept[t, i] = True
        elif rule == "spark":
            from statistics import NormalDist

            bar = u[t].mean() + u[t].std() * NormalDist().inv_cdf(1 - parameter)
            kept[t] = u[t] > bar
        elif rule == "fat":
            kept[t] = row > parameter
        elif rule == "cett":
            kept[t] = row * norms >= parameter
    return torch.from_numpy(kept)


@settings(max_examples=25)
@given(
    rule=st.sampled_from(["top_k", "top_norm", "top_p", "spark", "fat", "cett"]),
    d_mlp=st.integers(2, 30),
    level=st.floats(0.05, 0.95),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_rules_choose_as_written(rule, d_mlp, level, density, seed):
    draws = torch.Generator().manual_seed(seed)
    u = torch.randn(1, 4, d_mlp, generator=draws) + 2 * density - 1
    a, norms = torch.relu(u).square(), torch.rand(d_mlp, generator=draws) + 0.5
    kept = selection_rules.RULES[rule](selection_rules.Layer(a, u, norms, draws), level)[0]
    # A zero that is kept is still a zero.
    expected = chosen(rule, a[0], u[0], norms, level)
    assert torch.equal(kept & (a[0] > 0), expected & (a[0] > 0))


def test_random_keeps_as_many_of_those_that_fire():
    draws = torch.Generator().manual_seed(0)
    a = torch.rand(2, 50, 40, generator=draws) * (torch.rand(2, 50, 40, generator=draws) < 0.3)
    kept = selection_rules.random(selection_rules.Layer(a, a, torch.ones(40), draws), 0.2)
    left = (kept & (a > 0)).sum(-1)
    assert torch.equal(left, (a > 0).sum(-1).clamp(max=8))
    share = (kept & (a > 0)).float().mean(dim=(0, 1)) / (a > 0).float().mean(dim=(0, 1))
    assert share.std() < 0.15  # no neuron is favoured


@pytest.mark.parametrize("rule", LEVELS)
def test_keeping_all_is_the_clean_loss_bit_for_bit(curves, rule):
    run = curves.rules.index(rule)
    assert curves.levels[run] == KEEPS_ALL[rule]
    assert torch.equal(curves.nll[run], curves.nll_untouched)
    assert torch.equal(curves.hits[run], curves.hits_untouched)
    assert (curves.kl[run] == 0).all()
    assert curves.frame()["delta_nll"][run] == 0.0


def test_clean_losses_are_those_of_the_reference(demo, texts, curves):
    model, _ = demo
    sample = draw(*demo, texts, **HOW)
    by_group = torch.zeros(sample.n_groups, dtype=torch.float64)
    for group, found in zip(sample.groups, losses(model, sample), strict=True):
        by_group[group] += found.sum()
    assert torch.allclose(curves.nll_untouched, by_group, rtol=1e-5)
    assert int(curves.targets.sum()) == curves.n_tokens


@pytest.mark.parametrize(
    ("rule", "level"),
    [("top_k", 0.005), ("top_norm", 0.005), ("top_p", 0.4), ("spark", 0.01), ("cett", 0.4)],
)
def test_a_run_is_the_reference_with_neurons_dropped(demo, texts, curves, rule, level):
    model, sample = demo[0], draw(*demo, texts, **HOW)
    norms = [layer.mlp.down_proj.weight.detach().norm(dim=0) for layer in model.model.layers]
    run = next(
        r for r, (name, lv) in enumerate(zip(curves.rules, curves.levels, strict=True))
        if (name, lv) == (rule, level)
    )  # fmt: skip
    left = torch.zeros(len(norms), dtype=torch.int64)

    def cut(layer, u, a):
        kept = chosen(rule, a[0], u[0], norms[layer], float(curves.parameters[run, layer]))
        out = a * kept
        left[layer] += (out[0, 1:] != 0).sum()
        return out

    total = float(torch.cat(losses(model, sample, cut)).sum())
    assert float(curves.nll[run].sum()) == pytest.approx(total, rel=2e-3)
    # A neuron at the threshold may fall on either side, by rounding.
    assert np.allclose(curves.kept[run].numpy(), left.numpy(), atol=3)


def test_kl_is_from_the_untouched_distribution(demo, texts):
    curves = truncation(*demo, texts, rules=["top_k"], levels={"top_k": (0.004,)}, **HOW)
    model, sample = demo[0], draw(*demo, texts, **HOW)
    edits = curves.interventions("top_k", 0.004)
    total = 0.0
    for batch in sample.batches(4, model.device):
        with torch.no_grad():
            p = model(**batch.inputs).logits.double().log_softmax(-1)
            with al.intervene(model, edits):
                q = model(**batch.inputs).logits.double().log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(-1)[:, :-1]
        total += float(kl[batch.counted[:, 1:]].sum())
    assert float(curves.kl[1].sum()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(("rule", "level"), [("top_k", 0.005), ("cett", 0.1), ("fat", 0.003)])
def test_the_same_value_gives_the_same_loss_as_an_intervention(demo, texts, curves, rule, level):
    model, sample = demo[0], draw(*demo, texts, **HOW)
    edits = curves.interventions(rule, level)
    run = next(r for r, n in enumerate(curves.rules) if n == rule and curves.levels[r] == level)
    nll = torch.zeros(sample.n_groups, dtype=torch.float64)
    for batch in sample.batches(16, model.device):
        with torch.no_grad(), al.intervene(model, edits):
            log_p = model(**batch.inputs).logits[:, :-1].log_softmax(-1)
        each = -log_p.gather(-1, batch.ids[:, 1:, None])[..., 0].double()
        nll.index_add_(0, batch.groups, each.where(batch.counted[:, 1:], 0).sum(1))
    assert torch.equal(nll, curves.nll[run])
    assert al.interventions.from_json(al.interventions.to_json(edits)) == edits


def test_fat_keeps_the_share_asked_on_the_untouched_model(demo, texts, curves):
    _, a = dense(demo[0], draw(*demo, texts, **HOW))
    for level in LEVELS["fat"]:
        run = next(
            r for r, n in enumerate(curves.rules) if n == "fat" and curves.levels[r] == level
        )
        share = float((a > float(curves.parameters[run, 0])).double().mean())
        assert level * 0.85 <= share <= level


def test_flat_until_its_critical_point(demo, texts):
    curves = truncation(*demo, texts, rules=["top_p", "random"], batch_size=32, **HOW)
    frame, critical = curves.frame(), curves.critical().set_index("rule")
    found = critical.loc["top_p"]
    kept = np.exp(-frame["delta_nll"])
    rows = frame["rule"] == "top_p"
    assert (kept[rows & (frame["sparsity"] <= found["critical_sparsity"])] >= 0.99).all()
    after = kept[rows & np.isclose(frame["sparsity"], found["fails_at"])]
    assert (after < 0.99).all()
    assert len(after) == 1
    assert found["critical_sparsity"] > frame["sparsity"][0]  # sparser than the exact zeros
    assert found["low"] <= found["critical_sparsity"] <= found["high"]
    assert critical.loc["random", "critical_sparsity"] < found["critical_sparsity"]


def planted(nll, kept, *, rules=None, untouched=None):
    """Curves with losses and kept neurons of our own; 10 tokens and one layer."""
    nll = torch.from_numpy(np.array(nll, dtype=np.float64))
    runs, groups = nll.shape
    return TruncationCurves(
        model="planted", n_tokens=10 * groups, unit="documents", seed=0, d_mlp=100,
        rules=tuple(rules or ["top_k"] * runs), levels=tuple(np.linspace(1, 0.1, runs)),
        parameters=torch.zeros(runs, 1, dtype=torch.float64),
        targets=torch.full((groups,), 10), nll_untouched=nll[0].clone(),
        hits_untouched=torch.full((groups,), 8),
        nll=nll, kl=nll - nll[0], hits=torch.full((runs, groups), 8),
        kept=torch.tensor(kept)[:, None] * 10 * groups,
    )  # fmt: skip


def test_critical_stops_at_the_first_failure():
    # The third level fails, so the fourth, which is good by luck, does not count.
    curves = planted([[20.0, 30.0], [20.05, 30.05], [21.0, 31.0], [20.0, 30.0]], [40, 20, 10, 5])
    row = curves.critical().iloc[0]
    assert row["critical_sparsity"] == pytest.approx(0.8)
    assert row["fails_at"] == pytest.approx(0.9)
    assert (row["low"], row["high"]) == pytest.approx((0.8, 0.8))
    assert curves.critical(of="accuracy").iloc[0]["critical_sparsity"] == pytest.approx(0.95)
    assert np.isnan(curves.critical(of="accuracy").iloc[0]["fails_at"])


def test_intervals_cover_what_documents_vary():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        deltas = generator.normal(0.5, 1.0, size=40)
        curves = planted([np.full(40, 20.0), 20.0 + deltas], [40, 20])
        row = curves.frame().iloc[1]
        covered += row["delta_nll_low"] <= 0.05 <= row["delta_nll_high"]
    assert 50 <= covered <= 60


def test_what_it_shows(curves):
    assert f"N = {int(curves.targets.sum()):,} predicted tokens" in curves.headline
    assert curves.headline in repr(curves)
    assert "<table" in curves._repr_html_()
    for figure in (curves.figure(), curves.figure(what="kl", dark=True)):
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_refusals(demo, texts, curves, tiny):
    with pytest.raises(ValueError, match="no rule is called 'top'; expected some of top_k"):
        truncation(*demo, texts, rules=["top"])
    with pytest.raises(ValueError, match="rules is empty"):
        truncation(*demo, texts, rules=[])
    with pytest.raises(ValueError, match=r"level 1.5 of top_k: expected shares"):
        truncation(*demo, texts, rules=["top_k"], levels={"top_k": (1.5,)}, **HOW)
    with pytest.raises(ValueError, match="predicts no next token"):
        truncation(tiny("token", vocab_size=len(demo[1])), demo[1], texts, rules=["top_k"])
    with pytest.raises(ValueError, match="no intervention chooses neurons as 'top_p'"):
        curves.interventions("top_p", 0.9)
    with pytest.raises(ValueError, match=r"top_k was not run at 0.5; expected one of "):
        curves.interventions("top_k", 0.5)
    with pytest.raises(ValueError, match="expected 'likelihood' or 'accuracy'"):
        curves.critical(of="loss")
    with pytest.raises(ValueError, match="expected 'delta_nll' or 'kl'"):
        curves.figure(what="loss")


def test_nan_losses_are_refused(tiny, demo, texts):
    model = tiny(vocab_size=len(demo[1]))
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(ValueError, match="own losses are NaN or infinite"):
        truncation(model, demo[1], texts, rules=["top_k"], **HOW)


def test_everything_is_put_back(demo, texts, curves, before):
    model, _ = demo
    assert hooks_of(model) == before
