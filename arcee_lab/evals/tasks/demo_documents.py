"""The demo's world as data sets of tasks, drawn from the seed when they are asked for.

A task file names one of these functions as `custom_dataset` and gives its arguments as
`dataset_kwargs`. lm-eval also passes whatever the run's metadata holds, which is not ours: `**_`.
Every document is of the world's test split, which no training has seen.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from typing import Any

from datasets import Dataset, DatasetDict

from arcee_lab.demo import MIX, Document, Slot, Word, stream
from arcee_lab.demo.reviews import LABELS
from arcee_lab.demo.tokenizer import EOS

_ENOUGH = 2000  # documents searched for each one that is asked for, before we give up


def sentiment(*, n: int, seed: int = 0, **_: Any) -> DatasetDict:
    """Reviews before their verdict, for the sequence head.

    Args:
        n: Documents.
        seed: Of the documents.

    Returns:
        The split `test` with the columns `head`, `text` and `label`, an index into "bad", "good".
    """
    return _test(
        {
            "head": "sequence",
            "text": document.prompt,
            "label": LABELS.index(document.facts["label"]),
        }
        for document in _distinct("review", n, seed)
    )


def names(*, n: int, seed: int = 0, **_: Any) -> DatasetDict:
    """News with names, for the token head.

    Returns:
        The split `test` with the columns `head`, `text`, `words`, `labels` and `best`: the labels
        that the best reader of the left side would give.
    """
    return _test(
        {
            "head": "token",
            "text": document.text,
            "words": [word.text for word in document.words],
            "labels": [word.tags.get("bio", "O") for word in document.words],
            "best": [_best_label(word) for word in document.words],
        }
        for document in _distinct("news", n, seed)
    )


def _best_label(word: Word) -> str:
    """A name's first word may leave its type open; a later one, or a first name, settles it."""
    if "best_causal" in word.tags:
        return f"B-{word.tags['best_causal']}"
    return word.tags.get("bio", "O")


def passages(*, n: int, seed: int = 0, **_: Any) -> DatasetDict:
    """Passages with a question, for the question-answering head.

    Returns:
        The split `test` with the columns `head`, `question`, `context`, `answers` (one text) and
        `may_be_empty` (never).
    """
    rows = []
    for document in _distinct("passage", n, seed):
        facts = document.facts
        rows.append(
            {
                "head": "qa",
                "question": document.text[: facts["question_end"]],
                "context": document.text[facts["question_end"] + 1 : facts["prompt_end"]],
                "answers": [document.text[facts["answer_start"] : facts["answer_end"]]],
                "may_be_empty": False,
            }
        )
    return _test(rows)


def pairs(
    *, skill: str, n: int, attractors: int | None = None, seed: int = 0, **_: Any
) -> DatasetDict:
    """Places where one of two words is right, one per document.

    Args:
        skill: "agreement" or "verdict".
        n: Documents.
        attractors: Of agreement: nouns of the other number between subject and verb; 2 means two
            or more.
        seed: Of the documents.

    Returns:
        The split `test` with the columns `text` (what comes before), `choices` (two words, the
        right one first in every other document, so that a tie favours neither) and `label`.
    """

    def asked(slot: Slot) -> bool:
        return attractors is None or min(slot.detail["attractors"], 2) == attractors

    rows = []
    for number, (document, slot) in enumerate(_slots(skill, n, seed, asked)):
        right = document.text[slot.start : slot.end]
        both = [f" {right}", f" {slot.other}"]
        label = number % 2
        rows.append(
            {
                "text": document.text[: slot.start].rstrip(),
                "choices": both[::-1] if label else both,
                "label": label,
            }
        )
    return _test(rows)


def words(*, skill: str, n: int, seed: int = 0, **_: Any) -> DatasetDict:
    """Places where one word is right, one per document.

    Args:
        skill: "fact" or "recall".
        n: Documents.
        seed: Of the documents.

    Returns:
        The split `test` with the columns `text` and `target`.
    """
    return _test(
        {
            "text": document.text[: slot.start].rstrip(),
            "target": f" {document.text[slot.start : slot.end]}",
        }
        for document, slot in _slots(skill, n, seed, lambda slot: True)
    )


def copies(*, n: int, seed: int = 0, **_: Any) -> DatasetDict:
    """Strings to say again, up to their full stop.

    Returns:
        The split `test` with the columns `text` and `target`.
    """
    rows = []
    for document in _distinct("copy", n, seed):
        first, stop = document.slots[0], document.slots[-1]
        rows.append(
            {
                "text": document.text[: first.start].rstrip(),
                "target": document.text[first.start : stop.start],
            }
        )
    return _test(rows)


def texts(*, kind: str, n: int, seed: int = 0, **_: Any) -> DatasetDict:
    """Whole documents of a kind, with their end, and what they hold.

    Args:
        kind: One of `arcee_lab.demo.KINDS`.
        n: Documents.
        seed: Of the documents.

    Returns:
        The split `test` with the columns `text`, `words` (their number, the end counted) and
        `nats`: the exact information of the text. A reader is not given the kind, so its price in
        the mix of all is part of it.
    """
    return _test(
        {
            "text": document.text + EOS,
            "words": len(document.words) + 1,
            "nats": document.nats - math.log(MIX[kind]),
        }
        for document in islice(stream(kind, seed=seed, split="test"), n)
    )


def _test(rows: Any) -> DatasetDict:
    return DatasetDict({"test": Dataset.from_list(list(rows))})


@cache
def _distinct(kind: str, n: int, seed: int) -> tuple[Document, ...]:
    """The first n documents whose prompts differ."""
    seen: dict[str, Document] = {}
    for document in islice(stream(kind, seed=seed, split="test"), _ENOUGH * n):
        seen.setdefault(document.prompt, document)
        if len(seen) == n:
            break
    return tuple(seen.values())


_KIND_OF = {"agreement": "story", "verdict": "review", "fact": "facts", "recall": "table"}


def _slots(
    skill: str, n: int, seed: int, asked: Callable[[Slot], bool]
) -> Iterator[tuple[Document, Slot]]:
    """One slot each of n documents: of those asked for, another one from document to document."""
    found = 0
    for document in islice(stream(_KIND_OF[skill], seed=seed, split="test"), _ENOUGH * n):
        fitting = [slot for slot in document.slots if slot.skill == skill and asked(slot)]
        if fitting:
            yield document, fitting[found % len(fitting)]
            found += 1
            if found == n:
                return
