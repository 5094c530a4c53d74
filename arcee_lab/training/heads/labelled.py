"""Texts with labels: from files, from the Hub, from a task, or from the demo's world."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

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
        source: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file; a Hub id, `NAME[:split]`, by default
            its train split; `demo[:split]`, the reviews or news of the demo's world; or a task of
            `arcee-lab eval` on one of the field's data sets, as `TASK:FILE` in the data set's own
            format or `TASK[:split]` on the Hub. A task brings its texts, its labels and their
            names: the head can be evaluated by it as it is.
        head: "sequence" (one label a text) or "token" (one label a word).
        text_column: Column of the texts, or of the lists of words; "text", or "tokens", by default.
        label_column: Column of labels; "label", or "tags", by default.
        names: The labels in the order of the head, as those of the training texts; by default those
            that the data set names, or else those that occur, sorted.
        limit: Most rows to read.

    Raises:
        ValueError: The source, a column or a label is not as it should be.

    Example:
        >>> from arcee_lab.training.heads import read_labelled
        >>> read_labelled("demo:test", head="sequence", limit=5).names
        ('bad', 'good')
    """
    if head not in ("sequence", "token"):
        raise ValueError(f"head={head!r}; expected 'sequence' (a text) or 'token' (a word).")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; expected 1 row or more.")
    if (text_column or label_column) and is_task(str(source)):
        raise ValueError(
            f"{source} is a task, which knows its columns; leave the names of columns out."
        )
    text = text_column or ("text" if head == "sequence" else "tokens")
    label = label_column or ("label" if head == "sequence" else "tags")
    rows, own = _open(str(source), head, label, limit)
    found = list(islice(rows, limit))
    if not found:
        raise ValueError(f"{source} holds no row; expected texts with labels.")
    missing = [column for column in (text, label) if column not in found[0]]
    if missing:
        raise ValueError(
            f"{source} has no column {missing[0]!r}; it has {', '.join(found[0])}. Name the "
            "columns of texts and of labels."
        )
    given = [[_name(one, own) for one in _list(row[label], head)] for row in found]
    expected = names or own or sorted({one for row in given for one in row})
    ids = {name: i for i, name in enumerate(expected)}
    for number, row in enumerate(given):
        strange = [one for one in row if one not in ids]
        if strange:
            raise ValueError(
                f"{source}, row {number} has the label {strange[0]!r}; expected one of "
                f"{', '.join(ids)}."
            )
    words = [tuple(map(str, row[text])) for row in found] if head == "token" else None
    if words is not None:
        for number, (some, row) in enumerate(zip(words, given, strict=True)):
            if len(some) != len(row) or not some:
                raise ValueError(
                    f"{source}, row {number} has {len(some)} words and {len(row)} labels; expected "
                    "one label a word."
                )
    if words is None:
        texts = [str(row[text]) for row in found]
    else:  # where a row has its running text, a tokenizer sees the words as they stand in it
        texts = [
            str(row.get("text", " ".join(some))) for row, some in zip(found, words, strict=True)
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
    return Path(source) if Path(source).suffix in _READERS else None


def _list(value: Any, head: str) -> list[Any]:
    return list(value) if head == "token" else [value]


def _name(value: Any, names: Sequence[str] | None) -> str:
    """A label's name; a number stands for one where the data set names its labels."""
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _open(
    source: str, head: str, label: str, limit: int | None
) -> tuple[Iterable[dict[str, Any]], list[str] | None]:
    """The rows of a source, and the names that it has for its labels."""
    name, _, split = source.partition(":")
    if name == WORLD:
        return _world(head, split or "train", limit)
    if is_task(source):
        return read_task(source, head)
    path = Path(source)
    if path.suffix in _READERS:
        if not path.is_file():
            raise ValueError(f"data file {path} is missing; check the path.")
        try:
            return _READERS[path.suffix](path), None
        except (ValueError, OSError) as error:
            raise ValueError(f"data file {path} cannot be read: {error}") from None
    return _hub(name, split or "train", label)


def _world(head: str, split: str, limit: int | None) -> tuple[Iterable[dict[str, Any]], list[str]]:
    from arcee_lab.demo.reviews import LABELS
    from arcee_lab.demo.tasks import BIO, dataset

    if split not in FROM_WORLD:
        raise ValueError(f"the demo has no split {split!r}; it has {', '.join(FROM_WORLD)}.")
    names = list(LABELS if head == "sequence" else BIO)
    sizes = dict.fromkeys(FROM_WORLD, 1) | {split: limit or FROM_WORLD[split]}
    return cast(Iterable[dict[str, Any]], dataset(head, **sizes)[split]), names


def _jsonl(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _table(path: Path) -> list[dict[str, Any]]:
    tabs = path.suffix == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        more: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
        return list(csv.DictReader(file, **more))


def _parquet(path: Path) -> list[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from None


_READERS = {".jsonl": _jsonl, ".csv": _table, ".tsv": _table, ".parquet": _parquet}


def _hub(name: str, split: str, label: str) -> tuple[Iterable[dict[str, Any]], list[str] | None]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(name, split=split)
    except (ValueError, OSError, DatasetsError) as error:
        raise ValueError(
            f"data set {name!r}, split {split!r}, cannot be opened: {' '.join(str(error).split())}"
        ) from None
    assert isinstance(rows, datasets.Dataset)
    feature = rows.features.get(label)
    feature = getattr(feature, "feature", feature)  # of a list: of what it holds
    names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return cast(Iterable[dict[str, Any]], rows), names
