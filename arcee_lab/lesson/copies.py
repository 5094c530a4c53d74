"""Texts that say a string twice: at each word of the second time, the next one can be looked up."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arcee_lab.data.tokenization import token_offsets
from arcee_lab.errors import TextError
from arcee_lab.lesson.material import SaidTwice
from arcee_lab.results import Result, counted


@dataclass(frozen=True, repr=False)
class Copies(Result):
    """Texts that say a string of words twice, as tokens.

    Attributes:
        texts: The texts.
        input_ids: Their tokens, padded on the right.
        attention_mask: 1 at tokens, 0 at padding.
        answer: For the last token of a word that is said again, the column of the token that
            followed the word the first time, which is what comes next; -1 elsewhere.
    """

    texts: tuple[str, ...]
    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    answer: Int[Tensor, "batch pos"]

    def batch(self, *, device: Any = None) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` for the model.

        Args:
            device: Where the tensors go; where they are by default.
        """
        return {
            "input_ids": self.input_ids.to(device),
            "attention_mask": self.attention_mask.to(device),
        }

    @property
    def asked(self) -> Bool[Tensor, "batch pos"]:
        """The tokens after which a word of the string comes next."""
        return self.answer >= 0

    @property
    def headline(self) -> str:
        """How many texts and answers."""
        return (
            f"{counted(len(self.texts), 'text')} that say a string twice, with "
            f"{counted(int(self.asked.sum()), 'word')} that can be looked up"
        )

    def frame(self) -> Any:
        """One row per text: the text, its tokens, its answers."""
        import pandas as pd

        return pd.DataFrame(
            {
                "text": self.texts,
                "tokens": self.attention_mask.sum(1).tolist(),
                "answers": self.asked.sum(1).tolist(),
            }
        )


def as_tokens(tokenizer: Any, said: list[SaidTwice]) -> Copies:
    """Texts as tokens, with the place of each answer.

    Raises:
        TextError: The tokenizer is not a fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TextError(
            f"{type(tokenizer).__name__} cannot say which characters a token has; expected a fast "
            "tokenizer."
        )
    rows = [token_offsets(tokenizer, one.text) for one in said]
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)  # masked, so any token will do
    mask, answer = torch.zeros_like(ids), torch.full_like(ids, -1)
    for row, ((tokens, offsets), one) in enumerate(zip(rows, said, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        ends = [[_last(offsets, end) for _, end in side] for side in (one.first, one.second)]
        for before, again in list(zip(*ends, strict=True))[:-1]:
            answer[row, again] = before + 1
    return Copies(tuple(one.text for one in said), ids, mask, answer)


def _last(offsets: list[tuple[int, int]], end: int) -> int:
    """The column of the token with which a word ends."""
    return next(place for place, (_, last) in enumerate(offsets) if last >= end)
