"""Some rows of an attention pattern, and what a statistic reads in them."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A few queries of one layer's pattern, with all the keys that they may read.

    Attributes:
        pattern: In fp32; a row that may read no key is 0.
        allowed: Which keys each query may read.
        place: Column of each query's own token among the keys, the cache's included.
        tokens: Ids of all tokens of the call, also behind the last key here; None where the call
            does not tell them all (a cache, embeddings).
    """

    pattern: Float[Tensor, "batch head q_pos k_pos"]
    allowed: Bool[Tensor, "#batch #head q_pos k_pos"]
    place: Int[Tensor, " q_pos"]
    tokens: Int[Tensor, "batch pos"] | None = None

    @cached_property
    def choice(self) -> Bool[Tensor, "#batch #head q_pos"]:
        """Whether the query has a choice, two keys or more: a first token can only read itself."""
        return self.allowed.sum(dim=-1) >= 2

    @cached_property
    def first(self) -> Int[Tensor, "#batch #head q_pos"]:
        """Column of the first key that each query may read: where its sequence begins."""
        return self.allowed.int().argmax(dim=-1)

    def even(self) -> "Rows":
        """The same queries, as a head would read that looks at all keys it may read alike.

        Heads that may read the same keys are one here.
        """
        allowed = self.allowed.expand(len(self.pattern), -1, -1, -1).to(self.pattern.dtype)
        alike = allowed / allowed.sum(dim=-1, keepdim=True).clamp_min(1)
        return Rows(alike, self.allowed, self.place, self.tokens)

    def mass(self, column: Int[Tensor, "#batch #head q_pos"]) -> Float[Tensor, "batch head q_pos"]:
        """How much each query reads of one key."""
        index = column[..., None].expand(*self.pattern.shape[:3], 1)
        return self.pattern.gather(-1, index)[..., 0]


@dataclass(frozen=True)
class Reading:
    """What a statistic says of some rows.

    Attributes:
        value: The number of each query, which is averaged by head.
        counts: Of which queries it can be said, if not of all that have a choice.
        weights: Of the strongest keys, strongest first, where the statistic names keys.
        keys: Their columns.
    """

    value: Float[Tensor, "batch head q_pos"]
    counts: Bool[Tensor, "#batch #head q_pos"] | None = None
    weights: Float[Tensor, "batch head q_pos chosen"] | None = None
    keys: Int[Tensor, "batch head q_pos chosen"] | None = None
