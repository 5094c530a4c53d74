"""What one call of the backbone says of its tokens: which they are, and which of them are real."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arcee_lab.model.attended import attended_tokens, readable, tokens_seen

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
        position_ids: As given: None, or `[batch or 1, pos]`.
    """

    tokens: Tensor | None = None
    mask: object = None
    batch: int = 0
    length: int = 0
    seen: int | Tensor = 0
    position_ids: Tensor | None = None

    def attended(self, device: torch.device) -> Bool[Tensor, "batch pos"]:
        """Which tokens of the call are real: True but for padding."""
        return attended_tokens(
            self.mask, batch=self.batch, length=self.length, device=device, seen=self.seen
        )

    def attended_before(
        self, real: Bool[Tensor, "batch pos"]
    ) -> int | Tensor | Int[Tensor, "batch 1"]:
        """Attended tokens of each sequence that are in the cache; `real` is `attended`."""
        seen = self.seen
        if (isinstance(seen, int) and seen == 0) or not isinstance(self.mask, Tensor):
            return seen
        mask = self.mask.to(real.device)
        if mask.ndim == 2:
            if mask.shape[1] == self.length:
                return seen
            earlier = torch.arange(mask.shape[1], device=mask.device) < seen
            return ((mask != 0) & earlier).sum(dim=1, keepdim=True)
        row = readable(mask)[:, 0]  # what the call's first token may read, itself included
        return (row.sum(dim=-1, keepdim=True) - real[:, :1].long()).clamp(min=0)

    def firsts(self, real: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Which tokens begin a sequence: they have nothing before them to read.

        Under packing the first of each document is one, as far as the call tells documents apart:
        by a 4-D mask, or by position ids that start again.
        """
        first = real.cumsum(dim=1) + self.attended_before(real) == 1
        if isinstance(self.mask, Tensor) and self.mask.ndim == 4:
            first = first | (readable(self.mask.to(real.device)).sum(dim=-1) == 1)
        if self.position_ids is not None:
            places = self.position_ids.to(real.device)
            first = first | (places == 0)
            if not isinstance(self.mask, Tensor):
                # As transformers tells packed documents apart.
                jumps = places.diff(dim=1, prepend=places[:, :1] - 1) != 1
                first = first | jumps
        return first & real

    def own_columns(self, given: Tensor) -> tuple[Tensor, Bool[Tensor, " pos"]]:
        """The columns of a tensor over the whole sequence that are this call's, and which exist."""
        columns = torch.arange(self.length, device=given.device) + self.seen
        last = given.shape[1] - 1
        return given.index_select(1, columns.clamp(max=last)), columns <= last


def given_cache(args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """The cache of a call under either of its names, or None."""
    given = dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs)
    cache = given.get("cache")
    return given.get("past_key_values") if cache is None else cache


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
    cache = given_cache(args, kwargs)
    return Call(
        tokens=tokens,  # type: ignore[arg-type]
        mask=given.get("attention_mask"),
        batch=0 if shaped is None else shaped.shape[0],  # type: ignore[attr-defined]
        length=0 if shaped is None else shaped.shape[1],  # type: ignore[attr-defined]
        seen=tokens_seen(cache) if seen else 0,  # type: ignore[arg-type]
        position_ids=given.get("position_ids"),  # type: ignore[arg-type]
    )
