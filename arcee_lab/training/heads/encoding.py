"""Labelled texts as token ids, with a label at each position where the head reads."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arcee_lab.data.tokenization import token_ids, token_offsets
from arcee_lab.heads.batches import require_room
from arcee_lab.heads.token import last_tokens, place_words
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.training.heads.labelled import LabelledTexts

IGNORED = -100


@dataclass(frozen=True)
class EncodedText:
    """One text.

    Attributes:
        ids: Its token ids.
        at: Positions where the head reads: the last token, or the last token of each word.
        labels: The label at each of them.
    """

    ids: list[int]
    at: list[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.ids)


def encode(
    anatomy: Anatomy, tokenizer: PreTrainedTokenizerBase, data: LabelledTexts
) -> list[EncodedText]:
    """Tokenises texts; a word's label is at its last token, where the model has read all of it.

    Args:
        anatomy: The model.
        tokenizer: Its tokenizer.
        data: The texts.

    Raises:
        TextError: A text is empty, longer than the model's context, or lacks a word.
    """
    rows = []
    for number, text in enumerate(data.texts):
        if data.words is None:
            (ids,) = token_ids(tokenizer, [text])
            rows.append(EncodedText(ids, [len(ids) - 1], [data.labels[number]]))
        else:
            _, spans = place_words(data.words[number], text)
            ids, offsets = token_offsets(tokenizer, text)
            at = last_tokens(offsets, spans)
            rows.append(EncodedText(ids, at, list(data.labels[number])))
    require_room(anatomy, [row.ids for row in rows])
    return rows


def collate(rows: list[EncodedText], *, token: bool, pad: int) -> dict[str, Tensor]:
    """A batch for the Trainer: padded on the right, masked, with labels where the head reads.

    Args:
        rows: The texts.
        token: Whether each word has a label, or each text.
        pad: Token id of the padding.
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for slot, row in enumerate(rows):
        ids[slot, : len(row)] = torch.tensor(row.ids)
        mask[slot, : len(row)] = 1
        labels[slot, row.at] = torch.tensor(row.labels)
    if not token:
        labels = torch.tensor([row.labels[0] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
