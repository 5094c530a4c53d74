"""What CETT came to: thresholds, errors and sparsity, layer by layer, and the cut at a target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.interventions import Cett
from arcee_lab.results import Result

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

TARGETS = (0.01, 0.05, 0.1, 0.2)


@dataclass(frozen=True, repr=False)
class CettCurves(Result):
    """CETT and sparsity of each layer against the threshold; see `sampled/_cett.py`.

    Attributes:
        model: Name of the model.
        n_tokens: N, tokens of the sample; neither padding nor first positions.
        n_documents: Documents they come from.
        seed: Of the order in which these were drawn.
        eps: Thresholds on ‖n_i‖, in the unit of the residual stream, ascending.
        error: CETT at each threshold, the mean over N tokens.
        dropped: Neurons below each threshold, summed over N tokens, exact zeros included.
        active: Neurons above zero, summed over N tokens.
        norms: ‖w_i‖, lengths of the columns of the down projection.
        squared: Whether the activation is relu²; else it is relu.
    """

    model: str
    n_tokens: int
    n_documents: int
    seed: int
    eps: Float[Tensor, "layer edge"]
    error: Float[Tensor, "layer edge"]
    dropped: Int[Tensor, "layer edge"]
    active: Int[Tensor, " layer"]
    norms: Float[Tensor, "layer d_mlp"]
    squared: bool

    @property
    def zeros(self) -> Float[Tensor, " layer"]:
        """The share of exact zeros on the same tokens."""
        return 1 - self.active.double() / (self.n_tokens * self.norms.shape[1])

    @property
    def sparsity(self) -> Float[Tensor, "layer edge"]:
        """The share of neurons below each threshold."""
        return self.dropped.double() / (self.n_tokens * self.norms.shape[1])

    def eps_at(self, target: float) -> Float[Tensor, " layer"]:
        """By layer, the largest measured threshold up to which CETT stays within the target.

        Nothing is interpolated. Where even the smallest threshold errs by more, it is the smallest
        number that fp32 holds, which drops zeros alone.

        Raises:
            ValueError: A target outside 0 to 1.
        """
        place = self._place(target)
        found = self.eps.gather(1, place.clamp(min=0)[:, None])[:, 0]
        return found.where(place >= 0, torch.finfo(torch.float32).tiny)

    def sparsity_at(self, target: float) -> Float[Tensor, " layer"]:
        """The share of neurons that a layer loses at `eps_at(target)`."""
        place = self._place(target)
        found = self.sparsity.gather(1, place.clamp(min=0)[:, None])[:, 0]
        return found.where(place >= 0, self.zeros)

    def error_at(self, target: float) -> Float[Tensor, " layer"]:
        """CETT at `eps_at(target)`; at most the target."""
        place = self._place(target)
        return self.error.gather(1, place.clamp(min=0)[:, None])[:, 0].where(place >= 0, 0.0)

    def thresholds(self, target: float) -> Float[Tensor, "layer d_mlp"]:
        """The cut as a threshold per neuron: it is dropped where relu(u_i) is below."""
        a = self.eps_at(target)[:, None] / self.norms
        return a.sqrt() if self.squared else a

    def interventions(self, target: float) -> list[Cett]:
        """The cut of all layers as a value, for `al.intervene` and the evaluations."""
        names = [f"layers.{layer}.mlp.hook_post" for layer in range(len(self.eps))]
        return [Cett(names, dict(zip(names, self.eps_at(target).tolist(), strict=True)))]

    def frame(self, targets: Sequence[float] = TARGETS) -> pd.DataFrame:
        """One row per layer and target: threshold, CETT reached, sparsity, exact zeros, N."""
        rows = {
            "layer": list(range(len(self.eps))) * len(targets),
            "target": [target for target in targets for _ in range(len(self.eps))],
            "eps": torch.cat([self.eps_at(t) for t in targets]).tolist(),
            "cett": torch.cat([self.error_at(t) for t in targets]).tolist(),
            "sparsity": torch.cat([self.sparsity_at(t) for t in targets]).tolist(),
            "zeros": self.zeros.tolist() * len(targets),
            "n_tokens": self.n_tokens,
        }
        return pd.DataFrame(rows)

    def figure_layers(self, targets: Sequence[float] = TARGETS, *, dark: bool = False) -> "Figure":
        """Neurons left by layer: all that are not exactly zero, and those that a cut leaves."""
        from arcee_lab.views.figures.curves import percent
        from arcee_lab.views.figures.layers import nested_bars

        left = [1 - self.zeros, *(1 - self.sparsity_at(target) for target in targets)]
        last = 1 - float(self.sparsity_at(targets[-1]).mean())
        return nested_bars(
            [share.numpy() for share in left],
            ["not exactly zero", *(f"left at CETT {percent(target)}" for target in targets)],
            what="share of neurons left",
            title=f"{1 - float(self.zeros.mean()):.1%} of neurons fire, {last:.1%} are left at "
            f"CETT {percent(targets[-1])} (N = {self.n_tokens:,} tokens)",
            dark=dark,
        )

    def figure_curves(self, *, dark: bool = False) -> "Figure":
        """Active neurons that are left against the error, one line per layer."""
        from arcee_lab.views.figures.bands import Axis, Band, bands
        from arcee_lab.views.figures.curves import percent

        lines = [
            Band(f"layer {layer}", error.numpy(), (1 - sparsity).numpy(), dots=False)
            for layer, (error, sparsity) in enumerate(zip(self.error, self.sparsity, strict=True))
        ]
        target = TARGETS[-1]
        left = 1 - self.sparsity_at(target)
        return bands(
            lines,
            x=Axis(
                "CETT: error of the MLP's output, as a share of its length",
                "log",
                True,
                (5e-4, 1.0),
            ),
            y=Axis("share of neurons left", "log", True, (1e-4, None)),
            title=f"At an error of {percent(target)} a layer keeps {float(left.min()):.1%} to "
            f"{float(left.max()):.1%} of its neurons (N = {self.n_tokens:,} tokens)",
            marks=[(target, percent(target)) for target in TARGETS],
            dark=dark,
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """The same as `figure_curves`."""
        return self.figure_curves(dark=dark)

    @property
    def headline(self) -> str:
        """The result in one sentence, with its N."""
        from arcee_lab.views.figures.curves import percent

        cuts = ", ".join(
            f"{float(self.sparsity_at(t).mean()):.1%} at {percent(t)}" for t in TARGETS
        )
        return (
            f"{self.model}: {float(self.zeros.mean()):.1%} of neurons are exactly zero; within a "
            f"CETT, the error of an MLP's output, may be dropped {cuts} "
            f"(N = {self.n_tokens:,} tokens)"
        )

    def _repr_html_(self) -> str:
        from html import escape

        from arcee_lab.views.html import heat_table

        columns = [self.zeros, *(self.sparsity_at(target) for target in TARGETS)]
        table = heat_table(
            torch.stack(columns, dim=1).tolist(),
            [str(layer) for layer in range(len(self.eps))],
            ["exact zeros", *(f"at CETT {target:g}" for target in TARGETS)],
            corner="layer",
            by_column=True,
        )
        return f"<p>{escape(self.headline)}</p>{table}"

    def _place(self, target: float) -> Int[Tensor, " layer"]:
        if not 0 <= target <= 1:
            raise SettingError(f"CETT target is {target}; expected a share from 0 to 1.")
        return (self.error.cummax(dim=1).values <= target).sum(dim=1) - 1
