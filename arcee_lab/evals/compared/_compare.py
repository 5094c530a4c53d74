"""`compare`: the same documents in two or more runs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from arcee_lab.bootstrap import interval
from arcee_lab.errors import SettingError, TaskError
from arcee_lab.evals.compared.aggregations import named_aggregation
from arcee_lab.evals.compared.comparison import Comparison, Difference
from arcee_lab.evals.compared.matching import match_documents
from arcee_lab.evals.compared.runs import EvaluatedRun
from arcee_lab.evals.compared.significance import bootstrap_p, holm, mcnemar
from arcee_lab.evals.metrics.redrawn import redrawn

DRAWS = 10_000  # so that a p-value can survive a correction for many tasks


def compare(
    base: EvaluatedRun,
    *runs: EvaluatedRun,
    names: Sequence[str] | None = None,
    documents: str = "same",
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compares runs with a base run, document by document.

    Documents are matched by lm-eval's hash of them. The interval is that of the difference: both
    runs are scored on the same redrawn documents (paired bootstrap). Metrics that are right or
    wrong per document get McNemar's exact test, all others a p-value of the bootstrap; all p-values
    of the comparison are corrected together by Holm's method. A group's difference is the mean of
    its tasks' differences, with an interval and without a p-value of its own.

    Args:
        base: An `Evaluation`: the run that the others are compared with.
        *runs: Other runs of the same tasks.
        names: A name per run, the base first; by default the names of the models.
        documents: "same": all runs must have the same documents of a task; "common": each run is
            compared on the documents that it shares with the base.
        draws: How often documents are redrawn.
        seed: Random seed of the draws.

    Raises:
        TaskError: No task or metric in common, or different documents.
        SettingError: No run to compare, a wrong number of names, or fewer than two draws.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> run = dict(tasks="arcee_demo_agreement_0", limit=20, progress=False)
        >>> before = al.evals.run(model, tokenizer, **run)
        >>> with_zeros = [al.Ablate("layers.2.mlp.hook_post")]
        >>> after = al.evals.run(model, tokenizer, interventions=with_zeros, **run)
        >>> before.compare(after).difference("arcee_demo_agreement_0", "acc").n
        20
    """
    if not runs:
        raise SettingError("There is no run to compare with the base; give at least one more.")
    if draws < 2:
        raise SettingError(f"draws is {draws}; expected at least 2.")
    labels = _names([base, *runs], names)
    found: list[Difference] = []
    skipped: list[str] = []
    pairs: dict[tuple[str, str, str], Any] = {}
    for name, run in zip(labels[1:], runs, strict=True):
        drawn: dict[tuple[str, str, str], np.ndarray] = {}
        singles: list[Difference] = []
        for score in base.scores:
            if score.members:
                continue
            reason = _reason(score, run)
            if reason:
                skipped.append(f"{name}: {score.task} {score.metric}: {reason}")
                continue
            key = (name, score.task, score.filter)
            if key not in pairs:
                pairs[key] = _pairs(base, run, score, documents, f"{labels[0]} and {name}")
            one, values = _difference(name, score, pairs[key], draws, seed)
            singles.append(one)
            drawn[score.task, score.metric, score.filter] = values
        if not singles:
            reasons = "; ".join(line for line in skipped if line.startswith(f"{name}: "))
            raise TaskError(
                f"{labels[0]} and {name} have no task and metric in common that can be compared "
                f"({reasons or 'the base run has no score'}); compare runs of the same tasks."
            )
        found += singles
        found += _groups(name, base, singles, drawn)
    corrected = holm([one.p for one in found])
    return Comparison(
        base=labels[0],
        runs=tuple(labels[1:]),
        differences=tuple(replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)),
        skipped=tuple(skipped),
        pairs=pairs,
    )


def _names(runs: Sequence[EvaluatedRun], names: Sequence[str] | None) -> list[str]:
    if names is not None:
        if len(names) != len(runs) or len(set(names)) != len(names):
            raise SettingError(
                f"names has {len(names)} names for {len(runs)} runs; expected a different one for "
                "each, the base first."
            )
        return list(names)
    plain = []
    for run in runs:
        changes = len(run.info.get("interventions") or [])
        plain.append(f"{run.model} ({changes} interventions)" if changes > 1 else run.model)
        if changes == 1:
            plain[-1] = f"{run.model} (1 intervention)"
    return [
        f"{name} #{plain[:at].count(name) + 1}" if plain.count(name) > 1 else name
        for at, name in enumerate(plain)
    ]


def _reason(score: Any, run: EvaluatedRun) -> str:
    """Why a score of the base cannot be compared; "" if it can."""
    theirs = [one for one in run.scores if one.task == score.task]
    if not theirs:
        return "the run has no such task"
    if not any((one.metric, one.filter) == (score.metric, score.filter) for one in theirs):
        return "the run has no such metric"
    if score.aggregation is None or named_aggregation(score.aggregation) is None:
        return "its task aggregates by a function of its own"
    return ""


def _pairs(
    base: EvaluatedRun, run: EvaluatedRun, score: Any, documents: str, who: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    mine, theirs = (
        [one for one in side.samples[score.task] if one["filter"] == score.filter]
        for side in (base, run)
    )
    found = match_documents(mine, theirs, documents=documents, where=f"{score.task}: {who}")
    return [(mine[a], theirs[b]) for a, b in found]


def _difference(
    run: str,
    score: Any,
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    draws: int,
    seed: int,
) -> tuple[Difference, np.ndarray]:
    """One metric, and what redrawing the documents makes of its difference."""
    aggregation = named_aggregation(score.aggregation or "")
    assert aggregation is not None
    before, after = ([side[at][score.metric] for side in pairs] for at in (0, 1))
    base, value = float(aggregation(before)), float(aggregation(after))
    # One seed: both runs are scored on the same redrawn documents.
    of_base, of_run = (
        redrawn(aggregation, items, draws=draws, seed=seed) for items in (before, after)
    )
    apart = redrawn(aggregation, after, draws=draws, seed=seed + 1)
    drawn = of_run - of_base
    low, high = interval(drawn).tolist()
    unpaired = interval(apart - of_base).tolist()
    gained = lost = None
    if _right_or_wrong(before, base) and _right_or_wrong(after, value):
        gained = sum(new > old for old, new in zip(before, after, strict=True))
        lost = sum(new < old for old, new in zip(before, after, strict=True))
    one = Difference(
        run=run,
        task=score.task,
        metric=score.metric,
        filter=score.filter,
        base=base,
        value=value,
        difference=value - base,
        low=low,
        high=high,
        n=len(pairs),
        p=bootstrap_p(drawn) if gained is None or lost is None else mcnemar(gained, lost),
        test="bootstrap" if gained is None else "McNemar",
        gained=gained,
        lost=lost,
        unpaired_low=unpaired[0],
        unpaired_high=unpaired[1],
        higher_is_better=score.higher_is_better,
        ceiling=score.ceiling,
    )
    return one, drawn


def _right_or_wrong(items: Sequence[Any], value: float) -> bool:
    """Whether a metric is the share of documents that are right."""
    if not all(isinstance(one, (bool, int, float)) and one in (0, 1) for one in items):
        return False
    return abs(value - sum(items) / len(items)) < 1e-9


def _groups(
    run: str,
    base: EvaluatedRun,
    singles: Sequence[Difference],
    drawn: dict[tuple[str, str, str], np.ndarray],
) -> Iterator[Difference]:
    """The differences of the base's groups whose tasks could all be compared."""
    known = {(one.task, one.metric, one.filter): one for one in singles}
    for group in base.scores:
        keys = [(task, group.metric, group.filter) for task in group.members]
        if not keys or len(group.weights) != len(keys) or any(key not in known for key in keys):
            continue
        members = [known[key] for key in keys]
        weights = np.array(group.weights)
        length = min(len(drawn[key]) for key in keys)
        together = weights @ np.stack([drawn[key][:length] for key in keys])
        low, high = interval(together).tolist()
        before = float(weights @ [one.base for one in members])
        after = float(weights @ [one.value for one in members])
        yield Difference(
            run=run,
            task=group.task,
            metric=group.metric,
            filter=group.filter,
            base=before,
            value=after,
            difference=after - before,
            low=low,
            high=high,
            n=sum(one.n for one in members),
            higher_is_better=group.higher_is_better,
            members=group.members,
            ceiling=group.ceiling,
        )
