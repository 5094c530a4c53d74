"""Which tokens, or which labels of a head, the caller names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from arcee_lab.data.token_words import TokenWords
from arcee_lab.errors import SettingError, TextError
from arcee_lab.heads.batches import head_labels
from arcee_lab.heads.targets import target_of
from arcee_lab.lens.prompts import Prompts
from arcee_lab.model.anatomy import Anatomy

Answers = str | int | Sequence[str | int] | Tensor | None


def read_answers(
    anatomy: Anatomy, tokenizer: Any, prompts: Prompts, answers: Answers
) -> Int[Tensor, "batch chosen answer"]:
    """The column of the logits of each answer at each chosen token; -1 where there is none.

    Args:
        anatomy: Of the model.
        tokenizer: For answers that are texts.
        prompts: Where answers are asked for.
        answers: One answer or several, for all tokens alike; or a tensor of ids, `[batch, 1]` or
            `[batch, pos]` over all columns; or None: of an LM head the token that follows, of
            another head all labels.

    Raises:
        SettingError: For ids out of range, labels that the head does not have, or a tensor of
            another shape.
        TextError: For an answer that is not exactly one token.
    """
    size = answer_count(anatomy)
    if isinstance(answers, Tensor):
        return prompts.take(_per_token(answers, prompts.ids, size)[..., None])
    if answers is None and anatomy.legend.head == "causal":
        following = torch.full_like(prompts.ids, -1)
        following[:, :-1] = torch.where(prompts.real[:, 1:], prompts.ids[:, 1:], -1)
        return prompts.take(following[..., None])
    columns = list(range(size))
    if answers is not None:
        columns = _columns(anatomy, tokenizer, answers)
    chosen = torch.tensor(columns, device=prompts.ids.device)
    return chosen.expand(*prompts.chosen.shape, len(columns))


def first_tokens(tokenizer: Any, answers: str | Iterable[str]) -> list[int]:
    """The first token of each answer, for answers of several tokens.

    All calls of this package refuse an answer of several tokens: which of its logits is meant is
    the caller's choice, and this function makes it.

    Args:
        tokenizer: Of the model.
        answers: One text or several, with the space before it where the text has one.

    Returns:
        Token ids.

    Raises:
        TextError: An answer has no token.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> al.lens.first_tokens(tokenizer, " sleep now") == al.lens.first_tokens(
        ...     tokenizer, " sleep"
        ... )
        True
    """
    texts = [answers] if isinstance(answers, str) else list(answers)
    found = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for text, ids in zip(texts, found, strict=True):
        if not ids:
            raise TextError(f"The answer {text!r} has no token; give a text.")
    return [int(ids[0]) for ids in found]


def answer_count(anatomy: Anatomy) -> int:
    """Columns of the logits: tokens of the vocabulary, or labels of the head."""
    return anatomy.size("vocab" if anatomy.legend.head == "causal" else "n_labels")


def answer_words(anatomy: Anatomy, tokenizer: Any, ids: Int[Tensor, "*any"]) -> Mapping[int, str]:
    """What columns of the logits are called: the token's text, or the label.

    Args:
        anatomy: Of the model.
        tokenizer: Of an LM head's tokens.
        ids: The columns; -1 for none.
    """
    head = anatomy.legend.head
    if head == "qa":
        return {0: "start", 1: "end"}
    if head != "causal":
        return dict(enumerate(head_labels(anatomy)))
    return TokenWords(tokenizer, ids)


def require_known(tokenizer: Any, given: object) -> None:
    """Refuses answers that a tokenizer maps to its token for what it does not know.

    Args:
        tokenizer: Of the model, or None.
        given: An answer, or several.

    Raises:
        TextError: It does not know one of them.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return
    items = given if isinstance(given, list | tuple) else [given]
    for text in (one for one in items if isinstance(one, str) and one != tokenizer.unk_token):
        if unknown in tokenizer(text, add_special_tokens=False)["input_ids"]:
            raise TextError(f"The tokenizer does not know the answer {text!r}; give another.")


def _columns(anatomy: Anatomy, tokenizer: Any, answers: Any) -> list[int]:
    if anatomy.legend.head == "qa":
        items = [answers] if isinstance(answers, str) else list(answers)
        wrong = [one for one in items if one not in ("start", "end")]
        if wrong:
            raise SettingError(
                f"A question-answering head has the answers start and end; got {wrong[0]!r}."
            )
        return [int(one == "end") for one in items]
    if anatomy.legend.head == "causal":
        require_known(tokenizer, answers)
    return list(target_of(anatomy.model, answers, tokenizer=tokenizer).terms[0].columns)


def _per_token(answers: Tensor, ids: Tensor, size: int) -> Tensor:
    fits = answers.ndim == 2 and len(answers) == len(ids) and answers.shape[1] in (1, ids.shape[1])
    if not fits or answers.is_floating_point() or answers.dtype == torch.bool:
        raise SettingError(
            f"answers must be whole numbers [{len(ids)}, 1] or {list(ids.shape)}; got "
            f"{list(answers.shape)} of {answers.dtype}."
        )
    if not answers.is_meta and not bool(((answers >= -1) & (answers < size)).all()):
        raise SettingError(
            f"answers run from {int(answers.min())} to {int(answers.max())}; expected 0 to "
            f"{size - 1}, or -1 for none."
        )
    return answers.to(ids).expand(ids.shape)
