"""What patching found: an effect per spot and pair, and the frames and figures drawn from it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.patching.spots import Spot, Spots
from arcee_lab.results import Result, counted, page

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

_LAYER = re.compile(r"layers\.(\d+)\.")
_PLAIN = {  # what people call what is patched
    "self_attn.hook_z": "heads' outputs (hook_z)",
    "mlp.hook_post": "neurons (hook_post)",
    "hook_resid_pre": "the residual stream (hook_resid_pre)",
    "hook_resid_mid": "the residual stream (hook_resid_mid)",
    "hook_resid_post": "the residual stream (hook_resid_post)",
    "hook_attn_out": "attention's output (hook_attn_out)",
    "hook_mlp_out": "the MLP's output (hook_mlp_out)",
}


@dataclass(frozen=True, repr=False)
class PatchEffects(Result):
    """How much a metric changes when spots of a run are swapped for those of another.

    Attributes:
        method: "patching" or "ablation", measured one by one; or "attribution", estimated from one
            gradient.
        metric: Name of the metric.
        spots: What was swapped, e.g. `spots[0]`.
        effects: Metric of the base run with the patch, minus that without. NaN where a sequence
            has none of the spot's tokens.
        base: The metric of the run that was changed.
        source: The metric of the run that activations came from; of an ablation, the metric with
            all spots ablated at once.
    """

    method: Literal["patching", "attribution", "ablation"]
    metric: str
    spots: Spots
    effects: Float[Tensor, "spot pair"]
    base: Float[Tensor, " pair"]
    source: Float[Tensor, " pair"]

    @property
    def mean(self) -> Float[Tensor, " spot"]:
        """The effect of each spot, over the pairs that have it."""
        return self.effects.nanmean(dim=1)

    @property
    def n(self) -> Int[Tensor, " spot"]:
        """How many pairs have it."""
        return (~self.effects.isnan()).sum(dim=1)

    @property
    def recovered(self) -> Float[Tensor, " spot"]:
        """The mean effect as a share of the mean difference between source and base.

        0: as the base; 1: as the source. NaN or infinite if the metric does not tell them apart.
        """
        gap = torch.where(self.effects.isnan(), torch.nan, self.source - self.base)
        return self.mean / gap.nanmean(dim=1)

    def grid(self, what: Literal["recovered", "effect"] = "recovered") -> Float[Tensor, "..."]:
        """The numbers as sites by what they were cut over.

        Raises:
            ValueError: If the spots were a list, or for another word.
        """
        if self.spots.shape is None:
            raise SettingError("These spots are a list and fill no grid; see frame().")
        return self._values(what).view(self.spots.shape)

    def frame(self) -> pd.DataFrame:
        """One row per spot: where it is, mean effect, its standard error over pairs, share, N."""
        spots = self.spots
        layers = [_layer(name) for name in spots.names]
        n, mean = self.n, self.mean
        squares = (self.effects - mean[:, None]).square().nansum(dim=1)
        error = (squares / (n - 1) / n).sqrt()
        return pd.DataFrame(
            {
                "site": [spots.names[i] for i in spots.site.tolist()],
                "layer": pd.array([layers[i] for i in spots.site.tolist()], dtype="Int64"),
                **{what[:-1]: column.numpy() for what, column in spots.columns.items()},
                "effect": mean.numpy(),
                "standard_error": torch.where(n > 1, error, torch.nan).numpy(),
                "recovered": self.recovered.numpy(),
                "n": n.numpy(),
            }
        )

    def top(self, k: int) -> list[Spot]:
        """The k spots of largest mean effect in size, the largest first."""
        spots = list(self.spots)
        return [spots[i] for i in self._order()[:k]]

    # ------------------------------------------------------------------ pictures

    def figure(
        self,
        *,
        what: Literal["recovered", "effect"] = "recovered",
        labels: Sequence[str] | None = None,
        title: str | None = None,
        dark: bool = False,
    ) -> "Figure":
        """A heat map: one row per site (and every cut but the last), one column per last cut.

        Args:
            what: "recovered", or "effect" in the metric's unit.
            labels: Of the columns, such as the words that were patched.
            title: The line above.
            dark: For a dark page.

        Raises:
            ValueError: If the spots fill no grid, or labels do not fit it.
        """
        from arcee_lab.views.figures.effects import effect_map

        grid, over = self.grid(what), self.spots.over
        columns = [str(i) for i in self._labels(over[-1])] if over else [""]
        if labels is not None and len(labels) != len(columns):
            raise SettingError(f"got {len(labels)} labels for {len(columns)} columns.")
        rows, names = self._rows(), list(labels) if labels is not None else columns
        cells = grid.reshape(len(rows), len(columns))
        down = " . ".join(["layer" if self._one_kind else "site", *(w[:-1] for w in over[:-1])])
        across = over[-1][:-1] if over else ""
        share = "difference restored" if self.method != "ablation" else "change with all ablated"
        unit = f"share of the {share}" if what == "recovered" else f"change of {self.metric}"
        return effect_map(
            cells.numpy(),
            rows,
            names,
            across=across,
            down=down,
            what=f"{unit} (estimate)" if self.method == "attribution" else unit,
            title=self._finding(cells, what, (down, rows), (across, names))
            if title is None
            else title,
            dark=dark,
        )

    def figure_against(
        self, other: "PatchEffects", *, spots: str = "", dark: bool = False
    ) -> "Figure":
        """Each spot of this result as a dot: the other's effect across, this one's up.

        Args:
            other: An estimate of the same spots, or of more.
            spots: Which spots these are, for the title; by default how many.
            dark: For a dark page.

        Raises:
            ValueError: If the other lacks a spot.
        """
        from arcee_lab.views.figures.scatter import scatter

        mine, theirs = self._matched(other)
        layers = [_layer(name) for name in self.spots.names]
        groups = [f"layer {layers[i]}" for i in self.spots.site.tolist()]
        r = _correlation(mine, theirs)
        line = (
            f"{other.method.capitalize()} and {self.method} "
            f"{f'agree with r = {r:.3f}' if isfinite(r) else 'are all alike, which has no r,'} "
            f"over {spots or counted(len(mine), 'spot')} (N = {self._cases})"
        )
        return scatter(
            theirs.numpy(),
            mine.numpy(),
            groups,
            across=f"by {other.method}: change of {other.metric}",
            up=f"by {self.method}: change of {self.metric}",
            title=line,
            dark=dark,
        )

    def correlation(self, other: "PatchEffects") -> float:
        """Pearson's correlation of the mean effects, over the spots of this result."""
        return _correlation(*self._matched(other))

    @property
    def headline(self) -> str:
        """Method, spots, the metric of both runs, and N."""
        kinds = "" if not self.spots.over else f" by {', '.join(self.spots.over)}"
        other, noun = ("all", "sequence") if self.method == "ablation" else ("source", "pair")
        return (
            f"{self.method}, {counted(len(self.spots), 'spot')}{kinds}, {self.metric}: base "
            f"{self.base.mean():.3g}, {other} {self.source.mean():.3g}, "
            f"N = {counted(len(self.base), noun)}"
        )

    def _repr_html_(self) -> str:
        frame = self.frame().iloc[self._order()[:10]]
        return page(f"{self.headline}; the largest:", frame)

    # ------------------------------------------------------------------ inside

    def _values(self, what: str) -> Tensor:
        if what not in ("recovered", "effect"):
            raise SettingError(f"what={what!r}; expected 'recovered' or 'effect'.")
        return self.recovered if what == "recovered" else self.mean

    def _order(self) -> list[int]:
        return self.mean.abs().nan_to_num(-1).argsort(descending=True, stable=True).tolist()

    @property
    def _one_kind(self) -> bool:
        kinds = {_LAYER.sub("", name) for name in self.spots.names}
        return len(kinds) == 1 and all(map(_LAYER.match, self.spots.names))

    def _labels(self, what: str) -> list[int]:
        return list(dict.fromkeys(self.spots.columns[what].tolist()))

    def _rows(self) -> list[str]:
        names = [str(_layer(name)) if self._one_kind else name for name in self.spots.names]
        for what in self.spots.over[:-1]:
            names = [f"{name}.{index}" for name in names for index in self._labels(what)]
        return names

    def _finding(
        self,
        cells: Float[Tensor, "row column"],
        what: str,
        down: tuple[str, list[str]],
        across: tuple[str, list[str]],
    ) -> str:
        """Which cell changes the metric most and by how much, or that no cell clearly does."""
        kind = _LAYER.sub("", self.spots.names[0]) if self._one_kind else ""
        verb = {"patching": "Patching", "ablation": "Ablating"}.get(self.method, "Attribution to")
        verb = " ".join(filter(None, (verb, _PLAIN.get(kind, kind))))
        known = int(cells.isfinite().sum())
        if not known:
            return f"{verb}: no effect is a number (N = {self._cases})"
        sizes = torch.where(cells.isfinite(), cells.abs(), -1.0)
        row, column = divmod(int(sizes.argmax()), cells.shape[1])
        place = f"{down[0]} {down[1][row]}"
        if across[0]:
            place += f", {across[0]} {across[1][column].strip()}"
        value, interval = float(cells[row, column]), self._interval(int(sizes.argmax()), known)
        if what == "recovered":  # in effects, of which the share is a multiple
            scale = value / float(self.mean[int(sizes.argmax())])
            interval = interval and tuple(sorted(end * scale for end in interval))
        whole = "change with all ablated" if self.method == "ablation" else "difference"
        of = "" if what == "effect" else f" of the {whole}"
        facts = f"N = {self._cases}"
        if interval is not None:
            ends = " to ".join(_signed(end, what) for end in interval)
            facts = f"95% interval for the largest of {known:,}: {ends}; {facts}"
            if interval[0] <= 0 <= interval[1]:
                return (
                    f"{verb} changes {self.metric} clearly nowhere; the largest, at {place}, is "
                    f"{_signed(value, what)}{of} ({facts})"
                )
        elif known > 1:
            facts = f"the largest of {known:,}; {facts}"
        return (
            f"{verb} changes {self.metric} most at {place}, by {_signed(value, what)}{of} ({facts})"
        )

    @property
    def _cases(self) -> str:
        return counted(len(self.base), "sequence" if self.method == "ablation" else "pair")

    def _interval(self, spot: int, among: int) -> tuple[float, ...] | None:
        """The 95% interval of the mean effect of the largest among so many; None for one pair.

        By Bonferroni: the largest of many is also the luckiest.
        """
        from scipy.stats import t

        effects = self.effects[spot].double()
        effects = effects[effects.isfinite()]
        if len(effects) < 2:
            return None
        error = float(effects.std()) / len(effects) ** 0.5
        half = error * float(t.ppf(1 - 0.025 / among, len(effects) - 1))
        return float(effects.mean()) - half, float(effects.mean()) + half

    def _matched(self, other: "PatchEffects") -> tuple[Tensor, Tensor]:
        if set(self.spots.over) != set(other.spots.over):
            raise SettingError(
                f"cut over {self.spots.over} and {other.spots.over}; expected alike."
            )
        place = {spot: i for i, spot in enumerate(other.spots)}
        mine = list(self.spots)
        lacking = [spot for spot in mine if spot not in place]
        if lacking:
            raise SettingError(f"the other result lacks {len(lacking)} spots, e.g. {lacking[0]}.")
        return self.mean, other.mean[[place[spot] for spot in mine]]


def name_of(metric: Callable[..., Any]) -> str:
    """What a metric is called in results."""
    named = getattr(metric, "__name__", None) or type(metric).__name__
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", named).replace("_", " ")
    return "metric" if named == "<lambda>" else words.lower()


def _signed(value: float, what: str) -> str:
    """A number of a title: a share per cent, an effect with its sign."""
    if what == "recovered":
        return f"{round(value, 2) + 0.0:.0%}".replace("-", "−")
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def _layer(name: str) -> int | None:
    found = _LAYER.match(name)
    return None if found is None else int(found[1])


def _correlation(x: Tensor, y: Tensor) -> float:
    both = torch.stack([x, y]).double()
    both = both[:, both.isfinite().all(dim=0)]
    return float(torch.corrcoef(both)[0, 1])
