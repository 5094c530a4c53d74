"""Attention scores and pattern of one call, for the requested heads and queries.

Where a kernel returns neither, they are computed from its queries and keys, and nothing is
multiplied that was not asked for. Where the data flows through them they are cut.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.model.attention_mask import ALL, AttentionMask, Keys, Queries, take_queries


class AttentionPart(NamedTuple):
    """Some heads, queries and keys of a call.

    Attributes:
        heads: `[chosen]` indices, or None for all.
        queries: A span, or `[batch, chosen]` places.
        end: The first key that is left out, None for none; no query of the part may read it.
    """

    heads: Tensor | None = None
    queries: Queries = ALL
    end: int | None = None


WHOLE = AttentionPart()


class AttentionMatrices(ABC):
    """Scores and pattern of one layer in one call; a part costs no more than itself.

    Attributes:
        mask: Which keys each query may read.
        shape: Batch, heads, queries and keys.
        device: Where they are computed.
    """

    def __init__(self, mask: AttentionMask, shape: tuple[int, int, int, int], device: torch.device):
        self.mask, self.shape, self.device = mask, shape, device

    @abstractmethod
    def scores(self, part: AttentionPart = WHOLE) -> Float[Tensor, "batch head q_pos k_pos"]:
        """Scaled scores before the mask."""

    @abstractmethod
    def pattern(
        self, part: AttentionPart = WHOLE, *, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "batch head q_pos k_pos"]:
        """The pattern, by default in the dtype that flows; rows without any key are 0."""

    def keys(self, part: AttentionPart = WHOLE) -> Keys:
        """Which keys the part's queries may read."""
        return self.mask.keys(part.queries).of_heads(part.heads).until(part.end)


class RecomputedMatrices(AttentionMatrices):
    """Computed next to the kernel, from the queries and keys that it reads.

    A product over fewer queries may sum in another order: in fp32 a part agrees with the same part
    of the whole within 2e-6.

    Args:
        query: `[batch, head, q_pos, d_head]`, rotated.
        key: `[batch, kv_head, k_pos, d_head]`, rotated, the cache's included.
        mask: Which keys each query may read.
        scaling: Of the products.
    """

    def __init__(self, query: Tensor, key: Tensor, mask: AttentionMask, *, scaling: float):
        batch, heads, q_len, _ = query.shape
        super().__init__(mask, (batch, heads, q_len, key.shape[2]), query.device)
        self._query, self._key, self._scaling = query, key, scaling
        self._flat: Tensor | None = None
        self._kept: tuple[AttentionPart, Tensor] | None = None

    def scores(self, part: AttentionPart = WHOLE) -> Float[Tensor, "batch head q_pos k_pos"]:
        """See `AttentionMatrices.scores`; they are kept for the pattern of the same part."""
        # Scaled after the product, as the eager kernel does: in half precision that rounds twice.
        scores = self._products(part).mul_(self._scaling)
        self._kept = part, scores
        return scores

    def pattern(
        self, part: AttentionPart = WHOLE, *, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "batch head q_pos k_pos"]:
        """See `AttentionMatrices.pattern`."""
        dtype = dtype or self._query.dtype
        keys = self.keys(part)
        if self._kept is not None and self._kept[0] is part:
            return softmax_over(self._kept[1], keys, dtype)
        products = self._products(part)
        if products.dtype == torch.float32 and keys.bias is None and not products.requires_grad:
            # One pass over the pairs scales and masks; each pass costs as much as the product.
            bias = keys.additive(torch.float32)
            torch.add(bias, products, alpha=self._scaling, out=products)
            return _clear(torch.softmax(products, dim=-1), keys).to(dtype)
        return softmax_over(products.mul_(self._scaling), keys, dtype, in_place=True)

    def _products(self, part: AttentionPart) -> Tensor:
        query, key = take_queries(self._query, part.queries), self._key
        if part.heads is not None:
            key = key.index_select(1, part.heads // (query.shape[1] // key.shape[1]))
            query, key = query.index_select(1, part.heads), key.flatten(0, 1)
        else:
            if self._flat is None:
                self._flat = key.flatten(0, 1)  # a copy if there are several sequences
            key = self._flat
        batch, heads, chosen, d_head = query.shape
        # The query heads of one kv head share its keys: one product for all of them, and no copy.
        query = query.reshape(key.shape[0], -1, d_head)
        products = torch.bmm(query, key[:, : part.end].transpose(1, 2))
        return products.view(batch, heads, chosen, -1)


class EagerMatrices(AttentionMatrices):
    """As they flow through the eager kernel, after every edit."""

    def __init__(self, scores: Tensor, pattern: Tensor, mask: AttentionMask):
        super().__init__(mask, tuple(scores.shape), scores.device)  # type: ignore[arg-type]
        self._scores, self._pattern = scores, pattern

    def scores(self, part: AttentionPart = WHOLE) -> Float[Tensor, "batch head q_pos k_pos"]:
        """See `AttentionMatrices.scores`."""
        return _cut(self._scores, part)

    def pattern(
        self, part: AttentionPart = WHOLE, *, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "batch head q_pos k_pos"]:
        """See `AttentionMatrices.pattern`; an unedited row without any key is uniform here."""
        pattern = _cut(self._pattern, part)
        return pattern if dtype is None else pattern.to(dtype)


def _cut(x: Tensor, part: AttentionPart) -> Tensor:
    x = x if part.heads is None else x.index_select(1, part.heads)
    return take_queries(x, part.queries)[..., : part.end]


def softmax_over(
    scores: Float[Tensor, "batch head q_pos k_pos"],
    keys: Keys,
    dtype: torch.dtype,
    *,
    in_place: bool = False,
) -> Float[Tensor, "batch head q_pos k_pos"]:
    """Softmax in fp32 over the allowed keys, given in `dtype`.

    A query that may read no key (left padding) gets a row of zeros, not the uniform row that the
    eager kernel leaves there.

    Args:
        scores: Scaled, before the mask.
        keys: Which keys may be read.
        dtype: Of the result.
        in_place: Whether the scores may be overwritten.
    """
    if keys.bias is not None:
        pattern = torch.softmax(scores + keys.bias, dim=-1, dtype=torch.float32)
        return _clear(pattern, keys).to(dtype)
    masked, bias = scores.float(), keys.additive(torch.float32)
    masked = masked + bias if masked is scores and not in_place else masked.add_(bias)
    return _clear(torch.softmax(masked, dim=-1), keys).to(dtype)


def _clear(pattern: Tensor, keys: Keys) -> Tensor:
    """The pattern with zeros in the rows of queries that may read no key."""
    if keys.full:
        return pattern
    # Not a product: a mask of -inf makes such a row NaN.
    unread = ~keys.allowed.any(dim=-1, keepdim=True)
    return pattern.masked_fill(unread, 0.0)
