"""Texts with labels, and questions, from files, the Hub, a task, or the demo's world."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from arcee_lab.data.rows import Row, cell, is_table, read_rows, require_file, require_unicode
from arcee_lab.data.word_columns import is_conll_u, read_word_columns
from arcee_lab.errors import SettingError, TextError
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.hub import is_hub_id
from arcee_lab.training.heads.questions import LabelledQuestions, file_rows, questions_of
from arcee_lab.training.heads.tasks import is_task, read_questions, read_task, task_file

HEADS = ("sequence", "token", "qa")
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


Labelled = LabelledTexts | LabelledQuestions


@checked
def read_labelled(
    source: str | Path,
    *,
    head: str,
    text_column: str | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    limit: int | None = None,
) -> Any:
    """Reads a data set for one of the heads.

    Args:
        source: A `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet` file, each also with
            `.gz`; a Hub id or a folder of data files, `NAME[:split]`, by default its train split;
            `demo[:split]`, the reviews, news or passages of the demo's world; or a task of
            `arcee-lab eval` on one of the field's data sets, as `TASK:FILE` in the data set's own
            format or `TASK[:split]` on the Hub. A task defines its texts, its labels and their
            names, so that it can evaluate the head as it is. For the token head any other file,
            and `.tsv`, has one word per line with its labels in columns (CoNLL, CoNLL-U as
            `.conllu`). For the QA head a `.json` file may be SQuAD's, version 1 or 2.
        head: "sequence" (one label per text), "token" (one label per word) or "qa" (answer spans).
        text_column: Column of the texts, or of the lists of words; "text", or "tokens", by default,
            and "form" in CoNLL-U. `a.b` is column `b` of the object, or the objects, in column `a`.
        label_column: Column of labels; "label", or "tags", by default, and "upos" in CoNLL-U.
        columns: Names of the columns of a file without a header: `.csv`, `.tsv`, CoNLL's columns.
        names: The labels in the order of the head, such as those of the training texts; by default
            those of the data set, or else those that occur, sorted.
        limit: Most rows to read.

    Returns:
        `LabelledTexts`, or `LabelledQuestions` for the QA head.

    Raises:
        TextError: The source, a column, a text or a label cannot be read; file and row are named.
        SettingError: An argument has a value that cannot be used.

    Example:
        >>> from arcee_lab.training.heads import read_labelled
        >>> read_labelled("demo:test", head="sequence", limit=5).names
        ('bad', 'good')
    """
    if head not in HEADS:
        raise SettingError(
            f"head={head!r}; expected 'sequence' (one label per text), 'token' (one per word) or "
            "'qa' (answer spans)."
        )
    source = str(source)
    if not source.partition(":")[0] or source == ".":
        raise TextError(f"{source!r} names no data; expected a file, a Hub id, demo, or TASK:FILE.")
    if limit is not None and limit < 1:
        raise SettingError(f"limit={limit}; expected 1 row or more.")
    _check_columns(source, head, text_column, label_column, columns)
    if head == "qa":
        return _questions(source, limit)
    universal = head == "token" and is_conll_u(Path(source)) and columns is None
    text = text_column or ("form" if universal else "text" if head == "sequence" else "tokens")
    label = label_column or ("upos" if universal else "label" if head == "sequence" else "tags")
    rows, own = _open(source, head, label, limit, columns)
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


def part_of(data: Labelled, numbers: Sequence[int]) -> Any:
    """Some of the texts or questions, in the given order.

    Args:
        data: All of them.
        numbers: Which, counted from 0.
    """
    if isinstance(data, LabelledQuestions):
        several = ("questions", "contexts", "answers", "starts")
    else:
        several = ("texts", "labels") if data.words is None else ("texts", "words", "labels")
    some: dict[str, Any] = {
        name: tuple(getattr(data, name)[number] for number in numbers) for name in several
    }
    return replace(data, **some)


def _check_columns(
    source: str,
    head: str,
    text_column: str | None,
    label_column: str | None,
    columns: Sequence[str] | None,
) -> None:
    named = text_column or label_column or columns
    if named and is_task(source):
        raise SettingError(
            f"{source} is a task, which knows its columns; leave the names of columns out."
        )
    if named and head == "qa":
        raise SettingError(
            "Questions have the columns question, context and answers; leave the names of columns "
            "out, or rename those of the file."
        )
    if columns is None:
        return
    if isinstance(columns, str) or not all(isinstance(one, str) and one for one in columns):
        raise SettingError(f"columns is {columns!r}; expected names, one per column of the file.")
    twice = [one for one in columns if list(columns).count(one) > 1]
    if twice:
        raise SettingError(f"columns names {twice[0]!r} twice; expected different names.")
    if file_of(source) is None:
        raise SettingError(
            f"columns came with {source}, whose columns have names; expected a file without a "
            "header. Leave them out."
        )


def _questions(source: str, limit: int | None) -> LabelledQuestions:
    name, _, split = source.partition(":")
    may_be_empty = None
    if name == WORLD:
        rows, _ = _world("qa", split or "train", limit)
        named: Iterable[Row] = _named(rows, source)
    elif is_task(source):
        rows, may_be_empty = read_questions(source)
        named = _named(rows, source)
    elif Path(name).is_dir() or is_hub_id(name):
        rows, _ = _dataset(name, split or "train", "answers")
        named = _named(rows, source)
    else:
        require_file(Path(source))
        named = file_rows(source)
    found = list(islice(named, limit))
    if not found:
        raise TextError(f"{source} holds no question; expected questions with their answers.")
    return questions_of(found, may_be_empty=may_be_empty)


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
    source: str, head: str, label: str, limit: int | None, columns: Sequence[str] | None
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
        return _file(Path(source), head, columns), None
    return _named(rows, source), own


def _named(rows: Iterable[dict[str, Any]], source: str) -> Iterable[Row]:
    return (Row(f"{source}, row {number}", row) for number, row in enumerate(rows))


def _file(path: Path, head: str, columns: Sequence[str] | None) -> Iterable[Row]:
    require_file(path)
    tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    if head == "token" and (tabs or not is_table(path)):
        return read_word_columns(path, names=columns)
    if not is_table(path):
        raise TextError(
            f"The file {path} is no table of texts and labels; expected .jsonl, .ndjson, "
            ".json, .csv, .tsv or .parquet, each also with .gz, or TASK:FILE for the format of "
            "one of the field's data sets, such as arcee_sst2:FILE."
        )
    return read_rows(path, header=columns)


def _world(head: str, split: str, limit: int | None) -> tuple[Iterable[dict[str, Any]], list[str]]:
    from arcee_lab.demo.reviews import LABELS
    from arcee_lab.demo.tasks import BIO, dataset

    if split not in FROM_WORLD:
        raise TextError(f"The demo has no split {split!r}; it has {', '.join(FROM_WORLD)}.")
    names = [] if head == "qa" else list(LABELS if head == "sequence" else BIO)
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
