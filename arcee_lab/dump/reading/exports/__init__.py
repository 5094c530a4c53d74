"""A store for other programs: files they read, and a statement of what was lost.

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
from arcee_lab.dump.format.manifest import StoredSite
from arcee_lab.dump.format.sparse import SparseRows
from arcee_lab.errors import SettingError
from arcee_lab.runs import storage

if TYPE_CHECKING:
    from arcee_lab.dump.reading.reader import Reader

KINDS = ("parquet", "coo", "delphi", "saelens")
STATEMENT = "export.json"
_CELLS = 1 << 26  # that are decoded at once


@dataclass(frozen=True, repr=False)
class Export:
    """What an export wrote.

    Attributes:
        kind: One of `KINDS`.
        folder: Where it lies.
        files: All files of it.
        entries: Values written.
        lost: What another program does not get back, as a sentence -> how many values or tokens it
            concerns. Empty where everything comes back to the bit.
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
        """One row a file: file, bytes."""
        rows = [(str(p.relative_to(self.folder)), p.stat().st_size) for p in self.files]
        return pd.DataFrame(rows, columns=["file", "bytes"])

    def __repr__(self) -> str:
        lost = "; ".join(f"{what}: {count:,}" for what, count in self.lost.items() if count)
        return (
            f"Export({self.kind}, {self.entries:,} values in {len(self.files)} files, "
            f"{self.bytes:,} bytes; lost: {lost or 'nothing'})"
        )

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>{self.frame().to_html(index=False, max_rows=20)}"


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
        out: A folder, new or empty. `export.json` appears in it last and states what was lost.
        sites: Which sites; by default all that the kind can hold: sparse ones, for `saelens` all.
        **options: `context=` of `delphi` and `saelens`, `example=` and `splits=` of `delphi`,
            `names=` of `saelens`.

    Returns:
        The files, and what was lost.

    Raises:
        ValueError: An unknown kind, a folder in use, a site that the kind cannot hold, or a full
            disk; then nothing of the export stays.
    """
    if kind not in KINDS:
        raise SettingError(f"export kind is {kind!r}; expected one of {', '.join(KINDS)}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError(f"export folder {out} holds other files; choose a new one")
    # Imported here: pyarrow and datasets take longer to load than most questions to a store.
    write: Callable[..., Export] = import_module(f"arcee_lab.dump.reading.exports.{kind}").write
    asked = [sites] if isinstance(sites, str | int) else sites
    if asked is None:
        names = [s.name for s in store.manifest.sites if kind == "saelens" or s.counts_nonzeros]
    else:
        names = [
            site if isinstance(site, str) else f"layers.{site}.mlp.hook_post" for site in asked
        ]
    if not names:
        raise SettingError(f"store {store.folder} has no site that {kind} can hold")
    if kind != "saelens":
        names = [_sparse_name(store, name, kind) for name in names]
    try:
        storage.make_folder(out)
        result = write(store, out, names, **options)
        storage.write_json(out / STATEMENT, _statement(store, names, result))
    except (OSError, SafetensorError) as error:
        _empty(out)
        raise SettingError(
            f"export folder {out} cannot be written: {' '.join(str(error).split())}. Nothing of "
            "the export was left there; make room, then repeat the same call."
        ) from error
    except BaseException:
        _empty(out)
        raise
    return result


def _empty(folder: Path) -> None:
    """Removes what an export that failed has begun, so that the same call may be repeated."""
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
            f"{site.name} lies dense and {kind} holds nonzeros; export it as 'saelens'"
        )
    return site.name


def unit_ranges(store: "Reader", site: StoredSite) -> Iterator[tuple[int, SparseRows]]:
    """The nonzeros of a site at all tokens, some units at a time: first unit, and a row a unit."""
    step = max(1, _CELLS // max(1, len(store)))
    for start in range(0, site.width, step):
        which = slice(start, start + step)
        parts = [store.units(site.name, n, which) for n in range(len(store.manifest.shards))]
        if parts:
            yield start, sparse.concat_columns(parts)
