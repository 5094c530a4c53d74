"""One row per nonzero, sorted by neuron; exact for every dtype."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.reading.exports import Export, unit_ranges
from arcee_lab.runs import storage

if TYPE_CHECKING:
    from arcee_lab.dump.reading.reader import Reader

_GROUP = 1 << 20  # rows per row group; a query of one neuron reads at most two groups
_SCHEMA = pa.schema(
    [
        ("site", pa.dictionary(pa.int8(), pa.string())),
        ("unit", pa.int32()),
        ("token", pa.int64()),
        ("relu", pa.float32()),
    ]
)
_ENCODINGS = {"unit": "DELTA_BINARY_PACKED", "token": "DELTA_BINARY_PACKED"}
# How `datasets.load_dataset` distinguishes the two tables: the header of a data set's README.
_README = """---
configs:
- config_name: nonzeros
  data_files: "nonzeros/*.parquet"
  default: true
- config_name: tokens
  data_files: "tokens/*.parquet"
---
Activations: `load_dataset(folder)` gives one row per nonzero, `load_dataset(folder, "tokens")` one
row per token.
"""


def write(store: "Reader", out: Path, sites: Sequence[str]) -> Export:
    """Writes `tokens/tokens.parquet` and, for each site, `nonzeros/SITE.parquet`.

    The second has a row per nonzero: `site`, `unit`, `token` and `relu`, which is relu(u) as
    float32, exact for bfloat16 and float16 too; their few different values are stored as numbers in
    a dictionary. Rows are sorted by unit, then by token, so a query of one unit reads a row
    group or two.

    All files of a folder have one schema; `README.md` declares both to `datasets.load_dataset`.
    """
    tokens = out / "tokens" / "tokens.parquet"
    tokens.parent.mkdir()
    storage.write_atomic(tokens, store.token_frame().reset_index().to_parquet)
    files, entries = [tokens], 0
    (out / "nonzeros").mkdir()
    for name in sites:
        site, _ = store.find(name)
        path = out / "nonzeros" / f"{name}.parquet"
        storage.write_atomic(path, lambda part, site=site: _write_site(store, site, part))
        files.append(path)
        entries += parquet.read_metadata(path).num_rows
    files.append(storage.write_atomic(out / "README.md", _README))
    return Export("parquet", out, tuple(files), entries)


def _write_site(store: "Reader", site: StoredSite, part: Path) -> None:
    few = site.torch_dtype.itemsize == 2  # at most 65,536 different values: a dictionary holds them
    writer = parquet.ParquetWriter(
        part,
        _SCHEMA,
        compression="zstd",
        compression_level=3,
        use_dictionary=["site", "relu"] if few else ["site"],  # pyright: ignore[reportArgumentType] - columns too
        column_encoding=_ENCODINGS if few else {**_ENCODINGS, "relu": "BYTE_STREAM_SPLIT"},
    )
    with writer:
        for start, rows in unit_ranges(store, site):
            values = sparse.from_bits(rows.values.copy(), site.torch_dtype).float().numpy()
            columns = [rows.row + start, rows.index, values]
            arrays = [
                pa.array(column.astype(kind.to_pandas_dtype(), copy=False))
                for column, kind in zip(columns, _SCHEMA.types[1:], strict=True)
            ]
            number = pa.array(np.zeros(len(values), dtype=np.int8))
            names = pa.DictionaryArray.from_arrays(number, [site.name])
            table = pa.Table.from_arrays([names, *arrays], schema=_SCHEMA)
            writer.write_table(table, row_group_size=_GROUP)
