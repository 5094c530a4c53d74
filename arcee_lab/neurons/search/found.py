"""What `find` found: the units of each label, and how they compare with the controls."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from arcee_lab.neurons.search.streaming import name_of_unit
from arcee_lab.results import Result, counted

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

Interval = tuple[float, float]


@dataclass(frozen=True)
class FoundUnit:
    """One unit of one label. Scores without further words are those of the confirmation texts.

    Attributes:
        label: The label.
        site: Its hook point.
        unit: Its index there: the neuron, the head, or the dimension.
        falling: Whether it carries the label where it is low; only of sites with negative values.
        threshold: It says yes above this value (below it, if falling), chosen on the search texts.
        search_f1: F1 at the threshold on the search texts, on which it was chosen.
        search_auprc: AUPRC on the search texts.
        f1: F1 at the threshold.
        f1_interval: Its 95 % interval over documents.
        auprc: Average precision.
        auroc: Area under the ROC curve; shown, never a ranking.
    """

    label: str
    site: str
    unit: int
    falling: bool
    threshold: float
    search_f1: float
    search_auprc: float
    f1: float
    f1_interval: Interval
    auprc: float
    auroc: float

    @property
    def name(self) -> str:
        """As people read it, e.g. `L1/N32`."""
        return ("-" if self.falling else "") + name_of_unit(self.site, self.unit)

    @property
    def layer(self) -> int | None:
        """Its layer; None outside the layers."""
        parts = self.site.split(".")
        return int(parts[1]) if parts[0] == "layers" else None


@dataclass(frozen=True)
class Control:
    """The best unit of a control, chosen and confirmed in the same way, next to the best unit.

    Attributes:
        f1: Its F1 on the confirmation texts.
        auprc: Its AUPRC there.
        f1_gain: 95 % interval of the best unit's F1 minus this one, over the same documents.
        auprc_gain: Likewise of the AUPRC.
    """

    f1: float
    auprc: float
    f1_gain: Interval
    auprc_gain: Interval

    @property
    def beaten(self) -> bool:
        """Whether both intervals are above 0."""
        return self.f1_gain[0] > 0 and self.auprc_gain[0] > 0


@dataclass(frozen=True)
class FoundLabel:
    """One label: its units, and the controls.

    Attributes:
        label: The label.
        units: The best units, in the order of the search texts.
        shuffled: The best unit for the shuffled labels on which a search does best; None without
            shuffles.
        untrained: The best unit of an untrained copy; None if that control is missing.
        p: Share of shuffled searches, this one among them, in which the best of all units scores
            at least as high on the search texts: it counts how many units were searched. At least
            1 / (1 + shuffles); NaN without shuffles.
        positives: Tokens of the confirmation texts with the label.
        tokens: Tokens of the confirmation texts to which the label applies.
    """

    label: str
    units: tuple[FoundUnit, ...]
    shuffled: Control | None
    untrained: Control | None
    p: float
    positives: int
    tokens: int

    @property
    def best(self) -> FoundUnit:
        """The best unit on the search texts."""
        return self.units[0]

    @property
    def confirmed(self) -> bool:
        """Whether p is at most .05 and the best unit beats every control that there is."""
        controls = [one for one in (self.shuffled, self.untrained) if one is not None]
        return self.p <= 0.05 and all(one.beaten for one in controls)


@dataclass(frozen=True, repr=False)
class Found(Result):
    """What `find` found.

    Attributes:
        labels: Each label with its units.
        rank_by: "f1" or "auprc".
        searched: Units that were searched.
        shuffles: How many shuffled labels each label was compared with.
        missing: Why there is no untrained control, "" if there is one.
        search_tokens: Tokens of the search texts, and
        confirm_tokens: of the confirmation texts.
        documents: Documents of the confirmation texts, over which intervals are.
    """

    labels: tuple[FoundLabel, ...]
    rank_by: str
    searched: int
    shuffles: int
    missing: str
    search_tokens: int
    confirm_tokens: int
    documents: int

    def __getitem__(self, label: str) -> FoundLabel:
        """The units of one label."""
        from arcee_lab.errors import UnknownName

        for one in self.labels:
            if one.label == label:
                return one
        known = ", ".join(one.label for one in self.labels)
        raise UnknownName(f"There is no label {label!r} in this search; expected one of {known}.")

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Labels whose best unit is confirmed."""
        return tuple(one.label for one in self.labels if one.confirmed)

    @property
    def headline(self) -> str:
        """How many labels have a confirmed unit, among how many units, and which controls ran."""
        controls = f"{counted(self.shuffles, 'shuffled search', 'shuffled searches')}"
        if self.shuffles:
            controls += f" (p cannot be below {1 / (1 + self.shuffles):.2g})"
        untrained = f"no untrained copy: {self.missing}" if self.missing else "an untrained copy"
        searched = f"of {self.searched:,} searched by {self.rank_by.upper()}"
        labels = counted(len(self.labels), "label")
        others = counted(self.documents, "other document")
        if self.confirmed:
            has = "has" if len(self.labels) == 1 else "have"
            said = f"{len(self.confirmed)} of {labels} {has} a unit that is confirmed on {others}"
        else:
            said = f"No unit beats every control on {others}, for any of {labels}"
        return f"{said}, {searched}; controls: {controls}, {untrained}"

    def frame(self) -> pd.DataFrame:
        """One row per label: its best unit, its scores on the other texts, and the controls."""
        rows = []
        for one in self.labels:
            best = one.best
            row = {
                "label": one.label,
                "unit": best.name,
                "F1 searched": best.search_f1,
                "F1": best.f1,
                "F1 low": best.f1_interval[0],
                "F1 high": best.f1_interval[1],
                "AUPRC": best.auprc,
                "AUROC": best.auroc,
                "base rate": one.positives / one.tokens,
                "p": one.p,
            }
            for name in ("shuffled", "untrained"):
                control = getattr(one, name)
                if control is not None:
                    row |= {
                        f"F1 {name}": control.f1,
                        f"AUPRC {name}": control.auprc,
                        f"F1 gain over {name}, low": control.f1_gain[0],
                        f"AUPRC gain over {name}, low": control.auprc_gain[0],
                    }
            rows.append({**row, "confirmed": one.confirmed, "n": one.tokens})
        return pd.DataFrame(rows)

    def units(self) -> pd.DataFrame:
        """One row per label and unit, best first."""
        rows = [
            {
                "label": unit.label,
                "rank": rank,
                "unit": unit.name,
                "site": unit.site,
                "index": unit.unit,
                "threshold": unit.threshold,
                "F1 searched": unit.search_f1,
                "AUPRC searched": unit.search_auprc,
                "F1": unit.f1,
                "F1 low": unit.f1_interval[0],
                "F1 high": unit.f1_interval[1],
                "AUPRC": unit.auprc,
                "AUROC": unit.auroc,
            }
            for one in self.labels
            for rank, unit in enumerate(one.units, start=1)
        ]
        return pd.DataFrame(rows)

    @property
    def _finding(self) -> str:
        scores = [one.best.f1 for one in self.labels]
        if not scores:
            return "No label was searched"
        span = f"F1 {min(scores):.2f} to {max(scores):.2f} on other documents"
        n = f"(N = {self.confirm_tokens:,} tokens)"
        if not self.confirmed:
            return f"No neuron of {counted(len(scores), 'label')} beats every control: {span} {n}"
        return (
            f"Best neuron per label: {span}, {len(self.confirmed)} of {len(scores)} beat every "
            f"control {n}"
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """F1 of each label's best unit, next to its controls."""
        from arcee_lab.views.figures.forest import found_bars

        return found_bars(
            [f"{one.label}  {one.best.name}" for one in self.labels],
            [(one.best.f1, *one.best.f1_interval) for one in self.labels],
            {
                name: [
                    float("nan") if (c := getattr(one, name)) is None else c.f1
                    for one in self.labels
                ]
                for name in ("shuffled", "untrained")
            },
            title=self._finding,
            dark=dark,
        )
