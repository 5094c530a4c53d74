"""SQuAD's JSON, versions 1 and 2: articles, their paragraphs, and the questions of each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arcee_lab.data.rows import Row, read_value
from arcee_lab.errors import TextError
from arcee_lab.runs.json_text import kind_of

_SHAPE = 'expected SQuAD\'s form: {"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}'


def is_squad(value: Any) -> bool:
    """Whether the value of a JSON file has SQuAD's outermost form."""
    return isinstance(value, dict) and isinstance(value.get("data"), list) and _nested(value)


def _nested(value: dict[str, Any]) -> bool:
    first = next(iter(value["data"]), None)
    return not value["data"] or (isinstance(first, dict) and "paragraphs" in first)


def read_squad(path: Path) -> Iterator[Row]:
    """Yields the questions of a file as rows in the Hub's columns.

    Args:
        path: A `.json` file of SQuAD v1 or v2, also with `.gz`.

    Yields:
        `question`, `context` and `answers` (`{"text": [...], "answer_start": [...]}`), empty where
        the question is marked as impossible.

    Raises:
        TextError: The file cannot be read, or lacks a part; the article, the paragraph and the
            question are named, each counted from 1.
    """
    yield from squad_rows(read_value(path), str(path))


def squad_rows(value: Any, where: str) -> Iterator[Row]:
    """The same of a value that is read already.

    Args:
        value: Of the JSON file.
        where: The name of the file, for errors.
    """
    if not isinstance(value, dict) or "data" not in value:
        raise TextError(f"{where} holds {kind_of(value)} without 'data'; {_SHAPE}.")
    for a, article in enumerate(_list(value, "data", where), start=1):
        at = f"{where} article {a}"
        for p, paragraph in enumerate(_list(article, "paragraphs", at), start=1):
            at = f"{where} article {a}, paragraph {p}"
            context = _text(paragraph, "context", at)
            for q, asked in enumerate(_list(paragraph, "qas", at), start=1):
                here = f"{at}, question {q}"
                yield Row(here, _row(asked, context, here))


def _row(asked: Any, context: str, where: str) -> dict[str, Any]:
    question = _text(asked, "question", where)
    impossible = asked.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise TextError(
            f"{where}: 'is_impossible' is {kind_of(impossible)}; expected true or false."
        )
    answers = [] if impossible else _list(asked, "answers", where)
    return {
        "question": question,
        "context": context,
        "answers": {
            "text": [_text(answer, "text", where) for answer in answers],
            "answer_start": [answer.get("answer_start") for answer in answers],
        },
    }


def _get(value: Any, key: str, where: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        got = f"an object without {key!r}" if isinstance(value, dict) else kind_of(value)
        raise TextError(f"{where} has {got}; {_SHAPE}.")
    return value[key]


def _list(value: Any, key: str, where: str) -> list[Any]:
    found = _get(value, key, where)
    if not isinstance(found, list):
        raise TextError(f"{where}: {key!r} is {kind_of(found)}; expected a list.")
    return found


def _text(value: Any, key: str, where: str) -> str:
    found = _get(value, key, where)
    if not isinstance(found, str):
        raise TextError(f"{where}: {key!r} is {kind_of(found)}; expected a text.")
    return found
