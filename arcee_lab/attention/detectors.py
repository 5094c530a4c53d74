"""Detectors: how much a head reads of the tokens that a named rule marks.

Two rules need no token and are ordinary statistics: `Offset(1)` is the previous token, and
`FirstMass()` the first. Those here compare tokens; `Rule` takes any that the caller writes.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arcee_lab.attention.rows import Reading, Rows
from arcee_lab.attention.statistics import SHARE, Statistic
from arcee_lab.errors import ModelError, SettingError


class Detector(Statistic):
    """A statistic of tokens: the weight on the keys that a rule marks.

    Queries of which no key is marked do not count, nor do those that can only read themselves.
    """

    unit = SHARE

    @abstractmethod
    def marked(
        self, tokens: Int[Tensor, "batch pos"], rows: Rows
    ) -> Bool[Tensor, "batch q_pos pos"]:
        """Which keys the rule marks for each query; keys that it may not read are left out later.

        Args:
            tokens: Ids of all tokens of the call.
            rows: The rows of the pattern that are read.
        """

    def read(self, rows: Rows) -> Reading:
        """See `Statistic.read`.

        Raises:
            ModelError: The call has a cache or embeddings, and does not tell the ids of all keys.
        """
        if rows.tokens is None:
            raise ModelError(
                f"{self!r} compares tokens, and this call does not give the ids of all keys: it "
                "has a cache or inputs_embeds. Call the model with input_ids and use_cache=False."
            )
        marked = self.marked(rows.tokens, rows)[:, None, :, : rows.allowed.shape[-1]] & rows.allowed
        weight = torch.where(marked, rows.pattern, 0).sum(dim=-1)
        return Reading(weight, counts=marked.any(dim=-1) & rows.choice)


@dataclass(frozen=True)
class DuplicateToken(Detector):
    """Weight on earlier places of the same token.

    Source: Wang et al., "Interpretability in the Wild", arXiv:2211.00593.
    """

    name, label = "duplicate_token", "attention to the same token before"

    def marked(
        self, tokens: Int[Tensor, "batch pos"], rows: Rows
    ) -> Bool[Tensor, "batch q_pos pos"]:
        """See `Detector.marked`."""
        own = tokens[:, rows.place, None]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        return (tokens[:, None] == own) & (columns < rows.place[:, None])


@dataclass(frozen=True)
class Induction(Detector):
    """Weight on the tokens that came right after earlier places of the same token.

    Source: Olsson et al., "In-context Learning and Induction Heads", arXiv:2209.11895.
    """

    name, label = "induction", "attention to what came after the same token"

    def marked(
        self, tokens: Int[Tensor, "batch pos"], rows: Rows
    ) -> Bool[Tensor, "batch q_pos pos"]:
        """See `Detector.marked`; the token before a key has to be readable too."""
        own = tokens[:, rows.place, None]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        same = (tokens[:, None] == own) & (columns < rows.place[:, None])
        known = rows.allowed.any(dim=1)  # by any head, where the mask differs between heads
        same[..., : known.shape[-1]] &= known
        return torch.nn.functional.pad(same, (1, 0))[..., :-1]


@dataclass(frozen=True)
class Rule(Detector):
    """Weight on the keys that a function marks.

    Attributes:
        name: Of its column in frames.
        function: Takes ids `[batch, pos]` of a whole call and gives bools `[batch, pos, pos]`: for
            each token, which others are meant. What a query may not read is left out.

    Raises:
        ValueError: For a name that is empty, or what is no function.

    Example:
        >>> from arcee_lab.attention import Rule
        >>> two_back = Rule("two_back", lambda ids: (ids[:, :, None] >= 0).expand(
        ...     -1, -1, ids.shape[1]).tril(-2).triu(-2))
        >>> two_back.name
        'two_back'
    """

    name: str  # type: ignore[misc]
    function: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not callable(self.function):
            raise SettingError(
                "Rule takes a name and a function of ids [batch, pos]; got "
                f"{self.name!r} and {self.function!r}."
            )

    @property
    def label(self) -> str:  # type: ignore[override]
        """See `Statistic`."""
        return f"attention to {self.name}"

    def marked(
        self, tokens: Int[Tensor, "batch pos"], rows: Rows
    ) -> Bool[Tensor, "batch q_pos pos"]:
        """See `Detector.marked`.

        Raises:
            SettingError: The function gives something else.
        """
        found = self.function(tokens)
        length = tokens.shape[1]
        wanted = [len(tokens), length, length]
        if (
            not isinstance(found, Tensor)
            or list(found.shape) != wanted
            or found.dtype != torch.bool
        ):
            is_tensor = isinstance(found, Tensor)
            got = f"{list(found.shape)} of {found.dtype}" if is_tensor else type(found).__name__
            raise SettingError(
                f"The function of Rule({self.name!r}) must give bools {wanted}; got {got}."
            )
        return found[:, rows.place]
