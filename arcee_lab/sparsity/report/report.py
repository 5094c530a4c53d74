"""The result of a sparsity measurement: counts that add up exactly, as frames and figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.errors import SavedDamaged, SettingError, WrongType
from arcee_lab.results import Result
from arcee_lab.runs.arguments import checked
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.compared.comparison import Comparison, compare
from arcee_lab.sparsity.core import every_token
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.savings import Weights
from arcee_lab.sparsity.core.state import State, join
from arcee_lab.sparsity.core.thresholds import Thresholds
from arcee_lab.sparsity.report import report_files, tables
from arcee_lab.sparsity.report.named import Figures, Frames, Results

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure


_FILES = {"layers": "sparsity"}  # figures whose file has another name


@dataclass(frozen=True, repr=False, eq=False)
class SparsityReport(Result):
    """What fires where, counted over N tokens.

    Padding is never counted. First positions (BOS, or the first token of a window) are counted
    separately. Every count is an integer, so reports of two halves of a text add up to the report
    of the whole.

    Attributes:
        model: Name of the model.
        label: What the report is called next to others: a domain, or the model.
        dtype: Its dtype; in fp16 and bf16 few near-zeros round otherwise than in fp32.
        device: Where it ran.
        n_documents: Documents read.
        n_windows: Windows they were cut to.
        sample_every: Every Nth window was shown to the analyses other than the core.
        stride: Predictors were tried on every Nth token of these.
        n_sampled: Of the N tokens, how many are in these.
        seconds: Wall time of the pass.
        costs: Seconds that the host spent on each analysis, and on the pass as a whole; an analysis
            with forward passes of its own is not part of the pass.
        weights: What a token reads of the model.
        norms: ‖w_i‖ of each neuron's column of the down projection.
        states: What was counted, by analysis; "core" is always there.
        further: Results of analyses with forward passes of their own, by name.
        results: Every result by name, such as `results["overlap"]`.
        frames: Tables by name, such as `frames["neurons"]`; `frame()` is that of the layers.
        figures: Figures by name, such as `figures["overlap"]`; `figure()` is that of the layers.
    """

    model: str
    label: str
    dtype: str
    device: str
    n_documents: int
    n_windows: int
    sample_every: int
    stride: int
    n_sampled: int
    seconds: float
    costs: Mapping[str, float]
    weights: Weights
    norms: Float[Tensor, "layer d_mlp"]
    states: Mapping[str, State]
    further: Mapping[str, Result] = field(default_factory=dict)
    # Fields, because notebooks complete the keys of fields and not those of properties.
    results: Results = field(init=False)
    frames: Frames = field(init=False)
    figures: Figures = field(init=False)

    def __post_init__(self) -> None:
        results = Results(self.states, self.further, self.weights)
        object.__setattr__(self, "results", results)
        object.__setattr__(self, "frames", Frames(results, self.costs, self.n_sampled))
        object.__setattr__(self, "figures", Figures(results))

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

    # ------------------------------------------------------------------ tables and figures

    def frame(self) -> pd.DataFrame:
        """One row per layer; the other tables are in `frames`."""
        return self.frames["layers"]

    def figure(self, *, dark: bool = False) -> "Figure":
        """Exact zeros by layer; the other figures are in `figures`."""
        return self.figures.draw("layers", dark=dark)

    def summary(self) -> dict[str, Any]:
        """The headline numbers, as JSON values."""
        return {
            "model": self.model,
            "dtype": self.dtype,
            "device": self.device,
            "documents": self.n_documents,
            "windows": self.n_windows,
            **tables.summary(self.counts),
            "sample_every": self.sample_every,
            "sampled_tokens": self.n_sampled,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
        }

    # ------------------------------------------------------------------ with other reports

    def merge(self, other: "SparsityReport") -> "SparsityReport":
        """The report of both texts together, exactly as one pass over both gives it.

        Results of analyses with forward passes of their own do not add up; they are left out.

        Raises:
            ValueError: The other is of another model, dtype or shape, or of other analyses.
        """
        if not isinstance(other, SparsityReport):
            raise WrongType(f"other is {other!r}; expected a report.")
        mine, theirs = ((r.model, r.dtype, tuple(r.fired.shape)) for r in (self, other))
        if mine != theirs:
            raise SettingError(
                f"cannot merge the reports of {mine} and {theirs}; expected one model."
            )
        mine, theirs = ((sorted(r.states), r.sample_every, r.stride) for r in (self, other))
        if mine != theirs:
            raise SettingError(
                f"cannot merge {mine[0]} at sample_every={mine[1]}, predictors at 1 token in "
                f"{mine[2]}, with {theirs[0]} at 1 in {theirs[1]} and {theirs[2]}; measure both "
                "with the same analyses= and sample_every=."
            )
        states = {}
        for name, state in self.states.items():
            kept = every_token.kept_rows(state) if name == "core" else registry.streamed(name).kept
            states[name] = join(state, other.states[name], kept)
        summed = ("n_documents", "n_windows", "n_sampled", "seconds")
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
        """This report compared with another: of another model, checkpoint, quantisation or text.

        Raises:
            ValueError: Models of different shapes.
        """
        return compare(self, other)

    # ------------------------------------------------------------------ files and faces

    @checked
    def save(self, folder: str | Path) -> list[Path]:
        """Writes the report so that `load` reads it, every table as Parquet, every figure as PNG.

        Args:
            folder: A folder that exists. Each file is whole or absent, whatever happens.

        Returns:
            The files.
        """
        figures = {_FILES.get(name, name): name for name in self.figures}
        facts = {name: getattr(self, name) for name in report_files.FACTS}
        return report_files.write(
            Path(folder),
            facts=facts | {"costs": dict(self.costs), "weights": asdict(self.weights)},
            states=self.states,
            norms=self.norms,
            further=self.further,
            summary=self.summary(),
            layers=self.frame().to_dict(orient="records"),
            frames={name: frame for name, frame in self.frames.items() if name != "layers"},
            figures={file: partial(self._png, name) for file, name in figures.items()},
        )

    @classmethod
    @checked
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
            raise SavedDamaged(
                f"{Path(folder) / report_files.REPORT} is damaged: {error}; measure again."
            ) from error

    def _png(self, name: str) -> bytes:
        from arcee_lab.views.figures import figure

        return figure.png(self.figures[name])

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
        said = (
            f"{self._named}, {self.dtype}: {self.zeros.mean():.1%} of activations are exactly zero "
            f"over N = {self.n_tokens:,} tokens; padding is not counted"
        )
        if not self.n_first:  # no role of a conversation may have any
            return said
        return (
            f"{said}, and {self.n_first:,} first positions are counted separately "
            f"({self.zeros_first.mean():.1%})"
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

        frame = self.frame().drop(columns=["layer", "n_tokens", "dead_below"])
        return heat_table(
            frame.to_numpy().tolist(),
            [str(layer) for layer in range(len(frame))],
            [name.replace("_", " ") for name in frame.columns],
            corner="layer",
            by_column=True,
        )
