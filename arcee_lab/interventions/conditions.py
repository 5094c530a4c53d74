"""Which tokens of a call an intervention means."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from arcee_lab.errors import SiteError
from arcee_lab.hooks.call import Call
from arcee_lab.hooks.selection import Indices
from arcee_lab.interventions.constants import Constant
from arcee_lab.interventions.device_cache import Placed


@dataclass(frozen=True)
class Where:
    """Conditions on tokens; a token is meant if all that are given hold. Never a padding token.

    Attributes:
        positions: From 0: attended tokens of the sequence, those in the cache included. Negative:
            from the end of the call, so that -1 is each new token of a cached decode.
        tokens: Ids.
        tags: Numbers in the tensor that the block's `set_tags` was given.
        mask: `[batch or 1, columns]`, True where meant. Columns are those of the whole sequence,
            padding and cache included; columns past its end are not meant.
    """

    positions: Indices | None = None
    tokens: Indices | None = None
    tags: Indices | None = None
    mask: Constant | None = None

    @property
    def everywhere(self) -> bool:
        """Whether there is no condition; then padding is changed too."""
        return self == Where()

    def check(self, call: Call, tags: Tensor | None) -> None:
        """Checks what a call has to bring, from shapes alone.

        Raises:
            ValueError: If it lacks ids or tags, or its batch is not that of the mask or tags.
        """
        if self.tokens is not None and call.tokens is None:
            raise SiteError(
                "tokens= needs token ids, and the model was given inputs_embeds. Use positions= or "
                "mask=."
            )
        if self.tags is not None and tags is None:
            raise SiteError(
                "tags= needs tags: call block.set_tags(tensor) inside the block, before the model."
            )
        given = {"mask": self.mask and self.mask.tensor, "set_tags": self.tags and tags}
        for what, tensor in given.items():
            if isinstance(tensor, Tensor) and tensor.shape[0] not in (1, call.batch):
                raise SiteError(
                    f"{what} has {tensor.shape[0]} rows and the call {call.batch} sequences; give "
                    "one row per sequence (with beams, one per beam), or a single row for all."
                )

    def hits(
        self, call: Call, device: torch.device, placed: Placed, tags: Tensor | None
    ) -> Bool[Tensor, "batch pos"]:
        """Which tokens of the call are meant; never reads from the device."""
        real = hit = call.attended(device)
        if self.positions is not None:
            hit = hit & _at_positions(self.positions, call, real, placed)
        if self.tokens is not None:
            assert call.tokens is not None
            ids = placed.index(self.tokens, device)
            hit = hit & (call.tokens.to(device)[..., None] == ids).any(dim=-1)
        if self.tags is not None:
            assert tags is not None
            given, inside = call.own_columns(tags.to(device))
            hit = hit & inside & (given[..., None] == placed.index(self.tags, device)).any(dim=-1)
        if self.mask is not None:
            given, inside = call.own_columns(placed.tensor(self.mask.tensor, device))
            hit = hit & inside & given
        return hit


def _at_positions(
    positions: Indices, call: Call, real: Bool[Tensor, "batch pos"], placed: Placed
) -> Bool[Tensor, "batch pos"]:
    device = real.device
    rank = real.cumsum(dim=1) - 1
    hit = torch.zeros_like(real)
    ahead = tuple(p for p in positions if p >= 0)
    behind = tuple(p for p in positions if p < 0)
    if ahead:
        whole = rank + call.attended_before(real)
        hit = hit | (whole[..., None] == placed.index(ahead, device)).any(dim=-1)
    if behind:
        from_end = rank - real.sum(dim=1, keepdim=True)
        hit = hit | (from_end[..., None] == placed.index(behind, device)).any(dim=-1)
    return hit
