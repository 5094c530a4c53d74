"""Exports of a store for other programs, each with a statement of what was lost.

parquet   one row per nonzero, sorted by neuron, and one row per token: for DuckDB, pandas, polars
coo       safetensors of token, unit and value: for torch, scipy, anything
delphi    the latent cache of delphi, to explain and score neurons
saelens   a data set of dense rows, as SAELens trains dictionaries on
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors import SafetensorError

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.sparse import SparseRows
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.errors import FileError, NotWritten, SettingError
from arcee_lab.results import Result, counted
from arcee_lab.runs import storage

if TYPE_CHECKING:
    from arcee_lab.dump.reading.reader import Reader

KINDS = ("parquet", "coo", "delphi", "saelens")
STATEMENT = "export.json"
_CELLS = 1 << 26  # that are decoded at once


@dataclass(frozen=True, repr=False)
class Export(Result):
    """What an export wrote.

    Attributes:
        kind: One of `KINDS`.
        folder: Its folder.
        files: All its files.
        entries: Values written.
        lost: What the export does not preserve -> how many values or tokens that concerns. Empty
            if every value is preserved bit for bit.
    """

    kind: str
    folder: Path
    files: tuple[Path, ...]
    entries: int
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def frame(self) -> pd.DataFrame:
        """One row per file: file, bytes."""
        rows = [(str(p.relative_to(self.folder)), p.stat().st_size) for p in self.files]
        return pd.DataFrame(rows, columns=["file", "bytes"])

    @property
    def headline(self) -> str:
        """Kind, size and losses."""
        lost = "; ".join(f"{what}: {count:,}" for what, count in self.lost.items() if count)
        return (
            f"{self.kind}, {counted(self.entries, 'value')} in {counted(len(self.files), 'file')}, "
            f"{self.bytes:,} bytes; lost: {lost or 'nothing'}"
        )


def export(
    store: "Reader",
    kind: str,
    out: str | os.PathLike[str],
    *,
    sites: str | int | Sequence[str | int] | None = None,
    **options: Any,
) -> Export:
    """Writes a store for another program.

    Args:
        store: The store.
        kind: `parquet`, `coo`, `delphi` or `saelens`.
        out: A new or empty folder. `export.json` is written last and states what was lost.
        sites: Which sites; by default all sparse ones, and for `saelens` all.
        **options: `context=` of `delphi` and `saelens`, `example=` and `splits=` of `delphi`,
            `names=` of `saelens`.

    Returns:
        The files, and what was lost.

    Raises:
        SettingError: An unknown kind, or a site that the kind cannot hold.
        FileError: A folder in use or a full disk; then nothing of the export stays.
    """
    if kind not in KINDS:
        raise SettingError(f"export kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileError(f"export folder {out} holds other files; choose a new one.")
    # Imported here: pyarrow and datasets take longer to load than most queries.
    write: Callable[..., Export] = import_module(f"arcee_lab.dump.reading.exports.{kind}").write
    requested = [sites] if isinstance(sites, str | int) else sites
    if requested is None:
        names = [s.name for s in store.manifest.sites if kind == "saelens" or s.counts_nonzeros]
    else:
        names = [
            site if isinstance(site, str) else f"layers.{site}.mlp.hook_post" for site in requested
        ]
    if not names:
        raise SettingError(f"store {store.folder} has no site that {kind} can hold.")
    if kind != "saelens":
        names = [_sparse_name(store, name, kind) for name in names]
    try:
        storage.make_folder(out)
        result = write(store, out, names, **options)
        storage.write_json(out / STATEMENT, _statement(store, names, result))
    except (OSError, SafetensorError) as error:
        _empty(out)
        reason = NotWritten(out, error).reason
        if isinstance(error, NotWritten):
            reason = f"{error.path}: {error.reason}"
        raise FileError(
            f"export folder {out} cannot be written: {reason}. Nothing of the export was left "
            "there; make room, then repeat the same call."
        ) from error
    except BaseException:
        _empty(out)
        raise
    return result


def _empty(folder: Path) -> None:
    """Removes the files of a failed export, so that the same call can be repeated."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _statement(store: "Reader", names: Sequence[str], result: Export) -> dict[str, Any]:
    return {
        "kind": result.kind,
        "sites": list(names),
        "model": store.manifest.model["name"],
        "model_fingerprint": store.manifest.model["fingerprint"],
        "tokens": len(store),
        "entries": result.entries,
        "lost": dict(result.lost),
    }


def _sparse_name(store: "Reader", name: str, kind: str) -> str:
    site, _ = store.find(name)
    if not site.counts_nonzeros:
        raise SettingError(
            f"{site.name} is stored dense and {kind} holds nonzeros; export it as 'saelens'."
        )
    return site.name


def unit_ranges(store: "Reader", site: StoredSite) -> Iterator[tuple[int, SparseRows]]:
    """The nonzeros of a site at all tokens, by ranges of units: first unit, and a row per unit."""
    step = max(1, _CELLS // max(1, len(store)))
    for start in range(0, site.width, step):
        which = slice(start, start + step)
        parts = [store.units(site.name, n, which) for n in range(len(store.manifest.shards))]
        if parts:
            yield start, sparse.concat_columns(parts)
