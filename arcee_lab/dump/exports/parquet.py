"""One row a nonzero, sorted by neuron; exact for every dtype."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import parquet

from arcee_lab import storage
from arcee_lab.dump import sparse
from arcee_lab.dump.exports import Export, unit_ranges
from arcee_lab.dump.manifest import StoredSite

if TYPE_CHECKING:
    from arcee_lab.dump.store import Store

_GROUP = 1 << 20  # rows of a row group: what a query of one neuron reads at most, twice
_SCHEMA = pa.schema([("unit", pa.int32()), ("token", pa.int64()), ("relu", pa.float32())])
_ENCODINGS = {"unit": "DELTA_BINARY_PACKED", "token": "DELTA_BINARY_PACKED"}


def write(store: "Store", out: Path, sites: Sequence[str]) -> Export:
    """Writes `tokens.parquet` and, for each site, `nonzeros/site=NAME/nonzeros.parquet`.

    The second has a row a nonzero: `unit`, `token` and `relu`, which is relu(u) as float32: exact
    for bfloat16 and float16 too, whose few different values take a number in a dictionary each.
    Rows are sorted by unit, then by token, so a query of one unit reads a row group or two.
    """
    tokens = out / "tokens.parquet"
    storage.write_atomic(tokens, store.frame().reset_index().to_parquet)
    files, entries = [tokens], 0
    for name in sites:
        site, _ = store.find(name)
        path = out / "nonzeros" / f"site={name}" / "nonzeros.parquet"
        path.parent.mkdir(parents=True)
        storage.write_atomic(path, lambda part, site=site: _write_site(store, site, part))
        files.append(path)
        entries += parquet.read_metadata(path).num_rows
    return Export("parquet", out, tuple(files), entries)


def _write_site(store: "Store", site: StoredSite, part: Path) -> None:
    few = site.torch_dtype.itemsize == 2  # at most 65,536 different values: a dictionary holds them
    writer = parquet.ParquetWriter(
        part,
        _SCHEMA,
        compression="zstd",
        compression_level=3,
        use_dictionary=["relu"] if few else False,  # pyright: ignore[reportArgumentType] - columns too
        column_encoding=_ENCODINGS if few else {**_ENCODINGS, "relu": "BYTE_STREAM_SPLIT"},
    )
    with writer:
        for start, rows in unit_ranges(store, site):
            values = sparse.from_bits(rows.values.copy(), site.torch_dtype).float().numpy()
            columns = [rows.row + start, rows.index, values]
            arrays = [
                pa.array(column.astype(kind.to_pandas_dtype(), copy=False))
                for column, kind in zip(columns, _SCHEMA.types, strict=True)
            ]
            table = pa.Table.from_arrays(arrays, schema=_SCHEMA)
            writer.write_table(table, row_group_size=_GROUP)
