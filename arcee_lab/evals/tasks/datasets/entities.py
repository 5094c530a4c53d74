"""Data sets of one label per word, with the names of their labels in the order of the Hub's ids."""

from collections.abc import Sequence
from typing import Any, cast

from arcee_lab.errors import TaskError
from arcee_lab.evals.metrics import entities
from arcee_lab.evals.tasks.datasets.source import Rows, Source

CONLL2003 = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
WIKIANN = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")


def labelled(rows: Rows, source: Source, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as documents for a token head.

    Args:
        rows: Rows with `tokens` and `ner_tags`: ids or names.
        source: The data set, for the message.
        names: Label names, in the order of their ids.

    Returns:
        Documents with `head`, `text`, `words` and `labels`, which are IOB2 whatever they were: the
        first files of CoNLL-2003 write B- only between neighbours of one type.

    Raises:
        ValueError: A row lacks a column, has another label, or not one per word.
    """
    documents = []
    for number, row in enumerate(rows):
        where = f"Task 'arcee_{source.name}', row {number}"
        missing = [column for column in ("tokens", "ner_tags") if column not in row]
        if missing:
            raise TaskError(f"{where} has no column {missing[0]!r}; it has {', '.join(row)}.")
        words, tags = _list(row, "tokens", where), _list(row, "ner_tags", where)
        odd = [word for word in words if not isinstance(word, str)]
        if odd:
            raise TaskError(f"{where} has the word {odd[0]!r}; expected a text.")
        found = [cast(str, names[tag]) if tag in range(len(names)) else tag for tag in tags]
        strange = [label for label in found if label not in names]
        if strange or len(words) != len(tags):
            raise TaskError(
                f"{where} has {len(words)} words and {len(tags)} labels, {strange[:1] or 'none'} "
                f"unknown; expected one of {', '.join(names)} a word."
            )
        if not words:
            continue
        documents.append(
            {"head": "token", "text": " ".join(words), "words": words, "labels": iob2(found)}
        )
    return documents


def _list(row: dict[str, Any], column: str, where: str) -> list[Any]:
    if not isinstance(row[column], (list, tuple)):
        raise TaskError(
            f"{where}: {column!r} is {type(row[column]).__name__}; expected a list, one entry per "
            "word."
        )
    return list(row[column])


def iob2(labels: Sequence[str]) -> list[str]:
    """The same entities with B- at the first word of each."""
    written = ["O"] * len(labels)
    for kind, start, end in entities(labels):
        written[start : end + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start)
    return written
