"""One number per pair, read from the logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.errors import SettingError, WrongType
from arcee_lab.hooks.selection import indices


@dataclass(frozen=True)
class LogitDifference:
    """The logit of a right answer minus that of a wrong one.

    Any function of `[pair, vocab]` logits that gives `[pair]` numbers is a metric; this one is the
    usual choice, because it is linear in what the last layers write.

    Attributes:
        right: A token id for all pairs, or one per pair.
        wrong: Likewise.

    Example:
        >>> import torch
        >>> import arcee_lab as al
        >>> al.patching.LogitDifference(right=2, wrong=[0, 1])(torch.eye(3)[:2])
        tensor([-1., -1.])
    """

    right: int | Sequence[int]
    wrong: int | Sequence[int]

    def __post_init__(self) -> None:
        for what in ("right", "wrong"):
            found = indices(getattr(self, what), what=what)
            if found is None:
                raise WrongType(f"{what} is None; expected a token id, or one per pair.")
            object.__setattr__(self, what, found)

    def __call__(self, logits: Float[Tensor, "pair vocab"]) -> Float[Tensor, " pair"]:
        """The difference.

        Raises:
            ValueError: For an id outside the vocabulary, or another number of ids than pairs.
        """
        return self._logit(logits, "right") - self._logit(logits, "wrong")

    def _logit(self, logits: Tensor, what: str) -> Tensor:
        ids: tuple[int, ...] = getattr(self, what)
        pairs, vocab = logits.shape
        if len(ids) not in (1, pairs):
            raise SettingError(
                f"{what} has {len(ids)} token ids for {pairs} pairs; give one per pair, or one."
            )
        strange = [i for i in ids if not 0 <= i < vocab]
        if strange:
            raise SettingError(f"{what} {strange[:4]} out of range: expected 0 to {vocab - 1}.")
        index = torch.tensor(ids, device=logits.device).expand(pairs)
        return logits.gather(1, index[:, None])[:, 0]
