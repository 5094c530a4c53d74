"""Questions as windows of token ids, with the first and last token of the answer in each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from arcee_lab.errors import TextError
from arcee_lab.heads.answers import Window, cut_windows
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.training.heads.questions import LabelledQuestions

NOWHERE = 0  # the token that stands for no answer, as start and as end: SQuAD v2's convention


@dataclass(frozen=True)
class EncodedWindow:
    """A question with as much of its context as fits.

    Attributes:
        ids: Token ids.
        allowed: Tokens among which a reader chooses: those of the context, and the first.
        start: First token of the answer; `NOWHERE` if this window does not hold it.
        end: Its last token.
    """

    ids: list[int]
    allowed: list[bool]
    start: int
    end: int

    def __len__(self) -> int:
        return len(self.ids)


def encode_questions(
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    data: LabelledQuestions,
    *,
    part: str = "training",
) -> list[EncodedWindow]:
    """Tokenises questions as `al.answer` reads them: question first, long contexts in windows.

    Of several right answers the first is taken. A window without the answer has `NOWHERE`, which
    teaches the head to give its first token the larger score there.

    Args:
        anatomy: The model.
        tokenizer: Its tokenizer, a fast one.
        data: The questions.
        part: What they are for, as the message says it.

    Raises:
        TextError: A question has no token, or no window holds an answer.
        SettingError: The model's context has no room for a question and its context.
    """
    rows = []
    for number, question in enumerate(data.questions):
        windows = cut_windows(anatomy, tokenizer, question, data.contexts[number])
        places = [(NOWHERE, NOWHERE)] * len(windows)
        if data.answers[number]:
            start = data.starts[number][0]
            places = [_tokens(one, start, start + len(data.answers[number][0])) for one in windows]
            if all(place == (NOWHERE, NOWHERE) for place in places):
                raise TextError(
                    f"The {part} question {number}: no window of its context holds the whole "
                    f"answer {data.answers[number][0][:60]!r}; give a shorter answer, or a model "
                    "with a longer context."
                )
        for window, (first, last) in zip(windows, places, strict=True):
            rows.append(EncodedWindow(window.ids, window.allowed, first, last))
    return rows


def _tokens(window: Window, start: int, end: int) -> tuple[int, int]:
    """The first and last token of the characters from start to end, or `NOWHERE` twice."""
    covering = [
        number
        for number, (inside, (a, b)) in enumerate(zip(window.inside, window.offsets, strict=True))
        if inside and a < end and b > start
    ]
    if not covering:
        return NOWHERE, NOWHERE
    first, last = covering[0], covering[-1]
    if window.offsets[first][0] > start or window.offsets[last][1] < end:
        return NOWHERE, NOWHERE
    return first, last


def collate_windows(rows: Sequence[EncodedWindow], *, pad: int) -> dict[str, Tensor]:
    """A batch for the Trainer: padded on the right, masked, with the answer's two tokens.

    Args:
        rows: The windows.
        pad: Token id of the padding.

    Returns:
        `input_ids`, `attention_mask` and `allowed`, `[batch, pos]`, and `labels`, `[batch, 2]`.
    """
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    allowed = torch.zeros(len(rows), width, dtype=torch.bool)
    for slot, row in enumerate(rows):
        ids[slot, : len(row)] = torch.tensor(row.ids)
        mask[slot, : len(row)] = 1
        allowed[slot, : len(row)] = torch.tensor(row.allowed)
    labels = torch.tensor([[row.start, row.end] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "allowed": allowed, "labels": labels}


def span_loss(
    output: Any, labels: Int[Tensor, "batch 2"], allowed: Bool[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """Mean of the cross-entropies of start and end, over the tokens that a reader chooses among.

    transformers' own loss has the question and the padding among the choices, so it depends on the
    width of the batch.

    Args:
        output: Of a QA model: `start_logits` and `end_logits`, `[batch, pos]`.
        labels: The right tokens.
        allowed: The choices.
    """
    losses = [
        cross_entropy(logits.float().masked_fill(~allowed, -torch.inf), labels[:, side])
        for side, logits in enumerate((output.start_logits, output.end_logits))
    ]
    return (losses[0] + losses[1]) / 2
