"""Labelled texts as token ids, with a label at each position where the head reads."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
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


def balanced_weights(data: LabelledTexts) -> Float[Tensor, " n_labels"]:
    """The weight of each label: labels / (different labels * how often it occurs).

    A label that does not occur has weight 1: it is never the right one.

    Args:
        data: The training texts.
    """
    flat = [one for row in data.labels for one in (row if data.words else (row,))]
    counts = torch.bincount(torch.tensor(flat), minlength=len(data.names)).double()
    occurring = int((counts > 0).sum())
    weights = counts.sum() / (occurring * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 1.0).float()


def weighted_loss(
    output: Any, labels: Tensor, weights: Float[Tensor, " n_labels"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy in which each label counts by its weight.

    Args:
        output: Of a sequence or token model: `logits`, `[batch, n_labels]` or
            `[batch, pos, n_labels]`.
        labels: The right ones, `[batch]` or `[batch, pos]`; -100 is not counted.
        weights: Of the labels.
    """
    return cross_entropy(
        output.logits.float().flatten(0, -2),
        labels.flatten(),
        weight=weights.to(output.logits.device),
        ignore_index=IGNORED,
    )
