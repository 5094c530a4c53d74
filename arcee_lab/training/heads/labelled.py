"""Texts with labels: from files, from the Hub, from a task, or from the demo's world."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from arcee_lab.data.rows import Row, cell, is_table, read_rows, require_file, require_unicode
from arcee_lab.errors import TextError
from arcee_lab.runs.hub import is_hub_id
from arcee_lab.training.heads.tasks import is_task, read_task, task_file

FROM_WORLD = {"train": 4000, "validation": 1000, "test": 1000}  # texts, where no limit is given
WORLD = "demo"


@dataclass(frozen=True)
class Labelled:
    """Texts with one label each, or words with one label each.

    Attributes:
        head: "sequence" or "token".
        texts: The texts.
        words: Of the token head: the words of each text.
        labels: Indices into the names: one a text, or one a word.
        names: The labels.
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
        """Share of the commonest label: what a reader without eyes scores."""
        flat = [one for row in self.labels for one in (row if self.words else (row,))]
        return max(flat.count(label) for label in set(flat)) / len(flat)


def read_labelled(
    source: str | Path,
    *,
    head: str,
    text_column: str | None = None,
    label_column: str | None = None,
    names: Sequence[str] | None = None,
    limit: int | None = None,
) -> Labelled:
    """Reads a classification data set.

    Args:
        source: A `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet` file, each also with
            `.gz`; a Hub id or a folder of data files, `NAME[:split]`, by default its train split;
            `demo[:split]`, the reviews or news of the demo's world; or a task of
            `arcee-lab eval` on one of the field's data sets, as `TASK:FILE` in the data set's own
            format or `TASK[:split]` on the Hub. A task brings its texts, its labels and their
            names: the head can be evaluated by it as it is.
        head: "sequence" (one label a text) or "token" (one label a word).
        text_column: Column of the texts, or of the lists of words; "text", or "tokens", by default.
            `a.b` is column `b` of the object in column `a`.
        label_column: Column of labels; "label", or "tags", by default.
        names: The labels in the order of the head, as those of the training texts; by default those
            that the data set names, or else those that occur, sorted.
        limit: Most rows to read.

    Raises:
        ValueError: The source, a column, a text or a label is not as it should be; file and row are
            named.

    Example:
        >>> from arcee_lab.training.heads import read_labelled
        >>> read_labelled("demo:test", head="sequence", limit=5).names
        ('bad', 'good')
    """
    if head not in ("sequence", "token"):
        raise TextError(f"head={head!r}; expected 'sequence' (a text) or 'token' (a word).")
    if limit is not None and limit < 1:
        raise TextError(f"limit={limit}; expected 1 row or more.")
    if (text_column or label_column) and is_task(str(source)):
        raise TextError(
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
    expected = names or own or sorted({one for row in given for one in row})
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
        # Where a row has its running text, a tokenizer sees the words as they stand in it.
        texts = [
            _text(row.values["text"], row.where, "text")
            if "text" in row.values and text != "text"
            else " ".join(some)
            for row, some in zip(found, words, strict=True)
        ]
    return Labelled(
        head=head,
        texts=tuple(texts),
        words=None if words is None else tuple(words),
        labels=tuple(tuple(ids[o] for o in row) if words else ids[row[0]] for row in given),
        names=tuple(ids),
    )


def file_of(source: str) -> Path | None:
    """The local file that a source reads, if it reads one."""
    if is_task(source):
        return task_file(source)
    name = source.partition(":")[0]
    return None if name == WORLD or Path(name).is_dir() or is_hub_id(name) else Path(source)


def _text(value: Any, where: str, column: str) -> str:
    """A text that holds a word.

    Raises:
        ValueError: It is something else, which must not become the text that Python writes for it.
    """
    if not isinstance(value, str) or not value.strip():
        got = "blank" if isinstance(value, str) else type(value).__name__
        raise TextError(f"{where}: {column!r} is {got}; expected a text. Correct or drop the row.")
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
            f"{row.where}: {column!r} is {got}; expected a list of {what}, one per word. Correct "
            "or drop the row."
        )
    return list(value)


def _name(value: Any, names: Sequence[str] | None, where: str, column: str) -> str:
    """A label's name; a number stands for one where the data set names its labels."""
    if not isinstance(value, (str, int)) or value == "":
        got = "empty" if value == "" else type(value).__name__
        raise TextError(
            f"{where}: the label in {column!r} is {got}; expected a name or a whole number. "
            "Correct or drop the row."
        )
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _open(
    source: str, head: str, label: str, limit: int | None
) -> tuple[Iterable[Row], list[str] | None]:
    """The rows of a source, and the names that it has for its labels."""
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
                f"file {path} is no table of texts and labels; expected .jsonl, .ndjson, .json, "
                ".csv, .tsv or .parquet, each also with .gz. A file in the format of one of the "
                f"field's data sets is read as TASK:FILE, such as arcee_conll2003:{path}."
            )
        return read_rows(path), None
    return (Row(f"{source}, row {number}", row) for number, row in enumerate(rows)), own


def _world(head: str, split: str, limit: int | None) -> tuple[Iterable[dict[str, Any]], list[str]]:
    from arcee_lab.demo.reviews import LABELS
    from arcee_lab.demo.tasks import BIO, dataset

    if split not in FROM_WORLD:
        raise TextError(f"the demo has no split {split!r}; it has {', '.join(FROM_WORLD)}.")
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
    feature = getattr(feature, "feature", feature)  # of a list: of what it holds
    names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return cast(Iterable[dict[str, Any]], rows), names
