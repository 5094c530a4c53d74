"""Co-activation by counting pairs one by one; experts on planted groups."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slowly import CONTEXT, dense

from arcee_lab.demo import documents
from arcee_lab.sparsity.sampled.coactivation import CoActivationResult, coactivation
from arcee_lab.sparsity.sampled.sample import draw

HOW = {"sample_tokens": 130, "context": CONTEXT, "seed": 5}


@pytest.fixture(scope="module")
def texts():
    return [document.text for document in documents(n=40, seed=2, split="test")]


def of(fired, held_out=None):
    fired = torch.as_tensor(fired, dtype=torch.bool)
    held = torch.arange(len(fired)) % 2 == 1 if held_out is None else held_out
    return CoActivationResult("planted", 0, torch.arange(fired.shape[1]), fired, held, 0)


@settings(max_examples=25)
@given(
    tokens=st.integers(2, 12), neurons=st.integers(2, 6), p=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_measures_are_their_formulas(tokens, neurons, p, seed):
    rng = np.random.default_rng(seed)
    fired = rng.random((tokens, neurons)) < p
    result = of(fired)
    for i in range(neurons):
        for j in range(neurons):
            both = sum(bool(row[i] and row[j]) for row in fired)
            ci, cj = int(fired[:, i].sum()), int(fired[:, j].sum())
            assert int(result.counts[i, j]) == both
            spread = math.sqrt(ci * (tokens - ci) * cj * (tokens - cj))
            phi = float(result.measure("phi")[i, j])
            if spread:
                assert phi == pytest.approx((tokens * both - ci * cj) / spread)
                assert phi == pytest.approx(np.corrcoef(fired[:, i], fired[:, j])[0, 1])
            else:
                assert math.isnan(phi)
            if both:
                assert float(result.measure("pmi")[i, j]) == pytest.approx(
                    math.log2(tokens * both / (ci * cj))
                )
            if ci or cj:
                assert float(result.measure("jaccard")[i, j]) == pytest.approx(
                    both / (ci + cj - both)
                )


def test_fired_is_what_the_reference_fires(demo, texts):
    result = coactivation(*demo, texts, 2, batch_size=16, **HOW)
    _, a = dense(demo[0], draw(*demo, texts, **HOW))
    expected = (a[2] > 0).long()
    assert torch.equal(result.counts, expected.T @ expected)
    assert 0 < int(result.held_out.sum()) < len(result.fired) == a.shape[1]


def test_planted_groups_are_found_and_cover_a_token():
    generator = torch.Generator().manual_seed(0)
    group = torch.randperm(40, generator=generator) % 4
    which = torch.randint(4, (400,), generator=generator)
    fired = (group[None] == which[:, None]) & (torch.rand(400, 40, generator=generator) < 0.7)
    result = of(fired)
    experts = result.experts(4)
    for expert in range(4):
        assert len(group[experts == expert].unique()) == 1
    table = result.coverage(4).set_index("experts")
    assert table.loc["fire together", "needed"] == 1.0
    assert table.loc["random", "needed"] > 2.5
    assert table.loc["random", "n_tokens"] <= 200


def test_coverage_counts_experts_token_by_token():
    rng = np.random.default_rng(1)
    result = of(rng.random((60, 12)) < 0.3)
    groups = result.experts(5)
    assert torch.bincount(groups).max() - torch.bincount(groups).min() <= 1
    needed = []
    for row in result.fired[result.held_out]:
        if row.any():
            sizes = sorted((int(row[groups == e].sum()) for e in range(5)), reverse=True)
            needed.append(
                next(e for e in range(1, 6) if sum(sizes[:e]) >= 0.9 * int(row.sum()) - 1e-9)
            )
    assert result.coverage(5).iloc[0]["needed"] == pytest.approx(np.mean(needed))


def test_dead_neurons_and_constant_ones_have_a_place():
    fired = np.zeros((20, 6), bool)
    fired[:, 1] = True
    fired[::3, 2] = fired[::3, 3] = True
    result = of(fired)
    assert sorted(torch.bincount(result.experts(3)).tolist()) == [2, 2, 2]
    assert len(result.frame(least=0)) == 15
    assert list(result.frame(most=1, least=1)[["unit_a", "unit_b"]].iloc[0]) == [2, 3]
    assert len(result.frame(least=21)) == 0
    assert result.figure()._repr_png_().startswith(b"\x89PNG")


def test_wide_layers_are_sketched(demo, texts, monkeypatch):
    # The package's attribute of that name is the function.
    monkeypatch.setattr(sys.modules["arcee_lab.sparsity.sampled.coactivation"], "SKETCH", 50)
    one = coactivation(*demo, texts, 0, **HOW)
    assert len(one.neurons.unique()) == 50
    whole = coactivation(*demo, texts, 0, neurons=range(896), **HOW)
    assert torch.equal(one.counts, whole.counts[one.neurons][:, one.neurons])


def test_says_its_n_and_refuses(demo, texts):
    result = coactivation(*demo, texts, 1, **HOW)
    assert f"N = {len(result.fired):,} tokens" in repr(result)
    assert (result.frame(5)["together"] >= result.frame(5)["by_chance"]).all()
    with pytest.raises(ValueError, match="layer is 4; expected 0 to 3"):
        coactivation(*demo, texts, 4)
    with pytest.raises(ValueError, match="expected two or more different ones from 0 to 895"):
        coactivation(*demo, texts, 1, neurons=[3, 3])
    with pytest.raises(ValueError, match="make one window"):
        coactivation(*demo, ["The dogs sleep ."], 1)
    with pytest.raises(ValueError, match="expected one of phi, pmi, jaccard"):
        result.measure("cosine")
    with pytest.raises(ValueError, match=r"experts\(0\): expected from 1 to 896"):
        result.experts(0)
