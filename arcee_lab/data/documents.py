"""Reads the texts of files and data sets one at a time, numbered as in the user's file."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from arcee_lab.data.rows import (
    Row,
    cell,
    is_table,
    no_column,
    read_document,
    read_rows,
    require_file,
)
from arcee_lab.data.tokenization import is_conversation, render
from arcee_lab.errors import TextError, WrongType
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.hub import is_hub_id


@checked
def read_files(
    paths: Iterable[str | Path], *, column: str | None = None, tokenizer: Any = None
) -> Iterator[str]:
    """Yields the documents of files in order: one per row of a table, one per other file.

    Tables are `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` and `.parquet`. Any other file is one
    UTF-8 document. Each may end in `.gz` and is then decompressed. See `arcee_lab.data.rows`.

    A row without any word is yielded too, so that documents and rows have equal numbers; `cut`
    makes no window of it. Numbering continues from one file to the next.

    Args:
        paths: The files to read.
        column: The column of the text, by default "text"; `a.b` is column `b` of the object in
            column `a`. A conversation, a list of messages with `role` and `content`, is turned into
            text by the tokenizer's chat template.
        tokenizer: The tokenizer, for conversations.

    Raises:
        TextError: A file is missing, unreadable, binary or empty, a row has no text, or a column
            was named and no file is a table. The message names the file and the line or row.
    """
    paths = list(paths)
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise WrongType(f"paths hold {path!r}; expected texts or paths that name files.")
    files = [Path(path) for path in paths]
    for path in files:
        require_file(path)
    if column is not None and not any(map(is_table, files)):
        raise TextError(
            f"column {column!r} was named, and {', '.join(map(str, files))} has no columns; leave "
            "it out, or pass a table such as a .jsonl file."
        )
    return _documents(files, column or "text", tokenizer)


def _documents(files: Sequence[Path], column: str, tokenizer: Any) -> Iterator[str]:
    for path in files:
        if is_table(path):
            rows = read_rows(path, columns=[column])
            texts = (_text_of(row, column, tokenizer) for row in rows)
        else:
            texts = iter([read_document(path)])
        yield from _not_all_blank(texts, f"file {path} holds no text; expected at least one word.")


def _not_all_blank(texts: Iterable[str], message: str) -> Iterator[str]:
    blank = True
    for text in texts:
        blank = blank and not text.strip()
        yield text
    if blank:
        raise TextError(message)


def _text_of(row: Row, column: str, tokenizer: Any) -> str:
    value = cell(row, column)
    if is_conversation(value):
        return render(tokenizer, value, where=f"{row.where}, {column!r},")
    if not isinstance(value, str):
        raise TextError(
            f"{row.where}: {column!r} is {type(value).__name__}; expected a string, or a list of "
            "messages with role and content."
        )
    return value


@checked
def read_dataset(spec: str, *, tokenizer: Any = None) -> Iterator[str]:
    """Yields the documents of a Hugging Face data set, one per row, in order.

    Args:
        spec: `NAME[:split[:column]]`; NAME is a Hub id, a folder of data files, or a folder that
            `save_to_disk` wrote. The split defaults to `train`, the column to `text`; columns and
            rows without a word are as in `read_files`.
        tokenizer: The tokenizer, for conversations.

    Raises:
        TextError: The data set, the split or the column does not exist or cannot be read.
    """
    name, _, rest = spec.partition(":")
    split, _, column = rest.partition(":")
    split, column = split or "train", column or "text"
    if not name:
        raise TextError(f"data set {spec!r} has no name; expected NAME[:split[:column]].")
    rows = open_dataset(name, split, streaming=True)
    where = f"data set {name}:{split}"
    names = rows.column_names
    if names is not None and column not in names and column.partition(".")[0] not in names:
        raise no_column(column, names, where)
    numbered = (Row(f"{where} row {number}", row) for number, row in enumerate(_read(rows, where)))
    texts = (_text_of(row, column, tokenizer) for row in numbered)
    yield from _not_all_blank(
        texts, f"{where} holds no text in column {column!r}; expected at least one word."
    )


def _read(rows: Iterable[Any], where: str) -> Iterator[Any]:
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    try:
        yield from rows
    except (DatasetsError, ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TextError(f"{where} cannot be read: {reason}. Check its files.") from error


def open_dataset(name: str, split: str, *, streaming: bool) -> Any:
    """A split of a Hugging Face data set.

    Args:
        name: A Hub id, a folder of data files, or a folder that `save_to_disk` wrote. A name
            that is or looks like a path is never looked up on the Hub.
        split: The split.
        streaming: Whether to fetch rows as they are read, so that a limit bounds the download.

    Raises:
        TextError: There is no such data set or split.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    folder = Path(name)
    if not folder.is_dir() and not is_hub_id(name):
        what = "is a file" if folder.exists() else "is neither a folder nor a Hub id"
        raise TextError(
            f"data set {name!r} {what}; expected a folder of data files, or an id such as "
            "owner/name. Check the path; single files are read by --text (al.data.read_files)."
        )
    try:
        if (folder / "dataset_dict.json").is_file():
            splits: Any = datasets.load_from_disk(name)
            if split not in splits:
                raise TextError(f"it has the splits {', '.join(splits)}")
            return splits[split]
        if (folder / "state.json").is_file():
            return datasets.load_from_disk(name)
        where = str(folder.resolve()) if folder.is_dir() else name
        return datasets.load_dataset(where, split=split, streaming=streaming)
    except (ValueError, OSError, DatasetsError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise TextError(
            f"data set {name!r}, split {split!r}, cannot be opened: {reason}. Check its name, its "
            "split and the network."
        ) from error
