"""Rows of files: JSON lines, JSON, CSV, TSV and Parquet, each also compressed with gzip.

Lines and rows are read one at a time. The size of anything held in memory at once (a line, a CSV
cell, a JSON file, a plain document, a compressed Parquet file) is bounded after decompression, so
that a small file cannot fill the memory.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from arcee_lab.errors import TextError
from arcee_lab.runs.json_text import parse_json, reason
from arcee_lab.runs.paths import no_file

LARGEST = 1 << 30  # bytes that are held in memory at once
PACKED = (".zip", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz")


class Row(NamedTuple):
    """One row of a file or data set.

    Attributes:
        where: File and line, or file and row, for errors. Lines count from 1; rows count from 0, as
            the documents of a dump do.
        values: Its values by column.
    """

    where: str
    values: dict[str, Any]


def is_table(path: Path) -> bool:
    """Whether a file holds rows, by its suffix."""
    return _kind(path) in _READERS


def require_file(path: Path) -> None:
    """Checks that a file exists and is of a kind that can be read.

    Raises:
        TextError: It is missing, a folder, or compressed with something other than gzip.
    """
    if (kind := no_file(path)) is not None:
        shown = repr(str(path)) if "null" in kind else str(path)[:200]
        raise TextError(f"file {shown} is {kind}; expected {_EXPECTED}. Check the path.")
    if _kind(path) in PACKED:
        raise TextError(
            f"file {path} is compressed or packed as {_kind(path)}; expected {_EXPECTED}. Unpack "
            "it first."
        )


def read_rows(
    path: Path, *, columns: Sequence[str] | None = None, header: Sequence[str] | None = None
) -> Iterator[Row]:
    """Yields the rows of a file; blank lines are skipped.

    Args:
        path: A `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet` file, or any of them
            followed by `.gz`. A `.json` file holds a list of rows, or an object with one list of
            them. Tables have a header; in a `.tsv` file quotation marks mean nothing.
        columns: The columns that are wanted, for files that can leave out others.
        header: Names of the columns of a `.csv` or `.tsv` file that has no header.

    Raises:
        TextError: The file cannot be read, or a row is malformed; the message names both. Or there
            is a header for a file whose columns have names.
    """
    kind = _kind(path)
    if header is not None and kind not in _DELIMITERS:
        raise TextError(
            f"names of columns came with the file {path}, whose columns have names; expected them "
            f"for {' or '.join(_DELIMITERS)} files without a header. Leave them out."
        )
    with _opened(path) as file:
        if header is not None:
            yield from _table(_DELIMITERS[kind](_lines(file, path)), path, list(header))
        else:
            yield from _READERS[kind](file, path, columns)


def read_value(path: Path) -> Any:
    """The value of a `.json` file, also with `.gz`.

    Raises:
        TextError: The file cannot be read, is too large, or is not JSON.
    """
    with _opened(path) as file:
        return _json(_decode(_whole(file, path), f"file {path}"), f"file {path}")


def lines_of(path: Path) -> Iterator[str]:
    """Yields the lines of a text file, also with `.gz`, without their ends.

    Raises:
        TextError: The file cannot be read, or a line is not UTF-8; the line is named.
    """
    with _opened(path) as file:
        for line in _lines(file, path):
            yield line.rstrip("\r\n")


def read_document(path: Path) -> str:
    """A whole file as UTF-8 text.

    Raises:
        TextError: It cannot be read, is binary, or too large.
    """
    with _opened(path) as file:
        return _decode(_whole(file, path), f"file {path}")


def cell(row: Row, column: str) -> Any:
    """The value of a column.

    `a.b` is column `b` of the object in column `a`; where that holds a list of objects, it is the
    list of what each holds under `b`.

    Raises:
        TextError: The row has no such column.
    """
    if column in row.values:
        return row.values[column]
    value: Any = row.values
    for name in column.split("."):
        try:
            value = [_inside(one, name) for one in value] if _is_list(value) else value[name]
        except (KeyError, TypeError, IndexError):
            raise no_column(column, row.values, row.where) from None
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _inside(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError
    return value[name]


def require_unicode(text: str, where: str) -> None:
    """Checks that a text can be written as UTF-8, as tokenizers need it.

    Raises:
        TextError: It holds half of a surrogate pair, which JSON can contain.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"{where} holds half of a surrogate pair at character {error.start}; expected Unicode "
            "text. Correct or drop it."
        ) from None


def no_column(column: str, found: Iterable[str], where: str) -> TextError:
    """The error for a missing column."""
    names = ", ".join(map(repr, found)) or "none"
    return TextError(f"{where} has no column {column!r}; it has {names}. Name one of these.")


def _kind(path: Path) -> str:
    """The suffix that says what a file holds: of `a.jsonl.gz` it is `.jsonl`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    require_file(path)
    zipped = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        said = reason(error)
        raise TextError(
            f"file {path} cannot be read: {said}. Check it, or get it again."
        ) from error


def _whole(file: io.BufferedIOBase, path: Path) -> bytes:
    raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise _too_large(f"file {path}")
    return raw


def _lines(file: io.BufferedIOBase, path: Path) -> Iterator[str]:
    number = 0
    while raw := file.readline(LARGEST + 1):
        number += 1
        where = f"{path} line {number}"
        if len(raw) > LARGEST:
            raise _too_large(where)
        yield _decode(raw, where, first=number == 1)


def _too_large(where: str) -> TextError:
    return TextError(
        f"{where} holds more than {LARGEST:,} bytes in one piece; expected less. Split it, or "
        "write one document per row of a .jsonl file."
    )


def _decode(raw: bytes, where: str, *, first: bool = True) -> str:
    if b"\0" in raw:
        raise TextError(
            f"{where} is binary (it holds a zero byte); expected UTF-8 text. Convert it."
        )
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{where} is not UTF-8 at byte {error.start}; expected UTF-8 text. Convert it."
        ) from error


def _json(text: str, where: str) -> Any:
    expected = "expected one object per line in a .jsonl file, or one list of objects in .json"
    return parse_json(text, where, error=TextError, do=expected, nan=True)


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise TextError(
            f"{where} is {type(value).__name__}, no object; expected one with a value per column."
        )
    return Row(where, value)


def _read_jsonl(
    file: io.BufferedIOBase, path: Path, columns: Sequence[str] | None
) -> Iterator[Row]:
    for number, line in enumerate(_lines(file, path), start=1):
        if line.strip():
            where = f"{path} line {number}"
            yield _object(_json(line, where), where)


def _read_json(file: io.BufferedIOBase, path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    found = _json(_decode(_whole(file, path), f"file {path}"), f"file {path}")
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise TextError(
                f"file {path} is an object with {len(lists)} lists; expected a list of rows, or an "
                "object with one such list. Write one row per line of a .jsonl file."
            )
        (found,) = lists
    if not isinstance(found, list):
        raise TextError(
            f"file {path} holds {type(found).__name__}; expected a list of rows, or an object with "
            "one such list."
        )
    for number, value in enumerate(found):
        yield _object(value, f"{path} row {number}")


def _read_csv(file: io.BufferedIOBase, path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    yield from _table(_csv(_lines(file, path)), path)


def _read_tsv(file: io.BufferedIOBase, path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    yield from _table(_tsv(_lines(file, path)), path)


def _csv(lines: Iterator[str]) -> Any:
    return csv.reader(lines, strict=True)


def _tsv(lines: Iterator[str]) -> Any:
    return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)


def _table(reader: Any, path: Path, names: list[str] | None = None) -> Iterator[Row]:
    given = names is not None
    while True:
        where = f"{path} line {reader.line_num + 1}"
        before = csv.field_size_limit(LARGEST)  # the process has one limit, of 128 KiB by default
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise TextError(
                f"{where} is not in the format of its table ({error}); expected every quotation "
                "mark closed, and doubled inside a cell, and line breaks in quoted cells only."
            ) from error
        finally:
            csv.field_size_limit(before)
        if cells is None:
            return
        if not cells:
            continue  # a blank line
        if names is None:
            twice = [name for name in cells if cells.count(name) > 1]
            if twice:
                raise TextError(
                    f"{where} names the column {twice[0]!r} twice; expected a header of different "
                    "names."
                )
            names = cells
            continue
        if len(cells) != len(names):
            other = "the names of columns are" if given else "the header"
            raise TextError(
                f"{where} has {len(cells)} cells and {other} {len(names)}; expected one cell per "
                "column."
            )
        yield Row(where, dict(zip(names, cells, strict=True)))


def _read_parquet(
    file: io.BufferedIOBase, path: Path, columns: Sequence[str] | None
) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    if path.suffix.lower() == ".gz":  # Parquet is read from its end
        file = io.BytesIO(_whole(file, path))
    try:
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        wanted = None
        if columns is not None:
            wanted = [one if one in names else one.partition(".")[0] for one in columns]
            for column, name in zip(columns, wanted, strict=True):
                if name not in names:
                    raise no_column(column, names, str(path))
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=wanted):
            for values in batch.to_pylist():
                yield Row(f"{path} row {number}", values)
                number += 1
    except pyarrow.ArrowException as error:
        first_line = str(error).splitlines()[0]
        raise TextError(
            f"{path} is not a readable Parquet file: {first_line} Get it again."
        ) from error


_DELIMITERS = {".csv": _csv, ".tsv": _tsv}
_READERS = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
_EXPECTED = f"a text file, or {', '.join(_READERS)}, each also with .gz"
