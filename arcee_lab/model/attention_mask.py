"""Which keys each query of a call may read, for the queries that are asked about and no more."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from arcee_lab.errors import ModelError

# Some queries of a call: a span, or by sequence `[batch, chosen]` places.
Queries = slice | Tensor
ALL = slice(None)


class Keys(NamedTuple):
    """Which keys some queries may read: a boolean mask, or additive logits where one was given.

    Attributes:
        allowed: True where the query may read the key.
        bias: Additive term of a float mask, or `None`.
        full: Whether each of the queries is known to read some key, without a look at the mask.
    """

    allowed: Bool[Tensor, "#batch #head q_pos k_pos"]
    bias: Float[Tensor, "#batch #head q_pos k_pos"] | None = None
    full: bool = False

    def additive(self, dtype: torch.dtype) -> Float[Tensor, "#batch #head q_pos k_pos"]:
        """The same as an additive mask, as the eager kernel wants it: 0 or the least number."""
        if self.bias is not None:
            return self.bias
        zero = torch.zeros((), dtype=dtype, device=self.allowed.device)
        return torch.where(self.allowed, zero, torch.finfo(dtype).min)

    def of_heads(self, heads: Tensor | None) -> "Keys":
        """The same for some heads only."""
        if heads is None or self.allowed.shape[1] == 1:
            return self
        bias = None if self.bias is None else self.bias.index_select(1, heads)
        return Keys(self.allowed.index_select(1, heads), bias, self.full)

    def until(self, end: int | None) -> "Keys":
        """The same without the keys from `end` on, of which none may be read."""
        bias = None if self.bias is None else self.bias[..., :end]
        return Keys(self.allowed[..., :end], bias, self.full)


class AttentionMask(ABC):
    """Answers for any queries of one call which keys they may read.

    Args:
        q_len: Queries of the call.
        k_len: Its keys, those of the cache included.
    """

    def __init__(self, q_len: int, k_len: int):
        self.q_len, self.k_len = q_len, k_len

    @abstractmethod
    def keys(self, queries: Queries = ALL) -> Keys:
        """Which keys these queries may read."""

    def end(self, stop: int) -> int:
        """A key from which on no query before `stop` may read anything."""
        return self.k_len


class MatrixMask(AttentionMask):
    """What a 4-D mask says.

    Args:
        mask: Boolean, True where a key may be read; or additive, with about the least number where
            it may not.
    """

    def __init__(self, mask: Tensor, q_len: int, k_len: int):
        super().__init__(q_len, k_len)
        self._mask = mask[..., :k_len]

    def keys(self, queries: Queries = ALL) -> Keys:
        """See `AttentionMask.keys`."""
        mask = take_queries(self._mask, queries)
        if mask.dtype == torch.bool:
            return Keys(mask)
        return Keys(mask > torch.finfo(mask.dtype).min / 2, mask)


class RuleMask(AttentionMask):
    """What a kernel does that reads no mask matrix.

    Args:
        q_len: Queries of the call.
        k_len: Its keys.
        device: Where masks are built.
        offset: Query i reads the keys up to i + offset; None: all.
        real: `[batch, k_pos]`, False for keys that nobody may read.
        sequence: `[batch, pos]`, the number of the packed sequence that each token belongs to.
    """

    def __init__(
        self,
        q_len: int,
        k_len: int,
        device: torch.device,
        *,
        offset: int | None,
        real: Tensor | None = None,
        sequence: Tensor | None = None,
    ):
        super().__init__(q_len, k_len)
        self._device, self._offset = device, offset
        self._real, self._sequence = real, sequence

    def keys(self, queries: Queries = ALL) -> Keys:
        """See `AttentionMask.keys`."""
        if isinstance(queries, slice):
            rows = torch.arange(self.q_len, device=self._device)[queries][None]
        else:
            rows = queries
        if self._offset is None:
            allowed = rows.new_ones((1, 1, rows.shape[1], self.k_len), dtype=torch.bool)
        else:
            last = rows[:, None, :, None] + self._offset
            allowed = torch.arange(self.k_len, device=self._device) <= last
        if self._real is not None:
            allowed = allowed & self._real[:, None, None, :]
        if self._sequence is not None:
            mine = take_queries(self._sequence[:, None, :, None], queries)
            allowed = allowed & (mine == self._sequence[:, None, None, :])
        return Keys(
            allowed, full=self._real is None and (self._offset is None or self._offset >= 0)
        )

    def end(self, stop: int) -> int:
        """See `AttentionMask.end`."""
        return self.k_len if self._offset is None else min(self.k_len, stop + self._offset)


class FlexMask(AttentionMask):
    """What flex attention's BlockMask says."""

    def __init__(self, mask: Any, q_len: int, k_len: int, *, batch: int, device: torch.device):
        super().__init__(q_len, k_len)
        self._mask, self._batch, self._device = mask, batch, device

    def keys(self, queries: Queries = ALL) -> Keys:
        """See `AttentionMask.keys`."""
        from torch.nn.attention.flex_attention import create_mask

        rows = (
            torch.arange(self.q_len, device=self._device)[queries].expand(self._batch, -1)
            if isinstance(queries, slice)
            else queries
        )

        mask_mod, heads = self._mask.mask_mod, self._mask.shape[1]
        allowed = create_mask(
            lambda b, h, q, k: mask_mod(b, h, rows[b, q], k),
            self._batch,
            heads,
            rows.shape[1],
            self.k_len,
            device=str(self._device),
        )
        return Keys(allowed)


def attention_mask_of(
    attention_mask: object,
    *,
    batch: int,
    q_len: int,
    k_len: int,
    is_causal: bool,
    device: torch.device,
    flash: bool = False,
    position_ids: Tensor | None = None,
) -> AttentionMask:
    """Reads any mask that an attention kernel accepts as one question: who may read whom.

    Args:
        attention_mask: `None`, a 4-D boolean or additive mask, the 2-D padding mask of the flash
            kernels, or flex attention's BlockMask.
        batch: Sequences of this call.
        q_len: Queries of this call.
        k_len: Keys, those of the cache included.
        is_causal: Whether a missing mask means causal attention.
        device: Where a mask that has to be built is put.
        flash: Whether the kernel is one that reads no mask matrix: it aligns the causal triangle
            with the last key, and tells packed sequences apart by restarts of the positions.
        position_ids: Positions of the queries, `[1 or batch, q_pos]`.

    Raises:
        ValueError: If the mask is of a kind that no kernel of transformers takes.
    """
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        return MatrixMask(attention_mask, q_len, k_len)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        real = attention_mask[:, -k_len:].bool()
        return RuleMask(q_len, k_len, device, offset=k_len - q_len, real=real)
    if attention_mask is None:
        if not is_causal or (q_len == 1 and not flash):
            return RuleMask(q_len, k_len, device, offset=None)
        if flash:
            whole = q_len == k_len > 1
            sequence = _sequences(position_ids) if whole and position_ids is not None else None
            return RuleMask(q_len, k_len, device, offset=k_len - q_len, sequence=sequence)
        # SDPA without a mask aligns the triangle with the first key; that is also the case of an
        # empty static cache, whose later keys are not written yet.
        return RuleMask(q_len, k_len, device, offset=0)
    if hasattr(attention_mask, "mask_mod"):
        return FlexMask(attention_mask, q_len, k_len, batch=batch, device=device)
    raise ModelError(
        f"hook_pattern cannot read a mask of type {type(attention_mask).__name__}; expected None, "
        "a 2-D or 4-D tensor, or a BlockMask. Use attn='sdpa' or 'eager'."
    )


def take_queries(x: Tensor, queries: Queries) -> Tensor:
    """Some queries of a tensor `[#batch, head, q_pos, last]`."""
    if isinstance(queries, slice):
        return x if queries == ALL else x[:, :, queries]
    batch, chosen = queries.shape
    index = queries[:, None, :, None].expand(batch, x.shape[1], chosen, x.shape[3])
    return x.expand(batch, -1, -1, -1).gather(2, index)


def _sequences(position_ids: Tensor) -> Tensor:
    """Numbers the sequences of packed rows: a new one begins where positions restart."""
    begins = position_ids.diff(dim=1, prepend=position_ids[:, :1] - 1) != 1
    return begins.cumsum(dim=1)
