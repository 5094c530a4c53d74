"""SQuAD's questions as documents for a question-answering head."""

from typing import Any

from arcee_lab.errors import TaskError
from arcee_lab.evals.tasks.datasets.source import Rows


def asked(rows: Rows, *, may_be_empty: bool) -> list[dict[str, Any]]:
    """Rows as documents.

    Args:
        rows: Rows with `question`, `context` and `answers` (`{"text": [...]}`).
        may_be_empty: Whether a question may have no answer.

    Returns:
        Documents with `head`, `question`, `context`, `answers` (texts; none means there is no
        answer) and `may_be_empty`.

    Raises:
        ValueError: A question has no answer where it must have one.
    """
    documents = []
    for number, row in enumerate(rows):
        for column in ("question", "context"):
            if not isinstance(row[column], str):
                got = type(row[column]).__name__
                raise TaskError(
                    f"Task 'arcee_squad', row {number}: {column!r} is {got}; expected a text."
                )
        answers = list(dict.fromkeys(row["answers"]["text"]))
        if not answers and not may_be_empty:
            raise TaskError(
                f"Task 'arcee_squad', row {number} has no answer; expected one or more. SQuAD v2 "
                "has such questions: use arcee_squad_v2."
            )
        documents.append(
            {
                "head": "qa",
                "question": row["question"].strip(),
                "context": row["context"],
                "answers": answers,
                "may_be_empty": may_be_empty,
            }
        )
    return documents
