"""Text in, token windows out: files, data sets and plain strings, cut to a model's context.

A document becomes one or more windows, each at most `context` tokens long, that do not overlap
unless `overlap` asks for it.
Where the tokenizer starts a document with BOS, every window starts with it, so a long document's
later windows look to the model as its first does. The order of batches depends on the tokens and
the settings alone: the same texts give the same batches on every machine.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

_TOKENIZE_AT_ONCE = 256


def read_files(paths: Iterable[str | Path], *, column: str = "text") -> Iterator[str]:
    """Yields the documents of text, JSONL and Parquet files, in order, without the empty ones.

    A `.jsonl` or `.parquet` file holds one document a row, under `column`; any other file is one
    UTF-8 document.

    Args:
        paths: The files to read.
        column: Where a row keeps its text.

    Raises:
        ValueError: A file is missing, unreadable, binary, empty, or a row has no text. It names the
            file, and for JSONL the line.
    """
    for path in map(Path, paths):
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "missing"
            raise ValueError(
                f"text file {path} is {kind}; expected a text, .jsonl or .parquet file"
            )
        readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
        empty = True
        try:
            for text in readers.get(path.suffix.lower(), _read_plain)(path, column):
                if text.strip():
                    empty = False
                    yield text
        except OSError as error:
            raise ValueError(f"text file {path} cannot be read: {error.strerror}") from error
        if empty:
            raise ValueError(f"text file {path} holds no text; expected at least one word")


def _read_plain(path: Path, column: str) -> Iterator[str]:
    yield _decode(path.read_bytes(), f"text file {path}")


def _read_jsonl(path: Path, column: str) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            where = f"{path} line {number}"
            line = _decode(raw, where)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{where} is not JSON ({error}); expected one object a line"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{where} is no object; expected one with {column!r}")
            yield _text_of(row, column, where)


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if column not in names:
            raise ValueError(_no_column(column, names, str(path)))
        number = 0
        for batch in file.iter_batches(columns=[column]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield _text_of({column: text}, column, f"{path} row {number}")
    except pyarrow.ArrowException as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a readable Parquet file: {first_line}") from error


def _decode(raw: bytes, where: str) -> str:
    if b"\0" in raw:
        raise ValueError(f"{where} is binary (it holds a zero byte); expected UTF-8 text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 at byte {error.start}; convert it") from error


def _text_of(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise ValueError(_no_column(column, row, where))
    if not isinstance(row[column], str):
        raise ValueError(f"{where}: {column!r} is {type(row[column]).__name__}; expected a string")
    return row[column]


def _no_column(column: str, found: Iterable[str], where: str) -> str:
    return f"{where} has no column {column!r}; it has {', '.join(map(repr, found)) or 'none'}"


def read_dataset(spec: str) -> Iterator[str]:
    """Yields the documents of a Hugging Face data set, in order, without the empty ones.

    Args:
        spec: `NAME[:split[:column]]`; NAME is a Hub id, a folder of data files, or a folder that
            `save_to_disk` wrote. The split defaults to `train`, the column to `text`.

    Raises:
        ValueError: The data set, the split or the column does not exist or cannot be read.
    """
    name, _, rest = spec.partition(":")
    split, _, column = rest.partition(":")
    split, column = split or "train", column or "text"
    if not name:
        raise ValueError(f"data set {spec!r} has no name; expected NAME[:split[:column]]")
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    try:
        rows = _open_dataset(name, split)
    except (ValueError, OSError, DatasetsError) as error:
        raise ValueError(
            f"data set {name!r}, split {split!r}, cannot be opened: {' '.join(str(error).split())}"
        ) from error
    where = f"data set {name}:{split}"
    names = rows.column_names
    if names is not None and column not in names:
        raise ValueError(_no_column(column, names, where))
    empty = True
    try:
        for number, row in enumerate(rows):
            text = _text_of(row, column, f"{where} row {number}")
            if text.strip():
                empty = False
                yield text
    except (DatasetsError, ArrowException) as error:
        raise ValueError(f"{where} cannot be read: {' '.join(str(error).split())}") from error
    if empty:
        raise ValueError(f"{where} holds no text in column {column!r}")


def _open_dataset(name: str, split: str) -> Any:
    import datasets

    folder = Path(name)
    if (folder / "dataset_dict.json").is_file():
        splits: Any = datasets.load_from_disk(name)
        if split not in splits:
            raise ValueError(f"it has the splits {', '.join(splits)}")
        return splits[split]
    if (folder / "state.json").is_file():
        return datasets.load_from_disk(name)
    # Streaming fetches what is read and no more, so --max-tokens bounds the download.
    return datasets.load_dataset(name, split=split, streaming=True)


@dataclass(frozen=True)
class Batch:
    """Windows side by side, padded on the right, where no real token of a causal model sees it.

    Attributes:
        input_ids: Token ids.
        attention_mask: 1 for a real token, 0 for padding.
        first: True at a window's first token and at BOS: statistics keep these apart.
        rows: The window that each row holds.
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    first: Bool[Tensor, "batch pos"]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Windows:
    """Tokenised documents, cut to windows. Four bytes a token are held in memory.

    Attributes:
        ids: All windows' token ids, one behind the other.
        bounds: Window w is `ids[bounds[w]:bounds[w + 1]]`.
        documents: The document that each window comes from.
        bos_id: The tokenizer's BOS id, or None.
        pad_id: What fills a row's end; any valid id does, since padding is masked.
        repeated: How many tokens, behind its BOS, each window has in common with the one before it;
            None where windows do not overlap.
    """

    ids: np.ndarray
    bounds: np.ndarray
    documents: np.ndarray
    bos_id: int | None
    pad_id: int
    repeated: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, window: int) -> np.ndarray:
        return self.ids[self.bounds[window] : self.bounds[window + 1]]

    @property
    def n_tokens(self) -> int:
        """All tokens, with the BOS tokens."""
        return len(self.ids)

    def new(self, window: int) -> Bool[np.ndarray, " pos"]:
        """Which tokens of a window no window before it holds: all but those that are repeated."""
        ids = self[window]
        new = np.ones(len(ids), dtype=bool)
        if self.repeated is not None:
            behind = int(len(ids) > 0 and ids[0] == self.bos_id)
            new[behind : behind + int(self.repeated[window])] = False
        return new

    @property
    def n_documents(self) -> int:
        """Documents that gave at least one window."""
        return len(np.unique(self.documents))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yields the windows as padded batches, shortest first, so that little padding is computed.

        Args:
            batch_size: Windows a batch.
        """
        for rows in plan_batches(np.diff(self.bounds).tolist(), batch_size):
            length = max(len(self[row]) for row in rows)
            input_ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
            mask = np.zeros_like(input_ids)
            for slot, row in enumerate(rows):
                ids = self[row]
                input_ids[slot, : len(ids)] = ids
                mask[slot, : len(ids)] = 1
            first = mask.astype(bool) & (input_ids == (-1 if self.bos_id is None else self.bos_id))
            first[:, 0] = True
            yield Batch(
                torch.from_numpy(input_ids), torch.from_numpy(mask), torch.from_numpy(first), rows
            )


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[tuple[int, ...]]:
    """Which windows go together: by length, then by number, `batch_size` at a time.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; expected at least 1")
    order = sorted(range(len(lengths)), key=lambda window: (lengths[window], window))
    return [tuple(order[at : at + batch_size]) for at in range(0, len(order), batch_size)]


def cut(
    tokenizer: Any,
    texts: Iterable[str],
    *,
    context: int,
    max_tokens: int | None = None,
    overlap: int = 0,
) -> Windows:
    """Tokenises documents and cuts them into windows.

    Reading stops as soon as `max_tokens` is reached, so a huge or endless source is fine.

    Args:
        tokenizer: A Hugging Face tokenizer.
        texts: The documents.
        context: Longest window, in tokens, BOS included.
        max_tokens: Most tokens to take, BOS included; None takes all. Repeated ones do not count.
        overlap: Tokens of a long document that the next window reads again, behind its BOS, so that
            what is new in it has so many before it.

    Raises:
        ValueError: A bad limit, a single string in place of a list, or texts without any token.

    Example:
        >>> from arcee_lab import load
        >>> _, tokenizer = load("demo")
        >>> windows = cut(tokenizer, ["The lamp above the doors finds the red king."], context=8)
        >>> [tokenizer.decode(ids) for ids in windows]
        ['<bos> The lamp above the doors finds the', '<bos> red king.']
    """
    if isinstance(texts, str):
        raise ValueError("texts is one string; expected a list of documents, so pass [text]")
    if context < 2:
        raise ValueError(f"context is {context} tokens; expected at least 2")
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; expected at least 1")
    if not 0 <= overlap <= context - 2:
        raise ValueError(
            f"overlap is {overlap} tokens; expected 0 to {context - 2}, so that each window of "
            f"{context} holds something new"
        )
    bos_id = tokenizer.bos_token_id
    windows: list[np.ndarray] = []
    documents: list[int] = []
    repeated: list[int] = []
    left = float("inf") if max_tokens is None else max_tokens
    for number, ids in enumerate(_tokenize(tokenizer, texts)):
        starts_with_bos = bool(ids) and ids[0] == bos_id
        prefix, body = (ids[:1], ids[1:]) if starts_with_bos else ([], ids)
        room = context - len(prefix)
        # A document of BOS alone still is a window; an empty one is none. The last window is the
        # first that reaches the end: another would only repeat.
        ends = max(len(body) - overlap, len(prefix), min(1, len(body)))
        for at in range(0, ends, room - overlap):
            again = overlap if at else 0
            window = np.asarray(prefix + body[at : at + room], dtype=np.int32)
            windows.append(window[: int(min(left + again, len(window)))])
            documents.append(number)
            repeated.append(again)
            left -= len(windows[-1]) - again
            if left == 0:
                break
        if left == 0:
            break
    if not windows:
        raise ValueError("the texts hold no token; expected at least one non-empty document")
    pad_id = tokenizer.pad_token_id
    return Windows(
        ids=np.concatenate(windows),
        bounds=np.cumsum([0, *map(len, windows)]),
        documents=np.asarray(documents),
        bos_id=bos_id,
        pad_id=0 if pad_id is None else pad_id,
        repeated=np.asarray(repeated) if overlap else None,
    )


def _tokenize(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[int]]:
    documents = iter(texts)
    while chunk := list(islice(documents, _TOKENIZE_AT_ONCE)):
        # verbose=False: long documents are cut below, the tokenizer's warning about them misleads.
        yield from tokenizer(chunk, verbose=False)["input_ids"]
