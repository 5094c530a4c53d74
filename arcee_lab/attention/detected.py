"""What detectors found: a score per source, detector and head."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from arcee_lab.attention.result import HeadStatistic, finding
from arcee_lab.errors import SettingError, UnknownName
from arcee_lab.results import Result
from arcee_lab.sites import head_name

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True, repr=False)
class Detected(Result):
    """Scores of heads.

    Attributes:
        found: Source ("texts", "random repeated") -> name of the detector -> its statistic.
    """

    found: Mapping[str, Mapping[str, HeadStatistic]]

    def scores(self, detector: str, source: str | None = None) -> Float[Tensor, "layer head"]:
        """The scores of one detector; NaN where no token counts.

        Args:
            detector: Its name, such as "induction".
            source: "texts" or "random repeated"; by default texts, if there were any.

        Raises:
            UnknownName: There is no such source or detector.
        """
        return self._one(detector, source).mean

    def top(self, detector: str, k: int = 1, *, source: str | None = None) -> list[tuple[int, int]]:
        """The k heads with the largest scores, as (layer, head), the largest first.

        Raises:
            SettingError: There are fewer heads with a score.
            UnknownName: There is no such source or detector.
        """
        one = self._one(detector, source)
        scores = one.mean.nan_to_num(-1.0)
        known = int((scores >= 0).sum())
        if not 1 <= k <= known:
            raise SettingError(f"k={k}; expected 1 to {known}, the heads with a score.")
        order = scores.flatten().argsort(descending=True, stable=True)[:k].tolist()
        return [(one.layers[i // scores.shape[1]], i % scores.shape[1]) for i in order]

    def frame(self) -> pd.DataFrame:
        """One row per source, detector and head: score, and N tokens."""
        frames = []
        for source, by_name in self.found.items():
            for name, one in by_name.items():
                table = one.frame().rename(columns={name: "score"})
                table.insert(0, "detector", name)
                table.insert(0, "source", source)
                frames.append(table)
        return pd.concat(frames, ignore_index=True)

    def figure(self, *, source: str | None = None, dark: bool = False) -> "Figure":
        """Maps of the scores of one source, layer by head, one per detector.

        Args:
            source: As for `scores`.
            dark: For a dark page.

        Raises:
            UnknownName: There is no such source.
        """
        from arcee_lab.views.figures.attention_heads import head_maps

        name = self._source(source)
        found = list(self.found[name].values())
        return head_maps(
            {one.panel: one.mean.numpy() for one in found},
            [str(layer) for layer in found[0].layers],
            units=[one.statistic.unit for one in found],
            title=f"{name[0].upper()}{name[1:]}: {finding(found)}",
            dark=dark,
        )

    @property
    def headline(self) -> str:
        """The strongest head of each detector and its score."""
        source = self._source(None)
        words = []
        for name, one in self.found[source].items():
            goal = one.statistic.label.removeprefix("attention ")
            if not bool(one.n.any()):
                words.append(f"{goal} none")
                continue
            (layer, head), *_ = self.top(name)
            score = float(one.mean[one.layers.index(layer), head])
            n = int(one.n[one.layers.index(layer), head])
            words.append(f"{goal} {head_name(layer, head)} {score:.2f} (N = {n:,} tokens)")
        return f"Heads with most attention, on {source}: {'; '.join(words)}"

    def _source(self, source: str | None) -> str:
        name = next(iter(self.found)) if source is None else source
        if name not in self.found:
            raise UnknownName(f"No source {source!r}; expected one of {', '.join(self.found)}.")
        return name

    def _one(self, detector: str, source: str | None) -> HeadStatistic:
        by_name = self.found[self._source(source)]
        if detector not in by_name:
            raise UnknownName(f"No detector {detector!r}; expected one of {', '.join(by_name)}.")
        return by_name[detector]
