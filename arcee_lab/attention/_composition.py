"""How much a head reads of what an earlier head writes, from their weights alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.attention.circuits import HeadWeights, head_weights
from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.results import Result
from arcee_lab.sites import head_name

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

Kind = Literal["q", "k", "v"]


@dataclass(frozen=True, repr=False)
class Composition(Result):
    """Composition scores of all pairs of heads of two layers.

    Attributes:
        kind: "q", "k" or "v": what of the reader is made from what the writer writes.
        scores: From 0 to 1; NaN where the writer is not in an earlier layer.
        chance: The average score of two matrices that are rotated at random, independently.
    """

    kind: Kind
    scores: Float[Tensor, "layer head layer head"]
    chance: float

    def frame(self) -> pd.DataFrame:
        """One row per pair, the largest first: reader, writer, their layers and heads, score."""
        known = (~self.scores.isnan()).nonzero()
        values = self.scores[tuple(known.T)]
        order = values.argsort(descending=True, stable=True)
        rows = known[order]
        table = pd.DataFrame(
            rows.numpy(), columns=["reader_layer", "reader_head", "writer_layer", "writer_head"]
        )
        table["score"] = values[order].numpy()
        return table

    def figure(self, *, dark: bool = False) -> "Figure":
        """Readers down, writers across; how far each score is above or below chance."""
        from arcee_lab.views.figures.effects import effect_map

        layers, heads = self.scores.shape[:2]
        names = [head_name(layer, head) for layer in range(layers) for head in range(heads)]
        values = (self.scores - self.chance).flatten(2).flatten(0, 1)
        return effect_map(
            values.numpy(),
            names,
            names,
            across="writer",
            down="reader",
            what=f"score minus chance ({self.chance:.3f})",
            title=self.headline,
            dark=dark,
        )

    @property
    def headline(self) -> str:
        """The largest score, with chance."""
        table = self.frame()
        if table.empty:
            return f"{self.kind.upper()}-composition: one layer, so no head reads another"
        best = table.iloc[0]
        reader = head_name(int(best.reader_layer), int(best.reader_head))
        writer = head_name(int(best.writer_layer), int(best.writer_head))
        return (
            f"{self.kind.upper()}-composition of {len(table):,} pairs: largest {best.score:.3f}, "
            f"{reader} of {writer}; chance {self.chance:.3f}"
        )


def composition(model: nn.Module, kind: Kind) -> Composition:
    """How much each head's queries, keys or values read of what each earlier head writes.

    The score of a writer with OV circuit `W` and a reader is `|M W| / (|M| |W|)` in Frobenius
    norms, where `M` is the reader's OV ("v"), its QK ("k": keys are on the right), or the transpose
    of that ("q"). It is 1 where the writer writes a single direction and the reader reads only
    that one. The gain of the reader's norm is included; RoPE and the MLPs between the two are not.
    No `[d_model, d_model]` matrix is made.

    Source: Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021, "Composition
    scores".

    Args:
        model: One of arcee_lab's models.
        kind: "q", "k" or "v".

    Returns:
        The scores of all pairs, and the score that chance gives: for matrices of width d that are
        rotated at random, independently, the mean square of the score is 1/d, so chance is
        `d ** -0.5`.

    Raises:
        ValueError: For another kind.

    Example:
        >>> import arcee_lab as al
        >>> model, _ = al.load("demo")
        >>> found = al.attention.composition(model, "k")
        >>> bool((found.scores[3, 0, 1] > 0).all())
        True
    """
    if kind not in ("q", "k", "v"):
        raise SettingError(f"kind={kind!r}; expected 'q', 'k' or 'v'.")
    anatomy = anatomy_of(model)
    layers, heads = len(anatomy.backbone.layers), anatomy.size("head")
    scores = torch.full((layers, heads, layers, heads), torch.nan)
    weights = [head_weights(anatomy, layer) for layer in range(layers)]
    written = [_spread(one.v, heads) for one in weights]
    for reader in range(1, layers):
        left, right = _reads(weights[reader], kind, heads)
        outer = left.transpose(1, 2) @ left  # [head, r, r]
        own = (outer * (right @ right.transpose(1, 2))).sum((1, 2)).sqrt()
        for writer in range(reader):
            o, v = weights[writer].o, written[writer]
            inner = v @ v.transpose(1, 2)
            its = ((o.transpose(1, 2) @ o) * inner).sum((1, 2)).sqrt()
            # |L (R O) V|² = tr(LᵀL · (R O) · VVᵀ · (R O)ᵀ), all r x r.
            middle = torch.einsum("hrd,gds->hgrs", right, o)
            turned = outer[:, None] @ middle @ inner[None]
            both = (turned * middle).sum((2, 3)).clamp_min(0).sqrt()
            scores[reader, :, writer] = (both / (own[:, None] * its)).float().cpu()
    return Composition(kind, scores, anatomy.size("d_model") ** -0.5)


def _reads(weights: HeadWeights, kind: Kind, heads: int) -> tuple[Tensor, Tensor]:
    """The factors of what the reader applies to a stream, `[head, d, r]` and `[head, r, d]`."""
    if kind == "v":
        return weights.o, _spread(weights.v, heads)
    q, k = weights.q, _spread(weights.k, heads)
    return (q.transpose(1, 2), k) if kind == "k" else (k.transpose(1, 2), q)


def _spread(x: Tensor, heads: int) -> Tensor:
    """Each kv head for its query heads."""
    return x.repeat_interleave(heads // len(x), dim=0)
