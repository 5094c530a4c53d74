"""The result of an evaluation: scores with intervals, the samples, and how they were made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from arcee_lab.errors import UnknownName
from arcee_lab.evals.compared.saved import read_saved, samples_file
from arcee_lab.evals.files.lm_eval_shape import as_results
from arcee_lab.evals.files.writing import write_lm_eval_layout, write_results, write_samples
from arcee_lab.evals.scoring.unscorable import SkippedDocument
from arcee_lab.results import Result, counted
from arcee_lab.runs import storage

if TYPE_CHECKING:
    from arcee_lab.evals.compared.comparison import Comparison
    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True)
class Score:
    """One metric of one task or group.

    Attributes:
        task: Name of the task or group.
        metric: Name of the metric.
        filter: lm-eval's filter; mostly "none".
        value: The metric over all documents.
        low: Lower end of the 95 % bootstrap interval over documents.
        high: Upper end.
        n: Documents.
        ceiling: The best possible value, if it is known.
        higher_is_better: None where lm-eval does not say.
        members: For a group, the tasks that it averages.
        weights: For a group, the weight of each of them.
        aggregation: Name of the function that makes the value from all documents; None if the task
            has one of its own, which a comparison of runs cannot redraw.
        stderr: Standard error: lm-eval's formula for a mean, else the standard deviation of the
            redrawn values; NaN if it is not known.
        n_skipped: Documents that could not be scored, besides the `n`.
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
    weights: tuple[float, ...] = ()
    aggregation: str | None = None
    stderr: float = math.nan
    n_skipped: int = 0


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """The result of `al.evals.run`.

    Attributes:
        model: Its name.
        scores: In the order of the tasks, groups last.
        samples: Task -> what lm-eval logs for each document and filter.
        info: Fingerprints, interventions, and how the requests were scored.
        settings: Few-shot examples by task, limit, seeds.
        seconds: Wall time of the requests.
        unfinished: Tasks that were not finished because of an interrupt or a failure.
        skipped: Documents that could not be scored, each with the reason.
        facts: What lm-eval's results file says besides scores: of tasks, groups and the run.
    """

    model: str
    scores: tuple[Score, ...]
    samples: dict[str, list[dict[str, Any]]] = field(repr=False)
    info: dict[str, Any] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    seconds: float
    unfinished: tuple[str, ...] = ()
    skipped: tuple[SkippedDocument, ...] = field(default=(), repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    def frame(self) -> pd.DataFrame:
        """The scores as a table, one row per task and metric."""
        hidden = ("members", "weights", "aggregation")
        columns = [one.name for one in fields(Score) if one.name not in hidden]
        frame = pd.DataFrame([asdict(score) for score in self.scores], columns=columns)
        frame = frame.astype({"ceiling": float})
        return frame.drop(columns=["filter"]) if set(frame["filter"]) == {"none"} else frame

    def score(self, task: str, metric: str, filter: str = "none") -> Score:
        """One score.

        Args:
            task: Name of the task or group.
            metric: Name of the metric.
            filter: lm-eval's filter.

        Raises:
            UnknownName: There is no such score.
        """
        for one in self.scores:
            if (one.task, one.metric, one.filter) == (task, metric, filter):
                return one
        have = [f"{one.task} {one.metric}" for one in self.scores]
        raise UnknownName(
            f"There is no score {task!r} {metric!r}; expected one of {', '.join(have)}."
        )

    def samples_frame(self, task: str) -> pd.DataFrame:
        """The samples of a task: prompt, answer, target and each metric, one row per document.

        Args:
            task: Name of the task.

        Raises:
            UnknownName: The task was not run.
        """
        if task not in self.samples:
            raise UnknownName(
                f"There are no samples of {task!r}; expected one of {', '.join(self.samples)}."
            )
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

    def to_lm_eval(self) -> dict[str, Any]:
        """What lm-eval's `simple_evaluate` returns: the same keys, for code written for it.

        Standard errors are ours: see `Score.stderr`. "samples" are lm-eval's too.
        """
        found = as_results(self.scores, self.samples, self.facts, model=self.model)
        return found | {"samples": self.samples}

    def figure(self, *, dark: bool = False) -> "Figure":
        """The first score of each task with its interval, and the ceiling where there is one.

        Args:
            dark: For a dark page.
        """
        from arcee_lab.views.figures.forest import Row, interval_rows

        panels: dict[str, list[Row]] = {}
        seen = set()
        for one in self.scores:
            if one.task not in seen:
                seen.add(one.task)
                ceiling = float("nan") if one.ceiling is None else one.ceiling
                row = Row(one.task, one.value, one.low, one.high, ceiling=ceiling)
                panels.setdefault(one.metric, []).append(row)
        return interval_rows(list(panels.items()), title=self._finding(panels), dark=dark)

    def _finding(self, panels: Mapping[str, Sequence[Any]]) -> str:
        """How many tasks reach their ceiling; without ceilings, the best and the worst."""
        from arcee_lab.views.html import number

        rows = [row for one in panels.values() for row in one]
        n = max((one.n for one in self.scores), default=0)
        known = [row for row in rows if not math.isnan(row.ceiling)]
        if known:
            there = sum(row.low <= row.ceiling <= row.high for row in known)
            tasks = counted(len(known), "task")
            said = f"{there} of {tasks} with a known ceiling reach it within their interval"
        elif rows:
            metric, first = next(iter(panels.items()))
            least, most = (pick(first, key=lambda row: row.value) for pick in (min, max))
            low, high = (f"{number(row.value)} ({row.label})" for row in (least, most))
            said = f"{metric} from {low} to {high}" if len(first) > 1 else f"{metric} {high}"
        else:
            said = "no task"
        return f"{self.model}: {said} (N up to {counted(n, 'document')})"

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `results.json`, `scores.csv`, `report.html`, and `samples_TASK.jsonl` per task.

        `results.json` and the samples have lm-eval's keys. `results.json` adds ours: `model`,
        `scores` with intervals and ceilings, `info`, `settings`, `seconds`, `unfinished` and
        `skipped`.

        Args:
            folder: A folder that exists. Each file is whole or absent, whatever happens.

        Returns:
            The files.
        """
        from arcee_lab.evals.pages.run_page import run_page

        folder = Path(folder)
        ours = {
            "model": self.model,
            "scores": [asdict(score) for score in self.scores],
            "info": self.info,
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
            "unfinished": list(self.unfinished),
            "skipped": [one._asdict() for one in self.skipped],
        }
        results = as_results(self.scores, self.samples, self.facts, model=self.model)
        return [
            write_results(folder, results | ours),
            storage.write_atomic(
                folder / "scores.csv", lambda path: self.frame().to_csv(path, index=False)
            ),
            storage.write_atomic(folder / "report.html", run_page(self)),
            *(write_samples(folder / samples_file(task), of) for task, of in self.samples.items()),
        ]

    def save_as_lm_eval(self, folder: str | Path) -> list[Path]:
        """Writes `MODEL/results_DATE.json` and `MODEL/samples_TASK_DATE.jsonl`.

        These are the names that `lm-eval run --output_path FOLDER --log_samples` gives its files.

        Args:
            folder: Is created if it is missing.

        Returns:
            The files.
        """
        results = as_results(self.scores, self.samples, self.facts, model=self.model)
        return write_lm_eval_layout(Path(folder), results, self.samples)

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Reads what `save` wrote, e.g. the `--out` of `arcee-lab eval`.

        Args:
            folder: The folder.

        Raises:
            FileError: No evaluation is there.
            SavedDamaged: A file is damaged, or was written by an older version.
        """
        return cls(**read_saved(folder, Score))

    def compare(
        self,
        *others: "Evaluation",
        names: Sequence[str] | None = None,
        documents: str = "same",
        draws: int | None = None,
        seed: int = 0,
    ) -> "Comparison":
        """Compares other runs with this one, document by document; see `al.evals.compare`."""
        from arcee_lab.evals.compared._compare import DRAWS, compare

        return compare(
            self, *others, names=names, documents=documents, draws=draws or DRAWS, seed=seed
        )

    @property
    def headline(self) -> str:
        """What was run, in one sentence."""
        changed = self.info.get("interventions") or []
        under = f" under {counted(len(changed), 'intervention')}" if changed else ""
        left = f"; unfinished: {', '.join(self.unfinished)}" if self.unfinished else ""
        if self.skipped:
            left = f"; {counted(len(self.skipped), 'document')} could not be scored{left}"
        return (
            f"{self.model}{under}: {counted(len(self.samples), 'task')} in {self.seconds:.1f} s, "
            f"95 % bootstrap intervals over documents{left}"
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
