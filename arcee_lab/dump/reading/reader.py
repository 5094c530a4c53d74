"""Reads parts of a store by site, shard and token; every query is built from these reads."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.format import shard_files, sparse
from arcee_lab.dump.format.block import Block
from arcee_lab.dump.format.manifest import Manifest
from arcee_lab.dump.format.sparse import SparseRows
from arcee_lab.dump.format.stored_site import StoredSite, stored_as
from arcee_lab.dump.format.token_table import TokenTable
from arcee_lab.dump.reading.indexed_site import AVAILABLE, MOST_UNITS, IndexedSite
from arcee_lab.errors import SettingError, ShardDamaged, SiteError
from arcee_lab.sites import Legend

if TYPE_CHECKING:
    import pandas as pd

_MOST_OPEN = 256  # mapped shards; the system gives a process some 65,000
FORMS = ("torch", "numpy", "sparse", "scipy")


class Reader:
    """The part of a store that statistics, data sets and exports use.

    Attributes:
        folder: Where it is.
        manifest: What it holds.
        tokenizer: As given to `arcee_lab.dump.open`.
    """

    def __init__(self, folder: Folder, manifest: Manifest, tokenizer: Any = None):
        self.folder = folder
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._sites = {site.name: site for site in manifest.sites}
        self._starts = np.array([shard.start for shard in manifest.shards], dtype=np.int64)
        self._blocks: OrderedDict[tuple[str, int], Block] = OrderedDict()
        self._indexes: OrderedDict[str, IndexedSite] = OrderedDict()
        self._known: TokenTable | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Open files and mapped shards are of this process; another one opens them itself.
        return self.__dict__ | {"_blocks": OrderedDict(), "_indexes": OrderedDict()}

    def __len__(self) -> int:
        """Tokens."""
        return self.manifest.n_tokens

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose neurons are stored."""
        names = [name.split(".") for name in self._sites]
        return tuple(int(name[1]) for name in names if name[2:] == ["mlp", "hook_relu"])

    def tokens(self, which: slice, site: str | int, *, form: str = "torch") -> Any:
        """The activations of one site at a range of tokens.

        Args:
            which: The tokens, as a slice without a step.
            site: The site, or a layer whose `mlp.hook_post` is meant.
            form: `torch` [token, width], or all axes of a site that has several; `numpy` the same,
                with bfloat16 as float32; `sparse` a torch CSR matrix; `scipy` a CSR array of
                float32, since scipy has no 16-bit floats.

        Raises:
            SettingError: No such site, or a slice with a step.
            ShardDamaged: A shard is damaged.
        """
        if form not in FORMS:
            raise SettingError(f"form is {form!r}; expected one of {', '.join(FORMS)}.")
        start, stop = self._range(which)
        stored, squared = self.find(site)
        if form in ("torch", "numpy"):
            parts = [self.dense(stored.name, *piece) for piece in self._pieces(start, stop)]
            nothing = torch.zeros(0, stored.width, dtype=stored.value_dtype)
            x = torch.cat(parts) if parts else nothing
            x = x.square() if squared else x
            x = x.reshape(-1, *stored.shape)
            return x if form == "torch" else as_numpy(x)
        rows = self.rows(start, stop, stored.name)
        values = sparse.from_bits(rows.values.copy(), stored.value_dtype)
        values = values.square() if squared else values
        shape = (stop - start, stored.width)
        if form == "sparse":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
                return torch.sparse_csr_tensor(
                    torch.from_numpy(rows.offsets),
                    torch.from_numpy(rows.index.astype(np.int64)),
                    values,
                    shape,
                    check_invariants=True,
                )
        csr_array = _scipy_csr()
        return csr_array(
            (values.float().numpy(), rows.index.astype(np.int64), rows.offsets), shape=shape
        )

    def rows(self, start: int, stop: int, site: str) -> SparseRows:
        """The nonzeros at a range of tokens as they are stored, the fastest form.

        Args:
            start: First token.
            stop: The token after the last one.
            site: A stored site's own name.
        """
        stored = self._sites[site]
        pieces = [self.span(site, *piece) for piece in self._pieces(start, stop)]
        return sparse.concat_rows(pieces) if pieces else empty_rows(0, stored, stored.width)

    def token_data(self, which: slice = slice(None)) -> TokenTable:
        """Ids, positions, documents, windows, masks and tags of a range of tokens."""
        start, stop = self._range(which)
        if self._known is not None:
            return self._known[start:stop]
        parts = [
            self._read_tokens(number)[low:high] for number, low, high in self._pieces(start, stop)
        ]
        joined = parts[0] if len(parts) == 1 else TokenTable.join(parts, tags=self.manifest.tags)
        if stop - start == len(self):
            self._known = joined  # some 20 bytes per token
        return joined

    def _read_tokens(self, number: int) -> TokenTable:
        shard = self.manifest.shards[number]
        return shard_files.read_tokens(
            self.folder, shard.tokens, length=len(shard), tags=self.manifest.tags
        )

    def find(self, site: str | int) -> tuple[StoredSite, bool]:
        """The stored site that answers for a name, and whether its values are to be squared.

        Raises:
            SiteError: There is no such hook point, or it is not stored.
        """
        name = f"layers.{site}.mlp.hook_post" if isinstance(site, int) else site
        canonical = self._legend().canonical(name)
        if canonical in self._sites:
            return self._sites[canonical], False
        if stored_as(canonical) in self._sites:
            return self._sites[stored_as(canonical)], True
        held = ", ".join(list(self._sites)[:6]) + (" ..." if len(self._sites) > 6 else "")
        raise SiteError(f"store {self.folder} has no {canonical}; it holds {held or 'no site'}.")

    def block(self, site: str, number: int) -> Block:
        """One shard of a stored site, opened and checked."""
        key = (site, number)
        if key not in self._blocks:
            shard = self.manifest.shards[number]
            block = shard_files.read_block(
                self.folder, shard.sites[site], self._sites[site], length=len(shard)
            )
            _keep(self._blocks, key, block)
        return self._blocks[key]

    def units(self, site: str, number: int, which: Sequence[int] | slice) -> SparseRows:
        """The nonzeros of some units in one shard of a stored site: one row per unit."""
        with self._naming(number, site):
            return self.block(site, number).units(which)

    def columns(self, site: StoredSite, which: Sequence[int]) -> SparseRows:
        """The nonzeros of some units at all tokens: one row per unit, one column per token."""
        indexed = self._indexed(site) if 0 < len(which) <= MOST_UNITS else None
        if indexed is not None:
            return indexed.units(which)
        pieces = [self.units(site.name, n, which) for n in range(len(self.manifest.shards))]
        return sparse.concat_columns(pieces) if pieces else empty_rows(len(which), site)

    def _indexed(self, site: StoredSite) -> IndexedSite | None:
        """The site's index, opened; None without one, or where it would not help."""
        if site.name in self._indexes:
            self._indexes.move_to_end(site.name)
            return self._indexes[site.name]
        folder = self.folder
        if not (AVAILABLE and isinstance(folder, LocalFolder)):
            return None
        if site.name not in self.manifest.indexes:
            return None
        opened = IndexedSite(folder, self.manifest, site)
        self._indexes[site.name] = opened
        while sum(kept.n_open for kept in self._indexes.values()) > _MOST_OPEN:
            self._indexes.popitem(last=False)
        return opened

    def span(self, site: str, number: int, start: int, stop: int) -> SparseRows:
        """The nonzeros of some tokens of one shard, numbered within it: one row per token."""
        with self._naming(number, site):
            return self.block(site, number).span(start, stop)

    def dense(self, site: str, number: int, start: int, stop: int) -> Tensor:
        """All values of some tokens of one shard, numbered within it: [token, width]."""
        with self._naming(number, site):
            return self.block(site, number).dense(start, stop)

    def _legend(self) -> Legend:
        numbers = [name.split(".")[1] for name in self._sites if name.startswith("layers.")]
        stored = max((int(number) for number in numbers if number.isdecimal()), default=-1) + 1
        config = self.manifest.model["config"].get("num_hidden_layers")
        return Legend(max(stored, config or 0), "causal")

    def _range(self, which: slice) -> tuple[int, int]:
        start, stop, step = which.indices(len(self))
        if step != 1:
            raise SettingError(f"got a slice with step {step}; expected one without a step.")
        return start, max(start, stop)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The shards of a range of tokens, with the range within each."""
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            shard = self.manifest.shards[number]
            end = min(stop, shard.stop)
            yield number, start - shard.start, end - shard.start
            start, number = end, number + 1

    @contextmanager
    def _naming(self, number: int, site: str) -> Iterator[None]:
        """Adds the file's name to errors that reading finds in it."""
        file = self.manifest.shards[number].sites[site]
        try:
            yield
        except ShardDamaged:
            raise
        except ValueError as error:
            raise ShardDamaged(f"{self.folder}/{file.path}", str(error)) from error

    def token_frame(self, which: slice = slice(None)) -> "pd.DataFrame":
        """One row per token: id, position, document, window, attended, first and each tag."""
        import pandas as pd

        start, _ = self._range(which)
        known = self.token_data(which)
        columns = {
            "id": known.ids,
            "position": known.positions,
            "document": known.documents,
            "window": known.windows,
            "attended": known.attended,
            "first": known.first,
        }
        frame = pd.DataFrame(
            {name: values.numpy() for name, values in columns.items()},
            index=pd.RangeIndex(start, start + len(known), name="token"),
        )
        for name, values in known.tags.items():
            labels = self.manifest.tags[name]
            frame[name] = (
                values.numpy()
                if labels is None
                else pd.Categorical.from_codes(values.tolist(), categories=list(labels))
            )
        return frame


def _keep(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    cache[key] = value
    if len(cache) > _MOST_OPEN:
        cache.popitem(last=False)


def empty_rows(n_rows: int, site: StoredSite, width: int = 0) -> SparseRows:
    """Rows without an entry."""
    bits = sparse.to_bits(torch.zeros(n_rows, width, dtype=site.value_dtype))
    return sparse.compress(bits)


def as_numpy(x: Tensor) -> np.ndarray:
    """A tensor as an array; bfloat16, which NumPy lacks, as float32."""
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def _scipy_csr() -> Any:
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise SettingError(
            "form='scipy' needs scipy, which is not installed; `pip install scipy`, or take "
            "form='sparse'."
        ) from error
    return csr_array
