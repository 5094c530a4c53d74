"""Data sets of one label per text, with the names of their labels in the order of the Hub's ids."""

from collections.abc import Sequence
from typing import Any

from arcee_lab.errors import TaskError
from arcee_lab.evals.tasks.datasets.source import Rows, Source

SST2 = ("negative", "positive")
AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
MNLI = ("entailment", "neutral", "contradiction")


def labelled(
    rows: Rows, source: Source, names: Sequence[str], *, text: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows as documents for a sequence head.

    Args:
        rows: Rows with `label`: an id, an id in digits, or a name.
        source: The data set, for the message.
        names: Label names, in the order of their ids.
        text: Columns that make the text, joined by line breaks.

    Returns:
        Documents with `head`, `text` and `label`, an index into the names.

    Raises:
        ValueError: A row lacks a column, or has another label.
    """
    ids: dict[Any, int] = {name: i for i, name in enumerate(names)}
    ids |= {i: i for i in range(len(names))} | {str(i): i for i in range(len(names))}
    documents = []
    for number, row in enumerate(rows):
        where = f"Task 'arcee_{source.name}', row {number}"
        missing = [column for column in (*text, "label") if column not in row]
        if missing:
            raise TaskError(f"{where} has no column {missing[0]!r}; it has {', '.join(row)}.")
        if row["label"] not in ids:
            raise TaskError(
                f"{where} has the label {row['label']!r}; expected 0 to {len(names) - 1} "
                f"({', '.join(names)}). A test split without labels cannot be scored."
            )
        for column in text:
            if not isinstance(row[column], str):
                got = type(row[column]).__name__
                raise TaskError(f"{where}: {column!r} is {got}; expected a text.")
        joined = "\n".join(row[column].strip() for column in text)
        documents.append({"head": "sequence", "text": joined, "label": ids[row["label"]]})
    return documents
