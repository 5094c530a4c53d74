"""Labels of texts: one truth per text, and what a classification head predicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from arcee_lab.data.tokenization import token_offsets
from arcee_lab.errors import ModelError, TextError, WrongType
from arcee_lab.heads.batches import head_labels, in_batches, require_room
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.neurons.labels.labelled import Labels

Spans = tuple[tuple[int, int], ...]


def whole_texts(
    texts: Sequence[str],
    truth: Mapping[str, Sequence[bool]],
    *,
    documents: Sequence[int] = (),
    domains: Sequence[str] = (),
) -> Labels:
    """Labels of whole texts, asked of the last token of each: there a causal model has read it.

    Args:
        texts: The texts.
        truth: Name of a label -> whether each text has it.
        documents: Number of each text's document; by default each text is one.
        domains: A word for each text's kind.

    Raises:
        TextError: A text is empty, or a label is not given for every text.

    Example:
        >>> import arcee_lab as al
        >>> labels = al.directions.whole_texts(["It was fine .", "No ."], {"good": [True, False]})
        >>> labels.names
        ('good',)
    """
    if isinstance(texts, str):
        raise WrongType("texts is one string; expected a list of texts, so pass [text].")
    given = tuple(texts)
    ends = tuple(_end(number, text) for number, text in enumerate(given))
    for name, values in truth.items():
        if len(values) != len(given):
            raise TextError(
                f"label {name!r} is given for {len(values)} of {len(given)} texts; expected one "
                "truth per text."
            )
    return Labels(
        given,
        {
            name: tuple((end,) if true else () for end, true in zip(ends, values, strict=True))
            for name, values in truth.items()
        },
        {name: tuple((end,) for end in ends) for name in truth},
        tuple(documents),
        tuple(domains),
    )


@torch.no_grad()
def predicted_labels(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    documents: Sequence[int] = (),
    batch_size: int = 8,
) -> Labels:
    """What a classification head predicts, as labels: what its neurons and directions stand for.

    * A sequence head: its label of each text, asked of the text's last token, where it reads.
    * A token head: its label of each token, asked of every token.
    * A question-answering head: "start" and "end", the tokens with the largest logit of each, asked
      of every token; a text is the question and then the context.

    Give them to `detect`, or to `al.neurons.find`, to see what the head reads. A label that is
    never predicted is left out.

    Args:
        model: A model with a sequence, token or question-answering head.
        tokenizer: Its tokenizer, a fast one.
        texts: The texts.
        documents: Number of each text's document; by default each text is one.
        batch_size: Texts per forward.

    Raises:
        ModelError: The model has no such head, or a head of one number.
        TextError: A text is empty or longer than the model's context.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo", head="token")
        >>> al.directions.predicted_labels(model, tokenizer, ["Port Gazis flooded ."]).names
        ('O', 'B-LOC', 'I-LOC')
    """
    anatomy = anatomy_of(model)
    head = anatomy.legend.head
    if head not in ("sequence", "token", "qa"):
        raise ModelError(
            f"A {type(anatomy.model).__name__} predicts no labels; load the model with "
            "head='sequence', 'token' or 'qa'."
        )
    names = ["start", "end"] if head == "qa" else head_labels(anatomy)
    if len(names) < 2:
        raise ModelError(
            "The head gives one number per text; expected a head with two or more labels."
        )
    if isinstance(texts, str):
        raise WrongType("texts is one string; expected a list of texts, so pass [text].")
    given = tuple(texts)
    ends = [_end(number, text) for number, text in enumerate(given)]
    rows, offsets = [], []
    for text in given:
        ids, pieces = token_offsets(tokenizer, text)
        rows.append(list(ids))
        offsets.append(pieces)
    require_room(anatomy, rows)
    spans: dict[str, list[Spans]] = {name: [()] * len(given) for name in names}
    for numbers, ids, mask in in_batches(anatomy, rows, batch_size=batch_size):
        output: Any = anatomy.model(input_ids=ids, attention_mask=mask)
        if head == "sequence":
            best = output.logits.argmax(-1).tolist()
            for number, column in zip(numbers, best, strict=True):
                spans[names[column]][number] = (ends[number],)
        elif head == "token":
            best = output.logits.argmax(-1).tolist()
            for number, row in zip(numbers, best, strict=True):
                for name in names:
                    said = [names[column] == name for column in row[: len(rows[number])]]
                    spans[name][number] = _where(given[number], offsets[number], said)
        else:
            for name in names:
                logits = getattr(output, f"{name}_logits").masked_fill(mask == 0, -torch.inf)
                for number, at in zip(numbers, logits.argmax(-1).tolist(), strict=True):
                    said = [place == at for place in range(len(rows[number]))]
                    spans[name][number] = _where(given[number], offsets[number], said)
    found = {name: tuple(row) for name, row in spans.items() if any(row)}
    asked = {name: tuple((end,) for end in ends) for name in found} if head == "sequence" else {}
    return Labels(given, found, asked, tuple(documents))


def _end(number: int, text: object) -> tuple[int, int]:
    """The last character of a text that is not white space, as a span."""
    if not isinstance(text, str) or not text.strip():
        raise TextError(f"text {number} is empty or no text; expected one with a word.")
    last = len(text.rstrip())
    return last - 1, last


def _where(text: str, offsets: Sequence[tuple[int, int]], said: Sequence[bool]) -> Spans:
    """The characters of the tokens of which something is said, without white space before them."""
    found = []
    for (start, end), one in zip(offsets, said, strict=True):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if one and start < end:
            found.append((start, end))
    return tuple(found)
