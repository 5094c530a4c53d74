"""The simulation of coverage: its true values, and that 95 % intervals hold them."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUNS = 1000
# Five standard errors of a share of .95 in that many runs, and what a percentile bootstrap of 300
# documents lacks (its ends are about a quarter of a percent too narrow on each side).
SLACK = 5 * (0.95 * 0.05 / RUNS) ** 0.5 + 0.005


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import coverage_of_intervals as benchmark

    yield benchmark
    for name in ("coverage_of_intervals", "results", "paired"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("number", range(4))
def test_intervals_hold_the_true_value(benchmark, number):
    case = benchmark.cases()[number]
    held, width = benchmark.coverage(case, documents=300, runs=RUNS)
    assert held == pytest.approx(0.95, abs=SLACK)
    assert width > 0
    # A wrong truth, one width away, is held by few: the simulation can fail.
    wrong = benchmark.Case(case.name, case.truth + width, case.draw, case.metric, case.bounds)
    assert benchmark.coverage(wrong, documents=300, runs=100)[0] < 0.2


def test_true_values_are_those_of_very_many_documents(benchmark):
    generator = np.random.default_rng(5)
    for case in benchmark.cases():
        items = case.draw(generator, 200_000)
        # The standard error of such a mean is below .005 of these values.
        sums = case.metric.moments(items).sum(axis=0, keepdims=True)
        assert case.metric.value(sums) == pytest.approx(case.truth, rel=0.02), case.name
    pairs = np.array(benchmark._labels(benchmark.CONFUSION)(generator, 100_000))
    expected = f1_score(pairs[:, 0], pairs[:, 1], average="macro")
    assert benchmark.macro_f1(benchmark.CONFUSION) == pytest.approx(expected, rel=0.02)


def test_pairing_narrows_the_interval_of_a_difference(benchmark):
    held, paired, unpaired = benchmark.paired_coverage(documents=300, runs=RUNS)
    assert held == pytest.approx(0.95, abs=SLACK)
    # The variance of a difference of shares by hand: with pairs only where the two runs differ.
    _, lost, gained, _ = benchmark.BOTH
    spread = (gained + lost - (gained - lost) ** 2) / 300
    first, second = benchmark.BOTH[:2].sum(), benchmark.BOTH[0] + gained
    apart = (first * (1 - first) + second * (1 - second)) / 300
    assert paired / unpaired == pytest.approx((spread / apart) ** 0.5, rel=0.03)
