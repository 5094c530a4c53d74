"""Row 19: layers against each other.

    corr(k^l, k^l')        over tokens: do layers use many neurons at the same tokens? (core counts)
    cos(x^l, x^{l+1})      mean over tokens of the cosine of two MLP inputs, one layer apart
    v_ji = W_up^{l'}[j] · (γ ∘ w_i)     virtual weight from neuron i of layer l to neuron j of l'

Sources: Liu et al., "Deja Vu", arXiv:2310.17157 (inputs of neighbouring layers are alike, so the
layer before can predict); Gurnee et al., "Universal Neurons in GPT2", arXiv:2401.12181, and
Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021), for virtual weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.sparsity.core import window_means
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.core.window_means import Mean
from arcee_lab.sparsity.sampled.mlps import mlps
from arcee_lab.sparsity.streamed.analysis import Analysis, LayerBatch

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True, repr=False)
class AcrossLayersResult(Result):
    """How layers go together.

    Attributes:
        correlation: Pearson's correlation of active neurons over all N tokens, `[layer, layer]`.
        cosine: Mean cosine of the MLP inputs of layer l and l + 1, by l; the last is NaN.
        tokens: N.
    """

    correlation: np.ndarray
    cosine: Mean
    tokens: int

    @property
    def headline(self) -> str:
        there = self.cosine.value[np.isfinite(self.cosine.value)]
        if not len(there):
            return f"N = {self.tokens:,} tokens, one layer"
        return (
            f"N = {int(self.cosine.windows.max(initial=0)):,} windows: inputs of neighbouring "
            f"layers have a cosine of {there.min():.2f} to {there.max():.2f}"
        )

    @property
    def _mean_of_pairs(self) -> float:
        return window_means.average(self._pairs)

    @property
    def _pairs(self) -> np.ndarray:
        return self.correlation[np.triu_indices(len(self.correlation), 1)]

    @property
    def _finding(self) -> str:
        mean = self._mean_of_pairs
        if not np.isfinite(mean):
            n = counted(self.tokens, "token")
            if len(self.correlation) == 1:
                return f"One layer alone (N = {n})"
            return f"No two layers whose active neurons vary over tokens (N = {n})"
        low, high = np.nanmin(self._pairs), np.nanmax(self._pairs)
        found = "How busy one layer is says little about another"
        if abs(mean) >= 0.1:  # less explains under a hundredth of the variance
            who = "Layers" if low * high > 0 else "Most pairs of layers"
            found = f"{who} are busy at {'the same' if mean > 0 else 'different'} tokens"
        several = f"{low:.2f} to {high:.2f}, mean " if len(self._pairs) > 1 else ""
        numbers = f"correlation {several}{mean:.2f}".replace("-", "−")
        return f"{found}: {numbers} (N = {self.tokens:,} tokens)"

    def frame(self) -> "pd.DataFrame":
        """One row per pair of layers: layer, other, correlation; cosine where other is the next."""
        import pandas as pd

        layers = len(self.correlation)
        layer, other = np.divmod(np.arange(layers**2), layers)
        following = other == layer + 1
        return pd.DataFrame(
            {
                "layer": layer,
                "other": other,
                "correlation": self.correlation.ravel(),
                "cosine": np.where(following, self.cosine.value[layer], np.nan),
                "cosine_half": np.where(following, self.cosine.ci_half_width[layer], np.nan),
                "n_tokens": self.tokens,
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """The correlations as a map, each pair of layers once."""
        from arcee_lab.views.figures.effects import effect_map

        names = [str(layer) for layer in range(len(self.correlation))]
        pairs = np.where(np.tri(len(names), dtype=bool).T, np.nan, self.correlation)
        return effect_map(
            pairs,
            names,
            names,
            across="layer",
            down="layer",
            what="correlation of active neurons",
            title=self._finding,
            dark=dark,
        )


class AcrossLayers(Analysis):
    """Compares each MLP's input with that of the layer before."""

    name: ClassVar[str] = "neighbours"
    title: ClassVar[str] = "Layers against each other"
    reading: ClassVar[str] = (
        "The deeper the orange, the more two layers use many neurons at the same tokens; blue, at "
        "different ones; each pair of layers is drawn once. The cosine of neighbouring inputs, a "
        "column of its frame, says how well one layer's input stands for the next, which is what "
        "the lookahead predictor relies on."
    )

    def init(self, shape: Shape, device: torch.device) -> State:
        return window_means.new("cosine", (shape.layers,), device)

    def layer(self, state: State, seen: LayerBatch) -> None:
        if seen.before is None:
            return
        # Rounded terms are summed as they are: cosines may be negative.
        wide = torch.promote_types(seen.x.dtype, torch.float32)
        one, two = seen.before.to(wide), seen.x.to(wide)
        lengths = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(two, dim=1)
        cosine = torch.linalg.vecdot(one, two) / lengths.clamp(min=torch.finfo(two.dtype).tiny)
        spans = seen.tokens.spans
        sums = window_means.by_window(cosine, spans)
        window_means.add(
            state,
            "cosine",
            seen.layer - 1,
            sums,
            window_means.by_window(torch.ones_like(cosine), spans),
        )

    def result(self, state: State, counts: CoreCounts) -> AcrossLayersResult:
        return AcrossLayersResult(
            counts.correlation, window_means.mean(state, "cosine"), counts.n_tokens
        )


@checked
def virtual_weights(
    model: Any, layer: int, units: Sequence[int], to_layer: int, *, top: int = 10
) -> "pd.DataFrame":
    """The strongest direct weights from neurons to those of a later layer.

    γ is the gain of the norm before the later MLP; what attention does between is left out, and the
    norm's scale, one number per token, is not in a weight.

    Args:
        model: An Arcee model, any head.
        layer: Where the neurons are.
        units: Their numbers.
        to_layer: A later layer.
        top: How many neurons of the later layer to give for each, by absolute weight.

    Returns:
        One row per pair: layer, unit, to_layer, to_unit, weight, cosine.

    Raises:
        ValueError: Layers not in order or out of range, or a unit out of range.

    Example:
        >>> import arcee_lab as al
        >>> model, _ = al.load("demo")
        >>> len(al.sparsity.virtual_weights(model, 0, [3, 17], 2, top=5))
        10
    """
    import pandas as pd

    anatomy, found = anatomy_of(model), mlps(model)
    if not 0 <= layer < to_layer < len(found):
        raise SettingError(
            f"layer={layer}, to_layer={to_layer}: expected layer < to_layer, from 0 to "
            f"{len(found) - 1}."
        )
    wrong = [unit for unit in units if not 0 <= unit < found[layer].d_mlp]
    if wrong:
        raise SettingError(
            f"unit {wrong[0]} is out of range; expected 0 to {found[layer].d_mlp - 1}."
        )
    norm: Any = anatomy.backbone.get_submodule(f"layers.{to_layer}.post_attention_layernorm")
    gain = norm.weight.detach().float()
    writes = found[layer].down_weight()[:, list(units)].float() * gain[:, None]
    reads = found[to_layer].up_weight().float()
    weights = reads @ writes  # to_unit unit
    cosine = weights / (reads.norm(dim=1)[:, None] * writes.norm(dim=0)[None])
    rows = []
    for place, unit in enumerate(units):
        for other in weights[:, place].abs().topk(min(top, len(weights))).indices.tolist():
            pair = weights[other, place].item(), cosine[other, place].item()
            rows.append((layer, unit, to_layer, other, *pair))
    names = ["layer", "unit", "to_layer", "to_unit", "weight", "cosine"]
    return pd.DataFrame(rows, columns=names)
