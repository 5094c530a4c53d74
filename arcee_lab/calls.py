"""What one call of the backbone says of its tokens: which they are, and which of them are real."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from arcee_lab.model.tokens import attended_tokens, tokens_seen

# Names of the backbone's first arguments, for calls that give them by place.
_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "cache", "inputs_embeds")


# A named tuple, not a dataclass: one is made a forward.
class Call(NamedTuple):
    """One call of the backbone.

    Attributes:
        tokens: `[batch, pos]` ids, or None where embeddings were given.
        mask: The attention mask as given: None, `[batch, k_pos]` or 4-D.
        batch: Sequences.
        length: Tokens of this call.
        seen: Tokens in the cache before it; 0 where nobody asked.
    """

    tokens: Tensor | None = None
    mask: object = None
    batch: int = 0
    length: int = 0
    seen: int | Tensor = 0

    def attended(self, device: torch.device) -> Bool[Tensor, "batch pos"]:
        """Which tokens of the call are real: True but for padding."""
        return attended_tokens(
            self.mask, batch=self.batch, length=self.length, device=device, seen=self.seen
        )


def read_call(args: Sequence[object], kwargs: Mapping[str, object], *, seen: bool) -> Call:
    """Reads the arguments of a call of the backbone.

    Args:
        args: By place.
        kwargs: By name.
        seen: Whether the length of the cache is wanted too.
    """
    given = dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs)
    tokens = given.get("input_ids")
    shaped = given.get("inputs_embeds") if tokens is None else tokens
    cache = given.get("cache")
    cache = given.get("past_key_values") if cache is None else cache
    return Call(
        tokens=tokens,  # type: ignore[arg-type]
        mask=given.get("attention_mask"),
        batch=0 if shaped is None else shaped.shape[0],  # type: ignore[attr-defined]
        length=0 if shaped is None else shaped.shape[1],  # type: ignore[attr-defined]
        seen=tokens_seen(cache) if seen else 0,  # type: ignore[arg-type]
    )
