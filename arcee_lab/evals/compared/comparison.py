"""The result of comparing runs: paired differences, and the documents that flipped."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from arcee_lab.errors import UnknownName
from arcee_lab.results import Result, counted

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

LEVEL = 0.05  # of the headline and the figure: what counts as a clear difference


@dataclass(frozen=True)
class Difference:
    """One metric of one task in two runs.

    Attributes:
        run: Name of the run that is compared with the base.
        task: Name of the task or group.
        metric: Name of the metric.
        filter: lm-eval's filter; mostly "none".
        base: The metric in the base run, over the documents that both runs have.
        value: The metric in the other run, over the same documents.
        difference: `value - base`.
        low: Lower end of the 95 % paired bootstrap interval of the difference.
        high: Upper end.
        n: Documents.
        p: Two-sided p-value; NaN for a group and where the metric is not defined.
        p_holm: The same, corrected by Holm's method for all p-values of the comparison.
        test: "McNemar" (exact, for metrics that are right or wrong per document) or "bootstrap".
        gained: Documents that only the other run answers rightly; None if the metric is not right
            or wrong per document.
        lost: Documents that only the base run answers rightly.
        unpaired_low: Lower end of the interval that ignores that the documents are the same.
        unpaired_high: Upper end.
        higher_is_better: None where lm-eval does not say.
        members: For a group, the tasks that it averages.
        ceiling: The best possible value, if it is known.
    """

    run: str
    task: str
    metric: str
    filter: str
    base: float
    value: float
    difference: float
    low: float
    high: float
    n: int
    p: float = math.nan
    p_holm: float = math.nan
    test: str = ""
    gained: int | None = None
    lost: int | None = None
    unpaired_low: float = math.nan
    unpaired_high: float = math.nan
    higher_is_better: bool | None = None
    members: tuple[str, ...] = ()
    ceiling: float | None = None


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """The result of `al.evals.compare`.

    Attributes:
        base: Name of the run that the others are compared with.
        runs: Names of the others.
        differences: One per run, task and metric.
        skipped: What was not compared, with the reason.
        pairs: (run, task, filter) -> the samples of the same documents in both runs.
    """

    base: str
    runs: tuple[str, ...]
    differences: tuple[Difference, ...]
    skipped: tuple[str, ...] = ()
    pairs: Mapping[tuple[str, str, str], Sequence[tuple[dict[str, Any], dict[str, Any]]]] = field(
        default_factory=dict, repr=False
    )

    def frame(self) -> pd.DataFrame:
        """One row per run, task and metric, with the columns of `Difference`."""
        columns = [one.name for one in fields(Difference) if one.name != "members"]
        frame = pd.DataFrame([asdict(one) for one in self.differences], columns=columns)
        frame = frame.astype({"gained": "Int64", "lost": "Int64", "ceiling": float})
        return frame.drop(columns=["filter"]) if set(frame["filter"]) == {"none"} else frame

    def difference(
        self, task: str, metric: str, *, run: str | None = None, filter: str = "none"
    ) -> Difference:
        """One difference.

        Args:
            task: Name of the task or group.
            metric: Name of the metric.
            run: Name of the run; by default the first.
            filter: lm-eval's filter.

        Raises:
            UnknownName: There is no such difference.
        """
        wanted = (self.runs[0] if run is None else run, task, metric, filter)
        for one in self.differences:
            if (one.run, one.task, one.metric, one.filter) == wanted:
                return one
        have = dict.fromkeys(f"{one.task} {one.metric}" for one in self.differences)
        raise UnknownName(
            f"There is no difference {task!r} {metric!r} of run {wanted[0]!r}; expected one of "
            f"{', '.join(have)} of {', '.join(self.runs)}."
        )

    def flips(
        self, task: str, metric: str, *, run: str | None = None, filter: str = "none"
    ) -> pd.DataFrame:
        """The documents whose value of a metric differs, one row each.

        Columns: doc_id, change ("gained", "lost", or "changed" where the metric is not right or
        wrong per document), prompt, target, base_answer, answer, base, value.

        Args:
            task: Name of the task.
            metric: Name of the metric.
            run: Name of the run; by default the first.
            filter: lm-eval's filter.

        Raises:
            UnknownName: There is no such difference, or the task is a group.
        """
        found = self.difference(task, metric, run=run, filter=filter)
        if found.members:
            raise UnknownName(
                f"{task!r} is a group; expected one of its tasks: {', '.join(found.members)}."
            )
        rows = []
        for before, after in self.pairs[found.run, task, filter]:
            old, new = before[metric], after[metric]
            if old == new:
                continue
            change = "changed" if found.gained is None else ("gained" if new > old else "lost")
            first = before["arguments"][0] if before["arguments"] else ("",)
            rows.append(
                {
                    "doc_id": before["doc_id"],
                    "change": change,
                    "prompt": first[0],
                    "target": before["target"],
                    "base_answer": before["filtered_resps"],
                    "answer": after["filtered_resps"],
                    "base": old,
                    "value": new,
                }
            )
        names = ["doc_id", "change", "prompt", "target", "base_answer", "answer", "base", "value"]
        return pd.DataFrame(rows, columns=names)

    def figure(self, *, dark: bool = False) -> "Figure":
        """A forest plot: each difference with its interval, one panel per metric.

        Args:
            dark: For a dark page.
        """
        from arcee_lab.views.figures.forest import Row, interval_rows

        panels: dict[str, list[Row]] = {}
        for one in self.differences:
            name = one.metric if one.filter == "none" else f"{one.metric}, {one.filter}"
            label = one.task if len(self.runs) == 1 else f"{one.task}: {one.run}"
            row = Row(label, one.difference, one.low, one.high, clear=one.p_holm < LEVEL)
            panels.setdefault(name, []).append(row)
        x = f"difference from {self.base}, with its 95% interval"
        title = self.headline
        return interval_rows(list(panels.items()), x=x, differences=True, title=title, dark=dark)

    @property
    def headline(self) -> str:
        """How many differences are clear, in one sentence."""
        tested = [one for one in self.differences if not math.isnan(one.p)]
        clear = sum(one.p_holm < LEVEL for one in tested)
        n = max((one.n for one in self.differences), default=0)
        what = self.runs[0] if len(self.runs) == 1 else counted(len(self.runs), "run")
        return (
            f"{what} compared with {self.base}: {clear} of {counted(len(tested), 'difference')} "
            f"{'is' if clear == 1 else 'are'} clear at p < {LEVEL} after Holm's correction; at "
            f"most {counted(n, 'document')} per task, paired"
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `comparison.csv` and `report.html`.

        Args:
            folder: A folder that exists.

        Returns:
            The files.
        """
        from arcee_lab.evals.compared.report import comparison_page
        from arcee_lab.runs import storage

        folder = Path(folder)
        return [
            storage.write_atomic(
                folder / "comparison.csv", lambda path: self.frame().to_csv(path, index=False)
            ),
            storage.write_atomic(folder / "report.html", comparison_page(self)),
        ]
