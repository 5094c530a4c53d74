"""Which tokens of a call are real: the mask that every statistic and every position uses."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from transformers import Cache


def attended_tokens(
    attention_mask: object,
    *,
    batch: int,
    length: int,
    device: torch.device,
    seen: int | Tensor = 0,
) -> Bool[Tensor, "batch pos"]:
    """Reads the attention mask of a call as "this token is real".

    Never reads back from the device.

    Args:
        attention_mask: `None` (all tokens are real); `[batch, k_pos]` with 0 for padding, of which
            the `length` columns after the first `seen` are this call's; or a 4-D boolean or
            additive mask, where a token is real if it may read itself (under a cache: if it may
            read anything).
        batch: Sequences of the call.
        length: Tokens of the call.
        device: Where the result is wanted.
        seen: Tokens in the cache before the call; a tensor where reading it would stall the device.
    """
    if not isinstance(attention_mask, Tensor):
        return torch.ones(batch, length, dtype=torch.bool, device=device)
    mask = attention_mask.to(device)
    if mask.ndim == 2:
        if mask.shape[1] != length:
            columns = torch.arange(length, device=device) + seen
            mask = mask.index_select(1, columns)
        return (mask != 0).expand(batch, length)
    mask = readable(mask)
    own = mask.diagonal(dim1=-2, dim2=-1) if mask.shape[-1] == length else mask.any(dim=-1)
    return own.expand(batch, length)


def readable(mask: Shaped[Tensor, "_ _ q_pos k_pos"]) -> Bool[Tensor, "_ q_pos k_pos"]:
    """Which keys each token may read by a 4-D mask, boolean, of whole numbers or additive."""
    mask = mask[:, 0]
    if mask.dtype == torch.bool:
        return mask
    return mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask != 0


def tokens_seen(cache: Cache | None) -> int | Tensor:
    """Tokens that a cache holds before a call; without a cache none."""
    seen = 0 if cache is None else cache.get_seq_length()
    # A static cache returns its own counter, which the call is about to raise.
    return seen.clone() if isinstance(seen, Tensor) else seen
