"""Scores of units against scikit-learn and plain loops, and which scores may rank units."""

import math

import numpy as np
import pytest
from sklearn import metrics

from arcee_lab.bootstrap import weights
from arcee_lab.neurons.search import curves
from arcee_lab.neurons.search.shuffling import shuffled


def drawn(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Values with many zeros and ties, as ReLU² gives them, and labels that go with them."""
    source = np.random.default_rng(seed)
    values = np.round(np.maximum(source.normal(size=n), 0) ** 2, 1)
    truth = source.random(n) < 0.1 + 0.5 * (values > 0.5)
    truth[:2] = True, False
    return values, truth


@pytest.mark.parametrize("seed", range(8))
def test_scores_are_those_of_scikit_learn(seed):
    values, truth = drawn(seed)
    assert curves.auprc(values, truth) == pytest.approx(
        metrics.average_precision_score(truth, values)
    )
    assert curves.auroc(values, truth) == pytest.approx(metrics.roc_auc_score(truth, values))
    for threshold in (-1.0, 0.0, 0.35, 9.0):
        assert curves.f1(values, truth, threshold) == pytest.approx(
            metrics.f1_score(truth, values > threshold, zero_division=0)
        )


@pytest.mark.parametrize("seed", range(8))
def test_the_best_threshold_is_the_best_of_all(seed):
    values, truth = drawn(seed)
    cuts = [*np.unique(values), values.min() - 1]
    best = max(metrics.f1_score(truth, values > cut) for cut in cuts)
    threshold, score = curves.best_threshold(values, truth)
    assert score == pytest.approx(best)
    assert metrics.f1_score(truth, values > threshold) == pytest.approx(best)


def test_one_class_has_no_curve():
    assert math.isnan(curves.auroc(np.arange(3.0), np.ones(3, dtype=bool)))
    assert math.isnan(curves.auprc(np.arange(3.0), np.zeros(3, dtype=bool)))
    assert curves.f1(np.zeros(3), np.zeros(3, dtype=bool), 0.0) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_draws_are_the_scores_of_the_documents_drawn(seed):
    values, truth = drawn(seed)
    groups = np.repeat(np.arange(10), 6)
    f1 = curves.f1_draws(values, truth, 0.5, groups, seed=seed)
    auprc = curves.auprc_draws(values, truth, groups, seed=seed)
    drawn_often = np.concatenate(list(weights(10, seed=seed)))
    assert len(f1) == len(auprc) == len(drawn_often)
    for place in (0, 7, 500, 999):
        rows = np.repeat(np.arange(60), drawn_often[place][groups].astype(int))
        assert f1[place] == pytest.approx(curves.f1(values[rows], truth[rows], 0.5))
        assert auprc[place] == pytest.approx(
            metrics.average_precision_score(truth[rows], values[rows])
        )


# What ranks units must see that labels are missing or too many: Oikarinen et al., "Evaluating
# Neuron Explanations", arXiv:2506.05774. A unit fires exactly where a rare label holds; then 30 %
# of the label's tokens lose it, or as many others get it.
NOT_SEEN = 0.05  # a score that changes by less is not offered as a ranking


def change(score: str, *, excess: bool) -> float:
    """How much a score falls; means over 20 draws, whose spread is far below NOT_SEEN."""
    falls = []
    for seed in range(20):
        source = np.random.default_rng(seed)
        truth = source.random(4000) < 0.05
        unit = np.where(truth, 1 + source.random(4000), 0.0)
        given = truth.copy()
        if excess:
            others = np.flatnonzero(~truth)
            given[source.choice(others, int(0.3 * truth.sum()), replace=False)] = True
        else:
            given[source.choice(np.flatnonzero(truth), int(0.3 * truth.sum()), replace=False)] = (
                False
            )
        if score == "f1":
            falls.append(
                curves.best_threshold(unit, truth)[1] - curves.best_threshold(unit, given)[1]
            )
        else:
            of = getattr(curves, score)
            falls.append(of(unit, truth) - of(unit, given))
    return float(np.mean(falls))


@pytest.mark.parametrize("score", curves.RANKINGS)
@pytest.mark.parametrize("excess", [False, True])
def test_what_ranks_units_sees_missing_and_excessive_labels(score, excess):
    assert change(score, excess=excess) >= NOT_SEEN


def test_auroc_hardly_sees_missing_labels_and_is_not_offered():
    assert change("auroc", excess=False) < NOT_SEEN
    assert "auroc" not in curves.RANKINGS


# ---------------------------------------------------------------- shuffled labels


def runs(truth: np.ndarray) -> list[int]:
    """Lengths of the runs of True, in a circle."""
    turned = np.roll(truth, -int(np.argmin(truth)))  # begins with False, so no run is cut
    edges = np.diff(np.concatenate([[0], turned.astype(int), [0]]))
    return sorted((np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)).tolist())


def test_shuffled_labels_keep_their_runs():
    documents = np.repeat(np.arange(30), np.random.default_rng(1).integers(3, 9, 30))
    truth = np.zeros(len(documents), dtype=bool)
    starts = np.flatnonzero(np.diff(documents, prepend=-1))
    for place, start in enumerate(starts):  # runs inside documents that begin and end with False
        truth[start + 1 : start + 2 + place % 2] = documents[start] == documents[start + 1]
    ends = np.append(starts[1:], len(truth)) - 1
    truth[ends] = False
    found = [shuffled(truth, documents, np.random.default_rng(seed)) for seed in range(20)]
    assert all(runs(one) == runs(truth) for one in found)
    assert len({one.tobytes() for one in found}) == 20
    # Chance agreement: the share of the label, squared and summed over both classes.
    share = truth.mean()
    agree = np.mean([(one == truth).mean() for one in found])
    assert abs(agree - share**2 - (1 - share) ** 2) < 0.1
