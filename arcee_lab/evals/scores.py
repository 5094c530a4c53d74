"""Scores of tasks and of groups, each with the values that redrawing its documents gives."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean, mean_stderr

from arcee_lab.bootstrap import interval
from arcee_lab.errors import TaskError
from arcee_lab.evals.compared.aggregations import aggregation_name
from arcee_lab.evals.metrics.redrawn import redrawn
from arcee_lab.evals.result import Score

BYPASS = "bypass"  # lm-eval's metric where only answers are wanted


def task_scores(
    name: str,
    task: Any,
    samples: list[dict[str, Any]],
    results: dict[str, Any],
    draws: int,
    seed: int,
    skipped: int = 0,
) -> Iterator[tuple[Score, np.ndarray]]:
    """Each metric of a task, with what redrawing its documents gives.

    Args:
        name: The task.
        task: lm-eval's.
        samples: What lm-eval logged for each document and filter.
        results: What lm-eval says of the task.
        draws: Of the bootstrap.
        seed: Of the draws.
        skipped: Documents that could not be scored.
    """
    ceilings = (task.get_config("metadata") or {}).get("ceilings") or {}
    better = task.higher_is_better() or {}
    for filter_name in dict.fromkeys(sample["filter"] for sample in samples):
        mine = [sample for sample in samples if sample["filter"] == filter_name]
        for metric in mine[0]["metrics"]:
            value = results.get(f"{metric},{filter_name}")
            if metric == BYPASS or not isinstance(value, (int, float, np.number)):
                continue  # lm-eval has no number for it either
            items = [sample[metric] for sample in mine]
            drawn = redrawn(task.aggregation()[metric], items, draws=draws, seed=seed)
            given = ceilings.get(metric)
            ceiling: Any = given() if callable(given) else given
            low, high = interval(drawn).tolist()
            yield (
                Score(
                    task=name,
                    metric=metric,
                    filter=filter_name,
                    value=float(value),
                    low=low,
                    high=high,
                    n=len(items),
                    ceiling=None if ceiling is None else float(ceiling),
                    higher_is_better=better.get(metric),
                    aggregation=aggregation_name(task.aggregation()[metric]),
                    stderr=_stderr(task.aggregation()[metric], items, drawn),
                    n_skipped=skipped,
                ),
                drawn,
            )


def _stderr(aggregation: Any, items: Sequence[Any], drawn: np.ndarray) -> float:
    """The standard error of a metric: exact for a mean, as in lm-eval, else bootstrapped."""
    if len(items) < 2:
        return float("nan")
    if aggregation is mean:
        return float(mean_stderr(items))
    return float(np.std(drawn, ddof=1)) if len(drawn) > 1 else float("nan")


def require_means(group: Any) -> None:
    """Before any task is run: an error at the end would cost all of them."""
    if any(wanted.aggregation != "mean" for wanted in group.aggregate_metric_list or ()):
        raise TaskError(
            f"Group {group.name!r} aggregates by a function of its own; expected 'mean'."
        )


def group_scores(
    group: Any, scores: Sequence[Score], values: dict[tuple[str, str, str], np.ndarray]
) -> list[Score]:
    """A group's mean over its tasks, as its file asks for it, with documents redrawn in each."""
    names = {task.config.task for task in group.get_all_tasks()}
    found = []
    for wanted in group.aggregate_metric_list or ():
        mine = [
            s for s in scores if s.task in names and s.metric == wanted.metric and not s.members
        ]
        for filter_name in wanted.filter_list or dict.fromkeys(score.filter for score in mine):
            members = [score for score in mine if score.filter == filter_name]
            if not members:
                continue
            weights = np.array([s.n if wanted.weight_by_size else 1 for s in members], dtype=float)
            weights /= weights.sum()
            drawn = [values[s.task, s.metric, s.filter] for s in members]
            together = weights @ np.stack([d[: min(map(len, drawn))] for d in drawn])
            low, high = interval(together).tolist()
            found.append(
                Score(
                    task=group.name,
                    metric=wanted.metric,
                    filter=filter_name,
                    value=float(weights @ [score.value for score in members]),
                    low=low,
                    high=high,
                    n=sum(score.n for score in members),
                    ceiling=None
                    if None in (best := [score.ceiling for score in members])
                    else float(weights @ np.array(best, dtype=float)),
                    higher_is_better=members[0].higher_is_better,
                    members=tuple(score.task for score in members),
                    weights=tuple(weights.tolist()),
                    stderr=float(np.std(together, ddof=1)) if len(together) > 1 else float("nan"),
                    n_skipped=sum(score.n_skipped for score in members),
                )
            )
    return found
