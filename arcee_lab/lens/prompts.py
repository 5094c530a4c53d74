"""What the calls of this package run on: texts, or a batch of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arcee_lab.data.tokenization import token_ids
from arcee_lab.errors import SettingError, TextError
from arcee_lab.hooks.selection import Choice, find_positions, indices
from arcee_lab.model.anatomy import Anatomy

Given = str | Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Prompts:
    """Sequences of tokens, on the model's device.

    Attributes:
        ids: Token ids.
        real: Which of them are no padding.
        chosen: Of each sequence, the columns that a call looks at, in the order asked for.
        there: Whether the sequence has that token.
        whole: Whether all columns are looked at, in place.
        masked: Whether the forward gets a mask; it makes the same call as the caller's own.
    """

    ids: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    chosen: Int[Tensor, "batch chosen"]
    there: Bool[Tensor, "batch chosen"]
    whole: bool
    masked: bool

    @classmethod
    def read(
        cls, anatomy: Anatomy, tokenizer: Any, prompts: Given, *, positions: Choice
    ) -> "Prompts":
        """Checks and places the prompts of a call.

        Args:
            anatomy: Of the model.
            tokenizer: Of texts; not needed for a batch.
            prompts: A text, a list of texts, or a batch with `input_ids` and, if there is padding,
                `attention_mask`.
            positions: Attended tokens to look at, negative from the end; None: all columns.

        Raises:
            SettingError: For a batch that is none, or a position that no sequence has.
            TextError: For an empty text, one that is too long, or ids outside the vocabulary.
        """
        found = (
            _batch(prompts)
            if isinstance(prompts, Mapping)
            else _tokenised(tokenizer, [prompts] if isinstance(prompts, str) else prompts)
        )
        ids, real, masked = found
        _check(anatomy, ids)
        device = anatomy.model.device
        ids, real = ids.to(device), real.to(device)
        places = indices(positions, what="positions")
        if places is None:
            columns = torch.arange(ids.shape[1], device=device).expand(ids.shape)
            return cls(ids, real, columns, real, True, masked)
        chosen, there = find_positions(places, real)
        lacking = [p for p, some in zip(places, there.any(dim=0).tolist(), strict=True) if not some]
        if lacking:
            longest = int(real.sum(dim=1).max())
            raise SettingError(
                f"positions {lacking} out of range: the longest sequence has {longest} attended "
                "tokens."
            )
        return cls(ids, real, chosen, there, False, masked)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The arguments of the forward."""
        mask = {"attention_mask": self.real.long()} if self.masked else {}
        return {"input_ids": self.ids} | mask

    @property
    def tokens(self) -> Int[Tensor, "batch chosen"]:
        """The ids of the chosen tokens."""
        return self.ids.gather(1, self.chosen)

    def take(self, x: Tensor) -> Tensor:
        """The chosen tokens of `[batch, pos, ...]`; the same tensor where all are."""
        if self.whole:
            return x
        index = self.chosen.to(x.device).view(*self.chosen.shape, *[1] * (x.ndim - 2))
        return x.gather(1, index.expand(*self.chosen.shape, *x.shape[2:]))


def _batch(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, bool]:
    if "input_ids" not in batch or set(batch) - {"input_ids", "attention_mask"}:
        raise SettingError(
            "A batch of prompts must hold input_ids, and may attention_mask; got "
            f"{', '.join(sorted(map(str, batch))) or 'nothing'}."
        )
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor | None):
        kinds = ", ".join(f"{name} {type(given).__name__}" for name, given in batch.items())
        raise SettingError(
            f"A batch of prompts must hold tensors; got {kinds}. Call the tokenizer with "
            "return_tensors='pt'."
        )
    mask = torch.ones_like(ids) if mask is None else mask
    if ids.ndim != 2 or mask.shape != ids.shape or ids.is_floating_point():
        raise SettingError(
            f"A batch of prompts must be whole numbers [batch, pos]; got input_ids "
            f"{list(ids.shape)} of {ids.dtype} and attention_mask {list(mask.shape)}."
        )
    if not ids.numel() or not bool(mask.bool().any(dim=1).all()):
        raise TextError("A prompt is empty; expected at least one attended token in each.")
    return ids, mask.bool(), "attention_mask" in batch


def _tokenised(tokenizer: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor, bool]:
    texts = list(texts) if isinstance(texts, Sequence) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise SettingError(
            f"prompts are a text, a list of texts, or a batch of tokens; got {texts[:2]!r}."
        )
    if tokenizer is None:
        raise SettingError(
            "The prompts are texts, and there is no tokenizer; give one, or a batch of tokens."
        )
    empty = [number for number, text in enumerate(texts) if not text.strip()]
    if empty:
        raise TextError(f"Prompt {empty[0]} is empty; expected a text with at least one word.")
    rows = token_ids(tokenizer, texts)
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        real[number, : len(row)] = True
    return ids, real, not bool(real.all())


def _check(anatomy: Anatomy, ids: Tensor) -> None:
    room, vocab = anatomy.model.config.max_position_embeddings, anatomy.size("vocab")
    if ids.shape[1] > room:
        raise TextError(
            f"A prompt has {ids.shape[1]} tokens, and the model reads {room}; shorten it."
        )
    if not ids.is_meta:
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= vocab:
            raise TextError(
                f"Token ids run from {low} to {high}; expected 0 to {vocab - 1}, so use the "
                "model's own tokenizer."
            )
