"""Answer spans of many questions from a question-answering head, in batches."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.heads.answers import Answer, Window, cut_windows, spans_of
from arcee_lab.heads.batches import Advance, in_batches, require_head


@torch.no_grad()
def find_spans(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    may_be_empty: Sequence[bool] | bool = False,
    max_answer_tokens: int = 30,
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
    anatomy = require_head(model, "qa")
    owners: list[int] = []
    windows: list[Window] = []
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        found = cut_windows(anatomy, tokenizer, question, context, max_length=max_length)
        owners += [number] * len(found)
        windows += found
    best: list[Answer | None] = [None] * len(questions)
    empty = [float("inf")] * len(questions)  # of several windows, the lowest
    for numbers, ids, mask in in_batches(
        anatomy, [w.ids for w in windows], batch_size=batch_size, advance=advance
    ):
        output = anatomy.model(input_ids=ids, attention_mask=mask)
        starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()
        for row, number in enumerate(numbers):
            owner, window = owners[number], windows[number]
            size = len(window.ids)
            empty[owner] = min(empty[owner], float(starts[row, 0] + ends[row, 0]))
            for span in spans_of(
                window,
                starts[row, :size],
                ends[row, :size],
                contexts[owner],
                max_answer_tokens=max_answer_tokens,
                top_k=1,
            ):
                known = best[owner]
                if known is None or (-span.score, span.start) < (-known.score, known.start):
                    best[owner] = span
    allowed = [may_be_empty] * len(best) if isinstance(may_be_empty, bool) else may_be_empty
    return [
        "" if span is None or (free and nothing > span.score) else span.text
        for span, free, nothing in zip(best, allowed, empty, strict=True)
    ]
