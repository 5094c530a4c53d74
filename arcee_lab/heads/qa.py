"""Answer spans of many questions from a question-answering head, in batches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.heads.answers import TokenSpan, Window, cut_windows, spans_of
from arcee_lab.heads.batches import Advance, in_batches, require_head

LONGEST = 30  # tokens of an answer


class ReadWindow(NamedTuple):
    """What a head says about a window.

    Attributes:
        question: The number of its question.
        window: The window.
        starts: The logit of each token as the first of the answer, in fp32 on the CPU.
        ends: Its logit as the last.
    """

    question: int
    window: Window
    starts: Float[Tensor, " pos"]
    ends: Float[Tensor, " pos"]


class GivenAnswer(NamedTuple):
    """The answer to a question.

    Attributes:
        text: "" where nothing is answered.
        window: The number of its window.
        first: Its first token there; 0 where nothing is answered.
        last: Its last token.
    """

    text: str
    window: int
    first: int
    last: int


@torch.no_grad()
def read_windows(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_size: int = 8,
    advance: Advance | None = None,
) -> list[ReadWindow]:
    """Reads questions with their contexts; see `find_spans` for arguments and errors.

    Returns:
        The windows, question by question.
    """
    anatomy = require_head(model, "qa")
    owned = [
        (number, window)
        for number, (question, context) in enumerate(zip(questions, contexts, strict=True))
        for window in cut_windows(anatomy, tokenizer, question, context, max_length=max_length)
    ]
    read: dict[int, ReadWindow] = {}
    for numbers, ids, mask in in_batches(
        anatomy, [window.ids for _, window in owned], batch_size=batch_size, advance=advance
    ):
        output = anatomy.model(input_ids=ids, attention_mask=mask)
        starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()
        for row, number in enumerate(numbers):
            question, window = owned[number]
            size = len(window.ids)
            # Cloned: a view would keep the padding of the whole batch.
            logits = starts[row, :size].clone(), ends[row, :size].clone()
            read[number] = ReadWindow(question, window, *logits)
    return [read[number] for number in range(len(owned))]


def given_answers(
    read: Sequence[ReadWindow],
    contexts: Sequence[str],
    *,
    may_be_empty: Sequence[bool] | bool = False,
    max_answer_tokens: int = LONGEST,
) -> list[GivenAnswer]:
    """The best span of each context; see `find_spans`.

    Args:
        read: What `read_windows` gave.
        contexts: The text that holds the answer, one per question.
        may_be_empty: Whether "" is an answer, for all questions or for each.
        max_answer_tokens: Longest span in tokens.
    """
    best: list[tuple[TokenSpan, int] | None] = [None] * len(contexts)
    empty = [(float("inf"), 0)] * len(contexts)  # of several windows, the lowest
    for number, (question, window, starts, ends) in enumerate(read):
        empty[question] = min(empty[question], (float(starts[0] + ends[0]), number))
        for span in spans_of(
            window,
            starts,
            ends,
            contexts[question],
            max_answer_tokens=max_answer_tokens,
            top_k=1,
        ):
            known = best[question]
            if known is None or _rank(span) < _rank(known[0]):
                best[question] = span, number
    allowed = [may_be_empty] * len(best) if isinstance(may_be_empty, bool) else may_be_empty
    found = []
    for one, free, (nothing, where) in zip(best, allowed, empty, strict=True):
        if one is None or (free and nothing > one[0].answer.score):
            found.append(GivenAnswer("", where, 0, 0))
        else:
            (answer, first, last), number = one
            found.append(GivenAnswer(answer.text, number, first, last))
    return found


def _rank(span: TokenSpan) -> tuple[float, int]:
    """The better of two spans has the lower one."""
    return -span.answer.score, span.answer.start


def find_spans(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    may_be_empty: Sequence[bool] | bool = False,
    max_answer_tokens: int = LONGEST,
    max_length: int | None = None,
    batch_size: int = 8,
    advance: Advance | None = None,
) -> list[str]:
    """The best span of each context, as text.

    The question comes first, because a causal model must know it while it reads; a context too long
    for one window is read in overlapping windows. An answer that may be empty is empty if the first
    token scores higher, as start and as end, than any span, which is the convention of SQuAD v2. A
    causal model has read nothing at the first token, so that score is one fixed threshold.

    Args:
        model: A question-answering model (`al.load(..., head="qa")`).
        tokenizer: Its tokenizer, a fast one.
        questions: The questions.
        contexts: The text that holds the answer, one per question.
        may_be_empty: Whether "" is an answer, for all questions or for each.
        max_answer_tokens: Longest span in tokens.
        max_length: Tokens per window, question included; the model's context by default.
        batch_size: Windows per forward.
        advance: Called after each forward with its fraction of the work.

    Raises:
        ModelError: The model has another head.
        TextError: A question or context is empty.
        SettingError: A window has no room for the context.
    """
    read = read_windows(
        model,
        tokenizer,
        questions,
        contexts,
        max_length=max_length,
        batch_size=batch_size,
        advance=advance,
    )
    answers = given_answers(
        read, contexts, may_be_empty=may_be_empty, max_answer_tokens=max_answer_tokens
    )
    return [answer.text for answer in answers]
