"""The last step of a model: the final norm, and the matrix of its head."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.errors import ModelError
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.layers import ArceeRMSNorm
from arcee_lab.model.wrappers.unwrap import unwrap

HEAD_OF = {"causal": "lm_head", "sequence": "score", "token": "score", "qa": "qa_outputs"}
# Logits held at a time: 128 MiB in fp32.
MOST_LOGITS = 2**25


class Readout:
    """Makes logits of any residual stream, as the model does of its last one.

    The norm is computed from its weight and not called, so that hooks on it see the model's own
    forwards alone. The head is called: it may be quantised, have adapters, or be split over ranks.

    Args:
        anatomy: Of the model.

    Raises:
        ModelError: The model has no head.
    """

    def __init__(self, anatomy: Anatomy):
        name = HEAD_OF.get(anatomy.legend.head)
        if name is None:
            raise ModelError(
                f"A {type(anatomy.model).__name__} has no head to read the residual stream with; "
                "load the model with head='causal' or another."
            )
        self._norm: Any = unwrap(anatomy.backbone.norm)
        self._head: Any = getattr(anatomy.model, name)

    def normalised(self, x: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """What the final norm makes of a residual stream, by the model's own arithmetic."""
        return normalised(self._norm, x)

    def logits(self, x: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any vocab"]:
        """What the head makes of a residual stream."""
        return self._head(self.normalised(x))

    def pieces(
        self, x: Float[Tensor, "batch pos d_model"], *, columns: int
    ) -> Iterator[tuple[slice, Float[Tensor, "some vocab"]]]:
        """Logits of all tokens, some tokens at a time and all columns of each.

        One product of the model's own shape where that is small enough, and then bit for bit what
        the model computes. The vocabulary is never cut: ranks and sums of a token then come from
        one product, and a token's logits are small.

        Args:
            x: A residual stream, normalised.
            columns: How many logits a token has.

        Yields:
            Which tokens, counted through the batch, and their logits.
        """
        tokens = x.shape[0] * x.shape[1]
        if tokens * columns <= MOST_LOGITS:
            yield slice(0, tokens), self._head(x).flatten(0, 1)
            return
        flat, step = x.flatten(0, 1), max(1, MOST_LOGITS // columns)
        for start in range(0, tokens, step):
            some = slice(start, min(start + step, tokens))
            yield some, self._head(flat[some])


def normalised(norm: ArceeRMSNorm, x: Float[Tensor, "*any d_model"]) -> Tensor:
    """`ArceeRMSNorm.forward` without its hook points, bit for bit.

    Args:
        norm: The norm.
        x: What it is applied to.
    """
    wide = x.to(torch.float32)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * (wide * scale).to(x.dtype)
