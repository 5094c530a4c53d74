"""What an evaluation gives back: scores with intervals, the samples, and what it was of."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arcee_lab.errors import SettingError, TaskError
from arcee_lab.runs import storage


@dataclass(frozen=True)
class Score:
    """One metric of one task or group.

    Attributes:
        task: Name of the task or group.
        metric: Name of the metric.
        filter: lm-eval's filter; "none" mostly.
        value: The metric over all documents.
        low: Lower end of the 95 % bootstrap interval over documents.
        high: Upper end.
        n: Documents.
        ceiling: The best that can be reached, where it is known.
        higher_is_better: None where lm-eval does not say.
        members: Of a group the tasks that it averages.
    """

    task: str
    metric: str
    filter: str
    value: float
    low: float
    high: float
    n: int
    ceiling: float | None = None
    higher_is_better: bool | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The result of `al.evals.run`.

    Attributes:
        model: As it was asked for.
        scores: In the order of the tasks, groups last.
        samples: Task -> what lm-eval logs of each document and filter.
        info: Fingerprints, interventions, and how it was scored.
        settings: Few-shot examples by task, limit, seeds.
        seconds: Wall time of the requests.
        unfinished: Tasks that an interrupt or a failure left out, the first of them midway.
    """

    model: str
    scores: tuple[Score, ...]
    samples: dict[str, list[dict[str, Any]]] = field(repr=False)
    info: dict[str, Any] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    seconds: float
    unfinished: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """One row a task and metric."""
        columns = [one.name for one in fields(Score) if one.name != "members"]
        frame = pd.DataFrame([asdict(score) for score in self.scores], columns=columns)
        frame = frame.astype({"ceiling": float})
        return frame.drop(columns=["filter"]) if set(frame["filter"]) == {"none"} else frame

    def score(self, task: str, metric: str, filter: str = "none") -> Score:
        """One score.

        Raises:
            ValueError: There is none of that name.
        """
        for one in self.scores:
            if (one.task, one.metric, one.filter) == (task, metric, filter):
                return one
        have = [f"{one.task} {one.metric}" for one in self.scores]
        raise SettingError(f"There is no score {task!r} {metric!r}; have {', '.join(have)}.")

    def samples_frame(self, task: str) -> pd.DataFrame:
        """One row a document of a task: what was asked, answered and expected, and each metric.

        Raises:
            ValueError: The task was not run.
        """
        if task not in self.samples:
            raise SettingError(f"There are no samples of {task!r}; have {', '.join(self.samples)}.")
        rows = []
        for sample in self.samples[task]:
            first = sample["arguments"][0] if sample["arguments"] else ("",)
            rows.append(
                {
                    "doc_id": sample["doc_id"],
                    "filter": sample["filter"],
                    "prompt": first[0],
                    "target": sample["target"],
                    "answer": sample["filtered_resps"],
                }
                | {metric: sample[metric] for metric in sample["metrics"]}
            )
        return pd.DataFrame(rows)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `results.json`, `scores.csv`, and `samples_TASK.jsonl` for each task.

        Args:
            folder: A folder that exists. Each file is whole or absent, whatever happens.

        Returns:
            The files.
        """
        folder = Path(folder)
        told = {
            "model": self.model,
            "scores": [asdict(score) for score in self.scores],
            "info": self.info,
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
            "unfinished": list(self.unfinished),
        }
        files = [
            storage.write_json(folder / "results.json", plain(told)),
            storage.write_atomic(
                folder / "scores.csv", lambda path: self.frame().to_csv(path, index=False)
            ),
        ]
        for task, samples in self.samples.items():
            name = "".join(c if c.isalnum() or c in "-_." else "-" for c in task)
            lines = "".join(json.dumps(plain(one), ensure_ascii=False) + "\n" for one in samples)
            files.append(
                storage.write_atomic(
                    folder / f"samples_{name}.jsonl",
                    lambda path, lines=lines: Path(path).write_text(lines, encoding="utf-8"),
                )
            )
        return files

    @property
    def headline(self) -> str:
        """What was run, in one sentence."""
        changed = self.info.get("interventions") or []
        under = f" under {len(changed)} intervention{'s' * (len(changed) > 1)}" if changed else ""
        left = f"; ended before {', '.join(self.unfinished)}" if self.unfinished else ""
        tasks = len(self.samples)
        return (
            f"{self.model}{under}: {tasks} task{'s' * (tasks != 1)} in {self.seconds:.1f} s, 95 % "
            f"bootstrap intervals over documents{left}"
        )

    def __repr__(self) -> str:
        return f"Evaluation({self.headline})\n{table(self.scores)}"

    def _repr_html_(self) -> str:
        cells = ["task", "metric", "score", "95 %", "ceiling", "n"]
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in cells)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(score)) + "</tr>"
            for score in self.scores
        )
        return f"<p>{escape(self.headline)}.</p><table><tr>{head}</tr>{rows}</table>"


class TaskFailed(TaskError):
    """A task could not be scored; what was done before it is kept.

    Attributes:
        result: Of `al.evals.run` the tasks that were done; of `al.evals.sweep` the whole levels.
    """

    def __init__(self, message: str, result: Any):
        super().__init__(message)
        self.result = result

    @classmethod
    def of(cls, task: str, error: Exception, result: Evaluation) -> "TaskFailed":
        """Names the task, and in a traceback where the rest lies."""
        told = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        head = f"Task {task!r}"
        failed = cls(told if told.startswith(head) else f"{head}: {told}", result)
        if result.samples:
            done = ", ".join(result.samples)
            failed.add_note(f"The tasks that are done ({done}) lie in `result` of this error.")
        return failed


def table(scores: Sequence[Score]) -> str:
    """Scores as lines of text."""
    lines = [("task", "metric", "score", "95 %", "ceiling", "n"), *map(_cells, scores)]
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    shown = []
    for line in lines:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def _cells(score: Score) -> tuple[str, ...]:
    from arcee_lab.views.html import number

    metric = score.metric if score.filter == "none" else f"{score.metric}, {score.filter}"
    worse = score.higher_is_better is False
    return (
        f"{score.task} (of {len(score.members)})" if score.members else score.task,
        f"{metric} ↓" if worse else metric,
        number(score.value, aligned=True),
        f"{number(score.low, aligned=True)} – {number(score.high, aligned=True)}",
        "" if score.ceiling is None else number(score.ceiling, aligned=True),
        f"{score.n:,}",
    )


def plain(value: Any) -> Any:
    """A value as JSON has it: no NaN, no functions, no numpy."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
