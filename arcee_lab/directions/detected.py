"""What `detect` found: AUROC by site, next to its controls, as a table and a figure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arcee_lab.directions.direction import Check, Direction
from arcee_lab.results import Result, counted
from arcee_lab.sites import site_label

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

AUROC, SHUFFLED, UNTRAINED, GAP = (
    "AUROC",
    "AUROC, shuffled labels",
    "AUROC, untrained copy",
    "AUROC minus that of the untrained copy",
)


@dataclass(frozen=True, repr=False)
class Detection(Result):
    """The result of `detect`.

    Attributes:
        concept: The label.
        method: How the directions were found.
        model: Name of the model.
        directions: One per site, in forward order, each with its checks.
        chosen: Number of the site that separates best within the documents to fit on: choosing it
            did not look at those to confirm on.
        missing: Why there is no untrained copy to compare with; "" if there is one.
        alike: Sites left out because the two classes have the same mean there, such as the
            embeddings where all labelled tokens are one token.
    """

    concept: str
    method: str
    model: str
    directions: tuple[Direction, ...]
    chosen: int
    missing: str
    alike: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in forward order."""
        return tuple(direction.site for direction in self.directions)

    @property
    def best(self) -> Direction:
        """The direction at the chosen site."""
        return self.directions[self.chosen]

    def check(self, name: str, site: int) -> Check | None:
        """A check of one site by its name, or None if it was not made."""
        return next((c for c in self.directions[site].checks if c.name == name), None)

    def frame(self) -> "pd.DataFrame":
        """One row per site: AUROC, that of shuffled labels, of the untrained copy, and the gap.

        Each with the ends of its 95 % interval.
        """
        import pandas as pd

        columns = {AUROC: "auroc", SHUFFLED: "shuffled", UNTRAINED: "untrained", GAP: "gap"}
        rows = []
        for number, site in enumerate(self.sites):
            row: dict[str, Any] = {"site": site}
            for name, column in columns.items():
                found = self.check(name, number)
                if found is not None:
                    row |= {column: found.value, f"{column}_low": found.low}
                    row |= {f"{column}_high": found.high}
            first = self.directions[number].checks[0]
            rows.append(row | {"n": first.n, "documents": first.documents})
        return pd.DataFrame(rows)

    @property
    def headline(self) -> str:
        """The chosen site, in one sentence, with its controls."""
        first, shuffled = (self.check(name, self.chosen) for name in (AUROC, SHUFFLED))
        gap = self.check(GAP, self.chosen)
        assert first is not None
        assert shuffled is not None
        text = (
            f"{self.concept!r} in {self.model} by {self.method}: AUROC {first.value:.3f} "
            f"({first.low:.3f} to {first.high:.3f}, n = {first.n:,} tokens of "
            f"{counted(first.documents, 'document')}) at {self.best.site}, chosen of "
            f"{counted(len(self.sites), 'site')}; with shuffled labels {shuffled.low:.3f} to "
            f"{shuffled.high:.3f}"
        )
        if self.alike:
            text += f"; the classes have the same mean at {', '.join(self.alike)}"
        if gap is None:
            return f"{text}; no untrained copy to compare with: {self.missing}"
        return (
            f"{text}; above the untrained copy by {gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f})"
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """AUROC by site with its 95 % interval, and the controls.

        Args:
            dark: For a dark page.
        """
        from arcee_lab.views.figures.curves import Line, lines
        from arcee_lab.views.scale import CATEGORIES

        frame = self.frame()
        x = np.arange(len(frame), dtype=float)
        names = {"auroc": self.method, "untrained": "untrained copy", "shuffled": "shuffled labels"}
        shown = [column for column in names if column in frame]
        found = self.check(AUROC, self.chosen)
        assert found is not None
        figure = lines(
            [
                Line(f"{names[column]}, 95% interval", x, frame[column].to_numpy())
                for column in shown
            ],
            x="site" if len(frame) > 1 else site_label(self.sites[0]),
            y="AUROC on other documents",
            title=f"{self.concept!r} is read at {site_label(self.best.site)} with an AUROC of "
            f"{found.value:.3f} (95% interval {found.low:.3f} to {found.high:.3f}, "
            f"N = {found.n:,} tokens)",
            dark=dark,
        )
        (axes,) = figure.axes
        for number, column in enumerate(shown):
            axes.fill_between(
                x,
                frame[f"{column}_low"],
                frame[f"{column}_high"],
                color=CATEGORIES[number],
                alpha=0.18,
                linewidth=0,
            )
        step = max(1, len(frame) // 12)
        names_shown = [site_label(site) for site in self.sites]
        axes.set_xticks(x[::step], names_shown[::step], rotation=90)
        return figure
