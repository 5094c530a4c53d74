"""Questions about contexts with their answers, for QA heads: SQuAD's files, rows, or the demo."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arcee_lab.data.rows import Row, cell, is_table, read_rows, read_value, require_unicode
from arcee_lab.data.squad import is_squad, squad_rows
from arcee_lab.errors import TextError
from arcee_lab.evals.metrics import normalize


@dataclass(frozen=True)
class LabelledQuestions:
    """Questions, each about a context that holds its answer, or none.

    Attributes:
        questions: The questions.
        contexts: The text that each is about.
        answers: The right answers to each, as they are in its context; none means that the context
            does not answer it.
        starts: The first character of each answer in its context.
        may_be_empty: Whether a reader may answer nothing, as in SQuAD v2.
    """

    questions: tuple[str, ...]
    contexts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    starts: tuple[tuple[int, ...], ...]
    may_be_empty: bool

    @property
    def head(self) -> str:
        """The head that they are for: "qa"."""
        return "qa"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of labels: a span has none."""
        return ()

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def majority(self) -> float:
        """Fraction of the questions to which the most common answer is right."""
        rows = [{normalize(one) for one in row or ("",)} for row in self.answers]
        counts = Counter(one for row in rows for one in row)
        return max(counts.values()) / len(self)


def squad_file(source: str) -> Any:
    """The value of a `.json` file in SQuAD's form, or None for any other source."""
    path = Path(source)
    if not path.name.lower().removesuffix(".gz").endswith(".json") or not path.is_file():
        return None
    value = read_value(path)
    return value if is_squad(value) else None


def file_rows(source: str) -> Iterable[Row]:
    """The questions of a file: SQuAD's JSON, or rows with `question`, `context` and `answers`."""
    value = squad_file(source)
    if value is not None:
        return squad_rows(value, source)
    if not is_table(Path(source)):
        raise TextError(
            f"The file {source} is no table of questions; expected SQuAD's .json, or a .jsonl, "
            ".ndjson, .json or .parquet file with question, context and answers."
        )
    return read_rows(Path(source))


def questions_of(rows: Sequence[Row], *, may_be_empty: bool | None = None) -> LabelledQuestions:
    """Rows in the Hub's columns as questions.

    Args:
        rows: With `question`, `context` and `answers`: `{"text": [...], "answer_start": [...]}`, a
            list of `{"text": ..., "answer_start": ...}`, or a text. Without `answer_start` the text
            must occur once in the context.
        may_be_empty: Whether a question may have no answer; by default if one of them has none.

    Raises:
        TextError: A question, a context or an answer is blank or no text, an answer is not in its
            context, or a question has none where it must have one; file and row are named.
    """
    read = [_read(row) for row in rows]
    for row, (_, _, found) in zip(rows, read, strict=True):
        if may_be_empty is False and not found:
            raise TextError(
                f"{row.where} has no answer; expected one or more. SQuAD v2 has such questions: "
                "use arcee_squad_v2, or the file without a task."
            )
    return LabelledQuestions(
        tuple(question for question, _, _ in read),
        tuple(context for _, context, _ in read),
        tuple(tuple(text for text, _ in found) for _, _, found in read),
        tuple(tuple(start for _, start in found) for _, _, found in read),
        may_be_empty=not all(one for _, _, one in read) if may_be_empty is None else may_be_empty,
    )


def _read(row: Row) -> tuple[str, str, list[tuple[str, int]]]:
    """Question, context, and the different answers with their first characters."""
    question = _text(cell(row, "question"), "question", row.where).strip()
    context = _text(cell(row, "context"), "context", row.where)
    found = []
    for text, start in _answers(cell(row, "answers"), row.where):
        if not isinstance(text, str) or not text.strip():
            got = "blank" if isinstance(text, str) else type(text).__name__
            raise TextError(f"{row.where}: an answer is {got}; expected a part of the context.")
        place = _place(text, start, context, row.where)
        lead = len(text) - len(text.lstrip())
        found.append((text.strip(), place + lead))
    return question, context, list(dict.fromkeys(found))


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        got = "blank" if isinstance(value, str) else type(value).__name__
        raise TextError(f"{where}: {column!r} is {got}; expected a text, so fix or drop the row.")
    require_unicode(value, f"{where}: {column!r}")
    return value


def _answers(value: Any, where: str) -> list[tuple[Any, Any]]:
    """Texts and first characters of the answers; None where it is not said."""
    if isinstance(value, str):
        return [(value, None)]
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        texts = value["text"]
        starts = value.get("answer_start")
        starts = [None] * len(texts) if starts is None else starts
        if isinstance(starts, list) and len(starts) == len(texts):
            return list(zip(texts, starts, strict=True))
    if isinstance(value, list) and all(isinstance(one, dict) and "text" in one for one in value):
        return [(one["text"], one.get("answer_start")) for one in value]
    raise TextError(
        f"{where}: 'answers' is no list of answers; expected "
        '{"text": [...], "answer_start": [...]} of equal length, a list of '
        '{"text": ..., "answer_start": ...}, or one text.'
    )


def _place(text: str, start: Any, context: str, where: str) -> int:
    """The first character of an answer in its context."""
    shown = repr(text if len(text) <= 60 else f"{text[:57]}...")
    if start is None:
        found = context.count(text)
        if found != 1:
            raise TextError(
                f"{where}: the answer {shown} occurs {found} times in its context; expected "
                "answer_start, the number of its first character."
            )
        return context.index(text)
    whole = isinstance(start, int) and not isinstance(start, bool)
    if not whole or start < 0 or context[start : start + len(text)] != text:
        raise TextError(
            f"{where}: the answer {shown} does not begin at character {str(start)[:20]} of its "
            "context; expected the number of its first character, counted from 0."
        )
    return start
