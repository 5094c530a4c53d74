"""Where a data set is stored: on the Hub, or in a file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow
from datasets.exceptions import DatasetsError
from pyarrow import parquet

from arcee_lab.errors import TaskError

Rows = list[dict[str, Any]]


class Source(NamedTuple):
    """A data set of the field.

    Attributes:
        name: What we call it; its task is `arcee_` and the name.
        hub: Its Hub id.
        config: Its configuration there.
        split: The labelled split that results are reported on.
        read: Reads a file of its own format into the Hub's columns.
    """

    name: str
    hub: str
    config: str | None
    split: str
    read: Callable[[Path], Rows]


def read_rows(source: Source, data: str | Mapping[str, str] | None) -> Rows:
    """The rows of a data set, in the Hub's columns.

    Args:
        source: The data set.
        data: A file, or files by the name of the task; the Hub where it names none.

    Raises:
        ValueError: The file is missing, broken or empty, or the Hub does not give the data.
    """
    file = data if isinstance(data, str) or data is None else data.get(f"arcee_{source.name}")
    rows = _from_hub(source) if file is None else _from_file(source, Path(file))
    if not rows:
        raise TaskError(f"Task 'arcee_{source.name}': {file or source.hub} holds no row.")
    return rows


def _from_file(source: Source, file: Path) -> Rows:
    where = f"Task 'arcee_{source.name}': data file {file}"
    if not file.is_file():
        raise TaskError(f"{where} is missing; check the path, or name none for the Hub.")
    try:
        if file.suffix == ".parquet":
            return parquet.read_table(file).to_pylist()
        return source.read(file)
    except (ValueError, KeyError, TypeError, IndexError, OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{where} is not in the format of {source.name} ({type(error).__name__}: {reason}); "
            "expected the data set's own (see docs/how-to/evals.md), or Parquet with the Hub's "
            "columns."
        ) from None


def _from_hub(source: Source) -> Rows:
    try:
        rows = datasets.load_dataset(source.hub, source.config, split=source.split)
    except (ValueError, OSError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(
            f"Task 'arcee_{source.name}': the Hub did not give {source.hub!r}, split "
            f"{source.split!r}: {reason} Check the network, or name a file of your own (to "
            "evaluate, data= or --data FILE; to train, TASK:FILE; see docs/how-to/evals.md)."
        ) from None
    assert isinstance(rows, datasets.Dataset)
    return rows.to_list()
