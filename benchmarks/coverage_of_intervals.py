"""Do 95 % intervals hold the truth in 95 % of runs, and how much does pairing narrow them?

    python3 run.py bench coverage_of_intervals

Coverage: documents are drawn from a known distribution, so the true value of each metric is known
without an estimate. The interval is the one that `al.evals.run` and `al.evals.compare` give: the
same metrics, draws and seed. Widths: a sweep of the demo, each level against the clean run.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from results import RESULTS, write_section

from arcee_lab.bootstrap import DRAWS, interval, resamples
from arcee_lab.evals import metrics
from arcee_lab.evals.metrics.aggregation import Aggregation
from arcee_lab.evals.metrics.redrawn import _KNOWN as LM_EVALS

RUNS = 10_000
TASKS = ["arcee_demo_agreement_1", "arcee_demo_facts", "arcee_demo_text_news"]
_AT_ONCE = 250  # runs whose sums are redrawn by one product
# Right label by given label: three labels, unequal and with unequal errors.
CONFUSION = np.array([[0.42, 0.05, 0.03], [0.06, 0.20, 0.04], [0.02, 0.05, 0.13]])
HITS = np.array([[0.55, 0.10], [0.09, 0.26]])  # two labels
RIGHT = 0.7
# Of two runs: both right, only the first, only the second, none.
BOTH = np.array([0.62, 0.08, 0.12, 0.18])
WORDS = (5, 60)  # of a document, uniformly
NATS, SPREAD = 2.2, 0.6  # per word, and the standard deviation of a document's mean


@dataclass(frozen=True)
class Case:
    """A metric whose true value is known.

    Attributes:
        name: Shown.
        truth: Its value over all documents that there could be.
        draw: Generator and number of documents -> items.
        metric: The metric.
        bounds: What the coverage of 500 documents shall be within, in per cent.
    """

    name: str
    truth: float
    draw: Callable[[np.random.Generator, int], Sequence]
    metric: Aggregation
    bounds: tuple[float, float]


def _labels(table: np.ndarray) -> Callable[[np.random.Generator, int], Sequence]:
    size = len(table)

    def draw(generator: np.random.Generator, n: int) -> Sequence:
        cells = generator.choice(size * size, size=n, p=table.ravel())
        return list(zip((cells // size).tolist(), (cells % size).tolist(), strict=True))

    return draw


def _texts(generator: np.random.Generator, n: int) -> Sequence:
    words = generator.integers(WORDS[0], WORDS[1] + 1, size=n)
    return list(zip(words * generator.normal(NATS, SPREAD, size=n), words, strict=True))


def macro_f1(table: np.ndarray) -> float:
    """Of a joint distribution of right and given labels, by hand."""
    hits = np.diag(table)
    return float((2 * hits / (table.sum(0) + table.sum(1))).mean())


def cases() -> list[Case]:
    """The metrics; a true value is a formula, never an estimate."""
    binary = 2 * HITS[1, 1] / (HITS[1].sum() + HITS[:, 1].sum())
    return [
        Case(
            "accuracy",
            RIGHT,
            lambda generator, n: (generator.random(n) < RIGHT).astype(float).tolist(),
            metrics.acc,
            (94, 96),
        ),
        Case(
            "macro-F1, 3 labels",
            macro_f1(CONFUSION),
            _labels(CONFUSION),
            metrics.macro_f1,
            (93, 97),
        ),
        Case("F1, 2 labels", float(binary), _labels(HITS), LM_EVALS["f1_score"], (93, 97)),
        # Words and nats per word are independent, so the ratio of the means is NATS.
        Case("word perplexity", float(np.exp(NATS)), _texts, metrics.word_perplexity, (93, 97)),
    ]


def coverage(case: Case, *, documents: int, runs: int, seed: int = 0) -> tuple[float, float]:
    """The share of runs whose interval holds the true value, and the mean width.

    Args:
        case: The metric.
        documents: Per run.
        runs: How many runs are drawn.
        seed: Of the documents; the bootstrap has the seed of `al.evals.run`.
    """
    generator = np.random.default_rng(seed)
    weights = resamples(documents, draws=DRAWS, seed=0).T  # the draws of every run, as its seed is
    held, width = 0, 0.0
    for start in range(0, runs, _AT_ONCE):
        count = min(_AT_ONCE, runs - start)
        moments = [case.metric.moments(case.draw(generator, documents)) for _ in range(count)]
        size = max(one.shape[1] for one in moments)
        if any(one.shape[1] != size for one in moments):  # a label that no document has
            sums = [weights @ one for one in moments]
        else:
            sums = np.moveaxis(
                (weights @ np.concatenate(moments, 1)).reshape(-1, count, size), 1, 0
            )
        low, high = interval(np.stack([case.metric.value(one) for one in sums]))
        held += int(((low <= case.truth) & (case.truth <= high)).sum())
        width += float((high - low).sum())
    return held / runs, width / runs


def paired_coverage(*, documents: int, runs: int, seed: int = 0) -> tuple[float, float, float]:
    """Of a difference of two accuracies on the same documents.

    Returns:
        The share of paired intervals that hold the true difference, the mean width of a paired
        interval, and of one that ignores that the documents are the same.
    """
    generator = np.random.default_rng(seed)
    truth = BOTH[2] - BOTH[1]
    same = resamples(documents, draws=DRAWS, seed=0).T / documents
    other = resamples(documents, draws=DRAWS, seed=1).T / documents
    held, paired, unpaired = 0, 0.0, 0.0
    for start in range(0, runs, _AT_ONCE):
        count = min(_AT_ONCE, runs - start)
        cells = generator.choice(4, size=(documents, count), p=BOTH)
        before, after = (cells <= 1).astype(float), ((cells == 0) | (cells == 2)).astype(float)
        low, high = interval((same @ (after - before)).T)
        apart = interval((other @ after - same @ before).T)
        held += int(((low <= truth) & (truth <= high)).sum())
        paired += float((high - low).sum())
        unpaired += float((apart[1] - apart[0]).sum())
    return held / runs, paired / runs, unpaired / runs


def coverage_table(runs: int) -> list[str]:
    """Coverage at 500 and at 50 documents."""
    lines = [
        "### Coverage",
        "",
        f"Runs of documents from a known distribution: {runs:,} for each cell. Coverage at 50 "
        "documents is reported as it is, without a target.",
        "",
        "| metric | true value | 500 documents | target | | 50 documents | mean width, 500 |",
        "|---|---:|---:|---|---|---:|---:|",
    ]
    for case in cases():
        many, width = coverage(case, documents=500, runs=runs)
        few, _ = coverage(case, documents=50, runs=runs)
        low, high = case.bounds
        verdict = "pass" if low <= 100 * many <= high else "MISS"
        lines.append(
            f"| {case.name} | {case.truth:.4f} | {many:.2%} | {low} to {high} % | {verdict} "
            f"| {few:.2%} | {width:.4f} |"
        )
    many, width, apart = paired_coverage(documents=500, runs=runs)
    few, _, _ = paired_coverage(documents=50, runs=runs)
    verdict = "pass" if 0.94 <= many <= 0.96 else "MISS"
    lines.append(
        f"| difference of two accuracies, paired | {BOTH[2] - BOTH[1]:.4f} | {many:.2%} "
        f"| 94 to 96 % | {verdict} | {few:.2%} | {width:.4f} (unpaired {apart:.4f}) |"
    )
    return lines


def sweep_table(limit: int) -> list[str]:
    """Widths of paired and unpaired intervals of a sweep of the demo."""
    import arcee_lab as al
    from arcee_lab.evals.sweep_levels import top_k

    model, tokenizer = al.load("demo")
    levels = top_k(model, [256, 128, 64, 32, 16, 8])
    swept = al.evals.sweep(
        model, tokenizer, tasks=TASKS, levels=levels, limit=limit, progress=False
    )
    lines = [
        "### Paired and unpaired intervals of a sweep",
        "",
        f"The demo with the k largest neurons per token and layer, next to the clean run; at most "
        f"{limit} documents per task. Width of the 95 % interval of the difference.",
        "",
        "| task | metric | k | difference | paired | unpaired | paired / unpaired |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    ratios = []
    for one in swept.comparison.differences:
        paired, unpaired = one.high - one.low, one.unpaired_high - one.unpaired_low
        if not unpaired:
            continue
        ratios.append(paired / unpaired)
        lines.append(
            f"| {one.task} | {one.metric} | {one.run} | {one.difference:+.4f} | {paired:.4f} "
            f"| {unpaired:.4f} | {ratios[-1]:.2f} |"
        )
    narrower = sum(ratio < 1 for ratio in ratios)
    lines += [
        "",
        f"Median ratio {np.median(ratios):.2f}; paired is narrower in {narrower} of {len(ratios)}.",
    ]
    return lines


def main(words: Sequence[str] | None = None) -> int:
    """Simulates, sweeps, and writes the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    body = ["\n".join(coverage_table(args.runs)), "\n".join(sweep_table(args.limit))]
    write_section(
        "Intervals of evaluations: coverage and pairing",
        body,
        command="python3 run.py bench coverage_of_intervals",
        method=f"simulation with known true values; percentile bootstrap over documents with "
        f"{DRAWS:,} draws, as shipped. No clock.",
        packages=("numpy", "lm_eval"),
        path=args.out,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
