"""The result of a sparsity measurement: counts that add up exactly, as frames and figures."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.results import Result
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.compared.comparison import Comparison, compare
from arcee_lab.sparsity.core import every_token
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.coverage import Coverage
from arcee_lab.sparsity.core.positions import Positions
from arcee_lab.sparsity.core.savings import Saving, Weights
from arcee_lab.sparsity.core.state import State, join
from arcee_lab.sparsity.core.thresholds import Thresholds
from arcee_lab.sparsity.core.token_ids import Vocabulary
from arcee_lab.sparsity.report import report_files, tables
from arcee_lab.sparsity.streamed.predictors import Predictability

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure


_WRITTEN = ("neurons", "tokens", "costs")  # tables with files of their own, next to the results


def _drawn(png: Callable[["Figure"], bytes], draw: Callable[[], "Figure"]) -> bytes:
    return png(draw())


@dataclass(frozen=True, repr=False, eq=False)
class SparsityReport:
    """What fires where, counted over N tokens.

    Padding is never counted. First positions (BOS, or a window's first token) stand apart. Every
    count is an integer, so reports of two halves of a text add up to the report of the whole.

    Attributes:
        model: Name of the model.
        label: What the report is called beside others: a domain, or the model.
        dtype: Its dtype; in fp16 and bf16 few near-zeros round otherwise than in fp32.
        device: Where it ran.
        n_documents: Documents read.
        n_windows: Windows they were cut to.
        share: 1 window in so many was shown to the analyses beside the core.
        stride: Of the tokens of these, predictors were tried on 1 in so many.
        n_shared: Of the N tokens, how many lie in these.
        seconds: Wall time of the pass.
        costs: Seconds that the host spent on each analysis, and on the pass as a whole; an analysis
            with forwards of its own lies outside of the pass.
        weights: What a token reads of the model.
        norms: ‖w_i‖ of each neuron's column of the down projection.
        states: What was counted, by analysis; "core" is always there.
        further: Results of analyses with forwards of their own, by name.
    """

    model: str
    label: str
    dtype: str
    device: str
    n_documents: int
    n_windows: int
    share: int
    stride: int
    n_shared: int
    seconds: float
    costs: Mapping[str, float]
    weights: Weights
    norms: Float[Tensor, "layer d_mlp"]
    states: Mapping[str, State]
    further: Mapping[str, Result] = field(default_factory=dict)

    # ------------------------------------------------------------------ counts and rates

    @property
    def counts(self) -> CoreCounts:
        """What fired where, at every token."""
        return CoreCounts(self.states["core"])

    @property
    def n_tokens(self) -> int:
        """N, the tokens counted; neither padding nor first positions."""
        return self.counts.n_tokens

    @property
    def n_first(self) -> int:
        """First positions, counted separately."""
        return self.counts.n_first

    @property
    def tokens_per_second(self) -> float:
        """Tokens read per second, first positions included."""
        return (self.n_tokens + self.n_first) / self.seconds

    @property
    def fired(self) -> Int[Tensor, "layer d_mlp"]:
        """Of the N tokens, on how many each neuron fired (a > 0)."""
        return self.counts.fired

    @property
    def fired_first(self) -> Int[Tensor, "layer d_mlp"]:
        """Of the first positions, on how many each neuron fired."""
        return self.counts.fired_first

    @property
    def active(self) -> Int[Tensor, "layer n_active"]:
        """`active[l, n]` is the number of tokens on which exactly n neurons of layer l fired."""
        return self.counts.active

    @property
    def rates(self) -> Float[Tensor, "layer d_mlp"]:
        """The share of the N tokens on which each neuron fires."""
        return self.counts.rates

    @property
    def zeros(self) -> Float[Tensor, " layer"]:
        """The share of exact zeros among each layer's activations."""
        return self.counts.zeros

    @property
    def zeros_first(self) -> Float[Tensor, " layer"]:
        """The share of exact zeros at first positions, which models treat unlike any other."""
        return self.counts.zeros_first

    @property
    def dead(self) -> Int[Tensor, " layer"]:
        """Neurons that fired on none of the N tokens; see `CoreCounts.dead` for the bound."""
        return self.counts.dead

    def quantiles(self, share: float) -> Int[Tensor, " layer"]:
        """By layer, the number of active neurons that this share of tokens does not exceed."""
        return self.counts.quantiles(share)

    @property
    def thresholds(self) -> Thresholds:
        """Activations by size."""
        return Thresholds(self.counts.sized, self.fired.shape[1], self.n_tokens)

    @property
    def correlation(self) -> np.ndarray:
        """Pearson's correlation of the layers' active neurons over all N tokens."""
        return self.counts.correlation

    # ------------------------------------------------------------------ tables

    @cached_property
    def results(self) -> dict[str, Result]:
        """Every result by name: of the core, of the streamed analyses, and the further ones."""
        counted, d_mlp = self.states["core"], self.fired.shape[1]
        found: dict[str, Result] = {
            "coverage": Coverage.of(self.rates.numpy(), self.n_tokens),
            "thresholds": self.thresholds,
            "positions": Positions.of(
                counted["position_active"].numpy(), counted["position_tokens"].numpy(), d_mlp
            ),
            "ids": Vocabulary.of(counted["id_active"].numpy(), counted["id_tokens"].numpy(), d_mlp),
        }
        for name, state in self.states.items():
            if name != "core":
                found[name] = registry.streamed(name).result(state, self.counts)
        found["saving"] = self._saving(found.get("unions"))
        return found | dict(self.further)

    def _saving(self, unions: Any) -> Saving:
        batches, used = np.array([1]), np.array([1 - self.zeros.mean().item()])
        if unions is not None and len(unions.sizes) > 1:
            # One sequence is known from all N tokens; several only from the kept ones.
            batches = unions.sizes
            used = np.concatenate([used, unions.across.value[1:].mean(1)])
        return Saving(self.weights, batches, used)

    def frame(self, what: str = "layers") -> pd.DataFrame:
        """The numbers as a table.

        Args:
            what: `layers`, one row a layer; `neurons`, one row a neuron; `tokens`, active neurons
                of each of the first 131,072 tokens; `costs`, seconds by analysis; or the name of a
                result: `coverage`, `thresholds` (zeros by threshold), `positions`, `ids`, `saving`,
                and every analysis that was asked for.

        Raises:
            ValueError: Another word, or an analysis that was not asked for.
        """
        plain: dict[str, Callable[[], pd.DataFrame]] = {
            "layers": lambda: tables.layers(self.counts, self.thresholds),
            "neurons": lambda: tables.neurons(self.counts),
            "tokens": lambda: tables.tokens(self.counts),
            "costs": self._costs,
        }
        return plain[what]() if what in plain else self.result(what).frame()

    def _costs(self) -> pd.DataFrame:
        sampled = dict(self.further) | {
            name: result
            for name, result in self.results.items()
            if isinstance(result, Predictability)
        }
        return tables.costs(self.costs, sampled, n_tokens=self.n_tokens, n_shared=self.n_shared)

    def result(self, name: str) -> Result:
        """One result with its frame and figure.

        Raises:
            ValueError: Another word, or an analysis that was not asked for.
        """
        if name in self.results:
            return self.results[name]
        if name in registry.STREAMED or name in registry.FURTHER:
            raise SettingError(
                f"{name!r} was not measured; ask for it: measure(..., analyses=[{name!r}])"
            )
        known = ", ".join([*tables.PLAIN, *self.results])
        raise SettingError(f"there is no {name!r} in the report; expected one of {known}")

    def summary(self) -> dict[str, Any]:
        """The headline numbers, as JSON values."""
        return {
            "model": self.model,
            "dtype": self.dtype,
            "device": self.device,
            "documents": self.n_documents,
            "windows": self.n_windows,
            **tables.summary(self.counts),
            "sample_every": self.share,
            "sampled_tokens": self.n_shared,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
        }

    # ------------------------------------------------------------------ with other reports

    def merge(self, other: "SparsityReport") -> "SparsityReport":
        """The report of both texts together, exactly as one pass over both gives it.

        Results of analyses with forwards of their own do not add up; they are left out.

        Raises:
            ValueError: The other is of another model, dtype or shape, or of other analyses.
        """
        mine, theirs = ((r.model, r.dtype, tuple(r.fired.shape)) for r in (self, other))
        if mine != theirs:
            raise SettingError(
                f"cannot merge the reports of {mine} and {theirs}; expected one model"
            )
        mine, theirs = ((sorted(r.states), r.share, r.stride) for r in (self, other))
        if mine != theirs:
            raise SettingError(
                f"cannot merge {mine[0]} at 1 window in {mine[1]}, predictors at 1 token in "
                f"{mine[2]}, with {theirs[0]} at 1 in {theirs[1]} and {theirs[2]}; measure both "
                "with the same analyses= and share="
            )
        states = {}
        for name, state in self.states.items():
            kept = every_token.kept_rows(state) if name == "core" else registry.streamed(name).kept
            states[name] = join(state, other.states[name], kept)
        summed = ("n_documents", "n_windows", "n_shared", "seconds")
        return replace(
            self,
            label=self.label if self.label == other.label else f"{self.label} + {other.label}",
            costs={
                name: cost + other.costs[name]
                for name, cost in self.costs.items()
                if name not in registry.FURTHER
            },
            states=states,
            further={},
            **{name: getattr(self, name) + getattr(other, name) for name in summed},
        )

    def compare(self, other: "SparsityReport") -> Comparison:
        """This report beside another: of another model, checkpoint, quantisation or text.

        Raises:
            ValueError: Models of different shapes.
        """
        return compare(self, other)

    # ------------------------------------------------------------------ pictures

    def figure_layers(self, *, dark: bool = False) -> "Figure":
        """Exact zeros by layer, beside the one half that untrained weights give."""
        from arcee_lab.views.figures.layers import share_bars

        d_mlp = self.fired.shape[1]
        return share_bars(
            self.zeros.numpy(),
            1 - (self.quantiles(0.95) / d_mlp).numpy(),
            1 - (self.quantiles(0.05) / d_mlp).numpy(),
            baseline=0.5,
            baseline_name="untrained weights",
            what="share of exact zeros",
            spread="from the densest 5 % of tokens to the sparsest 5 %",
            title=f"{self.zeros.mean():.1%} of activations are exactly zero "
            f"({self.n_tokens:,} tokens)",
            dark=dark,
        )

    def figure_rates(self, *, dark: bool = False) -> "Figure":
        """How often neurons fire, layer by layer, on a log axis."""
        from arcee_lab.views.figures.bands import percent
        from arcee_lab.views.figures.layers import rate_ridges

        half = float(self.rates.flatten().quantile(0.5, interpolation="higher"))
        title = f"Half of the neurons fire on at most {percent(half)} of tokens"
        if not half:
            never = float((self.fired == 0).double().mean())
            title = f"{percent(never)} of the neurons fired on none of {self.n_tokens:,} tokens"
        return rate_ridges(
            list(self.rates.numpy()),
            floor=1 / self.n_tokens,
            floor_name=f"the left end is one token in {self.n_tokens:,}",
            what="share of tokens on which a neuron fires",
            title=title,
            dark=dark,
        )

    def figure_tokens(self, *, start: int = 0, most: int = 120, dark: bool = False) -> "Figure":
        """Layer by token: the share of neurons that fire at each of some tokens, in their order.

        Args:
            start: The first token to show, among those that were kept.
            most: How many to show.
            dark: For a dark page.
        """
        from arcee_lab.views.figures.curves import grid

        counted = self.states["core"]
        active = counted["kept_active"][start : start + most].numpy()
        positions = counted["kept_positions"][start : start + most].tolist()
        return grid(
            active.T / self.fired.shape[1],
            rows=[str(layer) for layer in range(active.shape[1])],
            columns=[str(position) for position in positions],
            x="token, by its position in its window",
            y="layer",
            what="share of neurons that fire",
            title="Active neurons by layer and token",
            dark=dark,
        )

    def figure(self, name: str, *, dark: bool = False) -> "Figure":
        """The figure of a result, e.g. `overlap`; see `frame` for the names."""
        return self.result(name).figure(dark=dark)

    def figure_coverage(self, *, dark: bool = False) -> "Figure":
        """How few neurons hold how much of all firing."""
        return self.figure("coverage", dark=dark)

    def figure_thresholds(self, *, dark: bool = False) -> "Figure":
        """The share of activations below each threshold."""
        return self.figure("thresholds", dark=dark)

    def figure_concentration(self, *, dark: bool = False) -> "Figure":
        """How few neurons hold what a token's MLP writes."""
        return self.figure("concentration", dark=dark)

    def figure_positions(self, *, dark: bool = False) -> "Figure":
        """Active neurons by position."""
        return self.figure("positions", dark=dark)

    def figure_ids(self, *, dark: bool = False) -> "Figure":
        """Active neurons by frequency of the token."""
        return self.figure("ids", dark=dark)

    def figure_unions(self, *, dark: bool = False) -> "Figure":
        """Neurons that several tokens use together, with both baselines."""
        return self.figure("unions", dark=dark)

    def figure_overlap(self, *, dark: bool = False) -> "Figure":
        """Overlap of active neurons by lag, with the chance line."""
        return self.figure("overlap", dark=dark)

    def figure_predictors(self, *, dark: bool = False) -> "Figure":
        """Recall of the predictors against their budget."""
        return self.figure("predictors", dark=dark)

    # ------------------------------------------------------------------ files and faces

    def save(self, folder: str | Path) -> list[Path]:
        """Writes the report so that `load` reads it, every table as Parquet, every figure as PNG.

        Args:
            folder: A folder that exists. Each file is whole or absent, whatever happens.

        Returns:
            The files.
        """
        from arcee_lab.views.figures.figure import png

        figures = {
            "sparsity": self.figure_layers,
            "rates": self.figure_rates,
            "tokens": self.figure_tokens,
            **{name: result.figure for name, result in self.results.items()},
        }
        facts = {name: getattr(self, name) for name in report_files.FACTS}
        return report_files.write(
            Path(folder),
            facts=facts | {"costs": dict(self.costs), "weights": asdict(self.weights)},
            states=self.states,
            norms=self.norms,
            further=self.further,
            summary=self.summary(),
            layers=self.frame("layers").to_dict(orient="records"),
            frames={name: self.frame(name) for name in _WRITTEN + tuple(self.results)},
            figures={name: partial(_drawn, png, draw) for name, draw in figures.items()},
        )

    @classmethod
    def load(cls, folder: str | Path) -> "SparsityReport":
        """Reads a report that `save` wrote.

        Raises:
            ValueError: No report, or a damaged one.
        """
        found = report_files.read(Path(folder))
        try:
            fields: dict[str, Any] = {**found, "weights": Weights(**found["weights"])}
            return cls(**fields)
        except TypeError as error:
            raise SettingError(
                f"{Path(folder) / report_files.REPORT} is damaged: {error}; measure again"
            ) from error

    def __repr__(self) -> str:
        zeros = ", ".join(f"{value:.3f}" for value in self.zeros.tolist())
        return (
            f"SparsityReport({self._named}, {self.dtype}, N={self.n_tokens:,} tokens, "
            f"{int(self.dead.sum())} of {self.fired.numel():,} neurons never fired,\n"
            f"  exact zeros by layer: {zeros})"
        )

    @property
    def headline(self) -> str:
        """The result in one sentence, with its N."""
        return (
            f"{self._named}, {self.dtype}: {self.zeros.mean():.1%} of activations are exactly zero "
            f"over N = {self.n_tokens:,} tokens; padding is not counted, and {self.n_first:,} "
            f"first positions stand apart ({self.zeros_first.mean():.1%})"
        )

    @property
    def _named(self) -> str:
        """The model, and the text where the report is called by it."""
        return self.model if self.label == self.model else f"{self.model} on {self.label}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.headline)}.</p>{self.layers_html()}"

    def layers_html(self) -> str:
        """The table of layers, as HTML."""
        from arcee_lab.views.html import heat_table

        frame = self.frame("layers").drop(columns=["layer", "n_tokens", "dead_below"])
        return heat_table(
            frame.to_numpy().tolist(),
            [str(layer) for layer in range(len(frame))],
            [name.replace("_", " ") for name in frame.columns],
            corner="layer",
            by_column=True,
        )
