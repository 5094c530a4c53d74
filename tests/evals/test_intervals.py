"""Intervals by redrawing documents: against a loop, against the normal law, for any metric."""

import numpy as np
import pytest
from lm_eval.api import metrics as theirs

from arcee_lab.bootstrap import interval
from arcee_lab.evals import metrics
from arcee_lab.evals.metrics.redrawn import redrawn

SOURCE = np.random.default_rng(0)
PAIRS = [(int(a), int(b)) for a, b in SOURCE.integers(0, 2, size=(60, 2))]
SUMS = [(-float(a), float(b)) for a, b in SOURCE.uniform(1, 9, size=(60, 2))]


@pytest.mark.parametrize(
    ("aggregation", "items"),
    [
        (metrics.acc, [float(a == b) for a, b in PAIRS]),
        (metrics.macro_f1, PAIRS),
        (metrics.mcc, PAIRS),
        (metrics.ece, [(0.5 + abs(a) % 0.5, float(b > 5)) for a, b in SUMS]),
        (metrics.entity_f1, [(1, 2, 3), (2, 2, 2), (0, 1, 1)] * 9),
        (theirs.mean, [float(a) for a, _ in SUMS]),
        (theirs.perplexity, [a / 9 for a, _ in SUMS]),
        (theirs.weighted_perplexity, SUMS),
        (theirs.bits_per_byte, SUMS),
        (theirs.f1_score, PAIRS),
        (theirs.matthews_corrcoef, PAIRS),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_each_draw_is_the_metric_of_those_documents(aggregation, items):
    got = redrawn(aggregation, items, draws=20, seed=3)
    picks = np.random.default_rng(3).integers(len(items), size=(20, len(items)))
    expected = [aggregation([items[i] for i in pick]) for pick in picks]
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_an_accuracy_has_the_width_of_the_normal_law():
    items = [1.0] * 300 + [0.0] * 100
    low, high = interval(redrawn(metrics.acc, items, draws=4000))
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - half, abs=0.01)
    assert high == pytest.approx(0.75 + half, abs=0.01)


def test_a_function_that_is_no_sum_is_called():
    values = redrawn(lambda items: sorted(items)[len(items) // 2], [1, 2, 3, 4, 5], draws=1000)
    assert len(values) == 200
    assert set(values) <= {1, 2, 3, 4, 5}


def test_draws_in_pieces_are_the_same(monkeypatch):
    from arcee_lab import bootstrap

    whole = redrawn(metrics.acc, [1.0, 0.0, 1.0], draws=50)
    monkeypatch.setattr(bootstrap, "_CELLS", 10)
    np.testing.assert_array_equal(redrawn(metrics.acc, [1.0, 0.0, 1.0], draws=50), whole)
