"""One forward inside a block: which tokens it holds, and which of them are meant."""

import random
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from arcee_lab.calls import Call
from arcee_lab.interventions.placing import Placed
from arcee_lab.interventions.where import Where
from arcee_lab.sites import Axes


@dataclass(frozen=True)
class Forward:
    """A call of the backbone as interventions see it; a checkpointed layer's recomputation too.

    Attributes:
        call: Its tokens.
        number: Of the call in the block, from 0.
        generating: Whether `generate` made the call.
        placed: The block's tensors by device.
        tags: What `set_tags` was given last.
        matched: Condition -> whether any token has met it so far, on the device.
    """

    call: Call
    number: int
    generating: bool
    placed: Placed
    tags: Tensor | None
    matched: dict[Where, Tensor]
    _hits: dict[tuple[Where, torch.device], Tensor] = field(default_factory=dict)

    def hits(self, where: Where, device: torch.device) -> Bool[Tensor, "batch pos"]:
        """Which tokens of the call a condition means, computed once a call and device."""
        key = (where, device)
        if key not in self._hits:
            hit = where.hits(self.call, device, self.placed, self.tags)
            self._hits[key] = hit
            before = self.matched.get(where)
            # Kept on the device: the host asks when the block ends.
            matched = hit.any()
            self.matched[where] = matched if before is None else matched | before.to(device)
        return self._hits[key]

    def check_length(self, x: Tensor, axis: int | None, axes: Axes, name: str) -> None:
        """Checks that a site holds all tokens of the call, before they are told apart.

        Raises:
            ValueError: For logits of which only some were kept.
        """
        if axis is not None and x.shape[axis] != self.call.length:
            raise ValueError(
                f"{name} holds {x.shape[axis]} of the {self.call.length} tokens of the call "
                "(logits_to_keep, which generate sets too), so tokens cannot be told apart there. "
                "Intervene without positions, tokens, tags, mask or source, or at "
                "norm.hook_normalized."
            )

    def random(self, seed: int) -> random.Random:
        """Random numbers that are the same at every site and in every recomputation."""
        return random.Random(f"{seed} {self.number}")
