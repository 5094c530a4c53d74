"""Texts with labels, from files, the Hub, a task, or the demo's world."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from arcee_lab.data.rows import Row, cell, is_table, read_rows, require_file, require_unicode
from arcee_lab.errors import SettingError, TextError
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.hub import is_hub_id
from arcee_lab.training.heads.tasks import is_task, read_task, task_file

FROM_WORLD = {"train": 4000, "validation": 1000, "test": 1000}  # texts, if no limit is given
WORLD = "demo"


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with one label per text, or one label per word.

    Attributes:
        head: "sequence" or "token".
        texts: The texts.
        words: For the token head, the words of each text.
        labels: Indices into the names: one per text, or one per word.
        names: The names of the labels.
    """

    head: str
    texts: tuple[str, ...]
    words: tuple[tuple[str, ...], ...] | None
    labels: tuple[Any, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def majority(self) -> float:
        """Fraction of the most common label: the accuracy without reading the texts."""
        flat = [one for row in self.labels for one in (row if self.words else (row,))]
        return max(flat.count(label) for label in set(flat)) / len(flat)


@checked
def read_labelled(
    source: str | Path,
    *,
    head: str,
    text_column: str | None = None,
    label_column: str | None = None,
    names: Sequence[str] | None = None,
    limit: int | None = None,
) -> LabelledTexts:
    """Reads a classification data set.

    Args:
        source: A `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet` file, each also with
            `.gz`; a Hub id or a folder of data files, `NAME[:split]`, by default its train split;
            `demo[:split]`, the reviews or news of the demo's world; or a task of
            `arcee-lab eval` on one of the field's data sets, as `TASK:FILE` in the data set's own
            format or `TASK[:split]` on the Hub. A task defines its texts, its labels and their
            names, so that it can evaluate the head as it is.
        head: "sequence" (one label per text) or "token" (one label per word).
        text_column: Column of the texts, or of the lists of words; "text", or "tokens", by default.
            `a.b` is column `b` of the object in column `a`.
        label_column: Column of labels; "label", or "tags", by default.
        names: The labels in the order of the head, such as those of the training texts; by default
            those of the data set, or else those that occur, sorted.
        limit: Most rows to read.

    Raises:
        TextError: The source, a column, a text or a label cannot be read; file and row are named.
        SettingError: An argument has a value that cannot be used.

    Example:
        >>> from arcee_lab.training.heads import read_labelled
        >>> read_labelled("demo:test", head="sequence", limit=5).names
        ('bad', 'good')
    """
    if head not in ("sequence", "token"):
        raise SettingError(
            f"head={head!r}; expected 'sequence' (one label per text) or 'token' (one per word)."
        )
    if not str(source).partition(":")[0] or str(source) == ".":
        raise TextError(
            f"{str(source)!r} names no data; expected a file, a Hub id, demo, or TASK:FILE."
        )
    if limit is not None and limit < 1:
        raise SettingError(f"limit={limit}; expected 1 row or more.")
    if (text_column or label_column) and is_task(str(source)):
        raise SettingError(
            f"{source} is a task, which knows its columns; leave the names of columns out."
        )
    text = text_column or ("text" if head == "sequence" else "tokens")
    label = label_column or ("label" if head == "sequence" else "tags")
    rows, own = _open(str(source), head, label, limit)
    found = list(islice(rows, limit))
    if not found:
        raise TextError(f"{source} holds no row; expected texts with labels.")
    given = [
        [_name(one, own, row.where, label) for one in _labels(row, label, head)] for row in found
    ]
    expected = list(names or ()) or own or sorted({one for row in given for one in row})
    ids = {name: i for i, name in enumerate(expected)}
    for one, row in zip(found, given, strict=True):
        strange = [label for label in row if label not in ids]
        if strange:
            raise TextError(
                f"{one.where} has the label {strange[0]!r}; expected one of {', '.join(ids)}."
            )
    words = [_words(row, text) for row in found] if head == "token" else None
    if words is None:
        texts = [_text(cell(row, text), row.where, text) for row in found]
    else:
        for one, some, row in zip(found, words, given, strict=True):
            if len(some) != len(row):
                raise TextError(
                    f"{one.where} has {len(some)} words and {len(row)} labels; expected one label "
                    "per word."
                )
        # If a row has its running text, the words are tokenised as they are in it.
        texts = [
            _text(row.values["text"], row.where, "text")
            if "text" in row.values and text != "text"
            else " ".join(some)
            for row, some in zip(found, words, strict=True)
        ]
    return LabelledTexts(
        head=head,
        texts=tuple(texts),
        words=None if words is None else tuple(words),
        labels=tuple(tuple(ids[o] for o in row) if words else ids[row[0]] for row in given),
        names=tuple(ids),
    )


def file_of(source: str) -> Path | None:
    """The local file of a source, or None."""
    if is_task(source):
        return task_file(source)
    name = source.partition(":")[0]
    return None if name == WORLD or Path(name).is_dir() or is_hub_id(name) else Path(source)


def _text(value: Any, where: str, column: str) -> str:
    """The text of a cell.

    Raises:
        TextError: It is blank or not a text; "None" or a number must not become a text.
    """
    if not isinstance(value, str) or not value.strip():
        got = "blank" if isinstance(value, str) else type(value).__name__
        raise TextError(f"{where}: {column!r} is {got}; expected a text, so fix or drop the row.")
    require_unicode(value, f"{where}: {column!r}")
    return value


def _words(row: Row, column: str) -> tuple[str, ...]:
    words = _several(row, column, "words")
    return tuple(_text(word, f"{row.where}, word {n}", column) for n, word in enumerate(words))


def _labels(row: Row, column: str, head: str) -> list[Any]:
    return _several(row, column, "labels") if head == "token" else [cell(row, column)]


def _several(row: Row, column: str, what: str) -> list[Any]:
    value = cell(row, column)
    if not isinstance(value, (list, tuple)) or not value:
        got = "empty" if isinstance(value, (list, tuple)) else type(value).__name__
        raise TextError(
            f"{row.where}: {column!r} is {got}; expected a list of {what}, one per word, so fix "
            "or drop the row."
        )
    return list(value)


def _name(value: Any, names: Sequence[str] | None, where: str, column: str) -> str:
    """A label's name; a number is an index if the data set names its labels."""
    if not isinstance(value, (str, int)) or value == "":
        got = "empty" if value == "" else type(value).__name__
        raise TextError(
            f"{where}: the label in {column!r} is {got}; expected a name or a whole number, "
            "so fix or drop the row."
        )
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _open(
    source: str, head: str, label: str, limit: int | None
) -> tuple[Iterable[Row], list[str] | None]:
    """The rows of a source, and its names of the labels, if it has any."""
    name, _, split = source.partition(":")
    own: list[str] | None
    if name == WORLD:
        rows, own = _world(head, split or "train", limit)
    elif is_task(source):
        rows, own = read_task(source, head)
    elif Path(name).is_dir() or is_hub_id(name):
        rows, own = _dataset(name, split or "train", label)
    else:
        path = Path(source)
        require_file(path)
        if not is_table(path):
            raise TextError(
                f"The file {path} is no table of texts and labels; expected .jsonl, .ndjson, "
                ".json, .csv, .tsv or .parquet, each also with .gz, or TASK:FILE for the format of "
                f"one of the field's data sets, such as arcee_conll2003:{path}."
            )
        return read_rows(path), None
    return (Row(f"{source}, row {number}", row) for number, row in enumerate(rows)), own


def _world(head: str, split: str, limit: int | None) -> tuple[Iterable[dict[str, Any]], list[str]]:
    from arcee_lab.demo.reviews import LABELS
    from arcee_lab.demo.tasks import BIO, dataset

    if split not in FROM_WORLD:
        raise TextError(f"The demo has no split {split!r}; it has {', '.join(FROM_WORLD)}.")
    names = list(LABELS if head == "sequence" else BIO)
    sizes = dict.fromkeys(FROM_WORLD, 1) | {split: limit or FROM_WORLD[split]}
    return cast(Iterable[dict[str, Any]], dataset(head, **sizes)[split]), names


def _dataset(
    name: str, split: str, label: str
) -> tuple[Iterable[dict[str, Any]], list[str] | None]:
    import datasets

    from arcee_lab.data.documents import open_dataset

    rows = open_dataset(name, split, streaming=False)
    assert isinstance(rows, datasets.Dataset)
    feature = rows.features.get(label)
    feature = getattr(feature, "feature", feature)  # of a list: the feature of its elements
    names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return cast(Iterable[dict[str, Any]], rows), names
