"""One forward inside a block: which tokens it holds, and which of them are meant."""

import random
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.hooks.call import Call
from arcee_lab.interventions.conditions import Where
from arcee_lab.interventions.device_cache import Placed
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
        misplaced: Site -> whether any token got the activation of another one, on the device.
    """

    call: Call
    number: int
    generating: bool
    placed: Placed
    tags: Tensor | None
    matched: dict[Where, Tensor]
    misplaced: dict[str, Tensor]
    _hits: dict[tuple[Where, torch.device], Tensor] = field(default_factory=dict)

    def hits(self, where: Where, device: torch.device) -> Bool[Tensor, "batch pos"]:
        """Which tokens of the call a condition means, computed once per call and device."""
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
        """Checks that a site holds all tokens of the call, before they are distinguished.

        Raises:
            ValueError: For logits of which only some were kept.
        """
        if axis is not None and x.shape[axis] != self.call.length:
            raise SettingError(
                f"{name} holds {x.shape[axis]} of the {self.call.length} tokens of the call "
                "(logits_to_keep, which generate sets too), so tokens cannot be distinguished "
                "there. Intervene without positions, tokens, tags, mask or source, or at "
                "norm.hook_normalized."
            )

    def compare_tokens(
        self, attended: Bool[Tensor, "batch columns"], where: Where, device: torch.device, name: str
    ) -> None:
        """Notes whether the tokens that are meant stand at the columns of the same ones elsewhere.

        Args:
            attended: Which columns of the other run are real.
            where: The tokens that are meant.
            device: Of the site.
            name: Of the site.
        """
        real = self.call.attended(device)
        there, inside = self.call.own_columns(self.placed.tensor(attended, device))
        rank = self.placed.tensor(attended, device).cumsum(dim=1) - 1
        mine = real.cumsum(dim=1) - 1 + self.call.attended_before(real)
        same = there & (self.call.own_columns(rank)[0] == mine)
        meant = real if where.everywhere else self.hits(where, device)
        wrong = (meant & inside & ~same).any()
        before = self.misplaced.get(name)
        self.misplaced[name] = wrong if before is None else wrong | before.to(device)

    def random(self, seed: int) -> random.Random:
        """Random numbers that are the same at every site and in every recomputation."""
        return random.Random(f"{seed} {self.number}")
