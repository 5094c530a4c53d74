"""Read an activation store: lazily, and only the bytes that a question needs."""

import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.dump.folders.folder import Folder, folder_of
from arcee_lab.dump.format import shard_files, sparse
from arcee_lab.dump.format.block import Block
from arcee_lab.dump.format.manifest import Manifest, StoredSite, stored_as
from arcee_lab.dump.format.sparse import Rows
from arcee_lab.dump.format.token_table import Tokens
from arcee_lab.dump.reading.firings import Firings, TopFirings
from arcee_lab.sites import Legend

if TYPE_CHECKING:
    from arcee_lab.dump.reading.dataset import Activations
    from arcee_lab.dump.reading.exports import Export
    from arcee_lab.dump.reading.stats import FiringStats

_MOST_OPEN = 256  # mapped shards; the system gives a process some 65,000
FORMS = ("torch", "numpy", "sparse", "scipy")


def open(path: str | os.PathLike[str] | Folder, *, tokenizer: Any = None) -> "Store":
    """Opens an activation store.

    Nothing but the manifest is read; it is checked, and so is each shard when it is first needed.
    Checksums are compared by `arcee-lab verify`.

    Args:
        path: The folder that a dump wrote, or its fsspec URL such as `s3://bucket/store`; then a
            shard is copied here when it is first needed, and kept until the store is let go.
        tokenizer: The model's, for `topk` to show text; without one it shows token ids.

    Raises:
        ValueError: No store, an unfinished or a damaged one.

    Example:
        >>> import arcee_lab as al
        >>> store = al.dump.open(out)  # doctest: +SKIP
        >>> store.neuron(2, 17).frame()  # doctest: +SKIP
    """
    folder = folder_of(path)
    return Store(folder, Manifest.load(folder), tokenizer)


class Store:
    """The activations of some hook points at many tokens.

    Tokens have numbers from 0 in the order in which they are stored. Sites are named as anywhere
    (`layers.3.mlp.hook_post`, `blocks.3.mlp.hook_post`), or by a layer's number, which means its
    `mlp.hook_post`. Where relu(u) is stored, `hook_post` is its square by the model's own rounding.

    Attributes:
        folder: Where it lies.
        manifest: What it holds.
        tokenizer: As given to `open`.
    """

    def __init__(self, folder: Folder, manifest: Manifest, tokenizer: Any = None):
        self.folder = folder
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._sites = {site.name: site for site in manifest.sites}
        self._starts = np.array([shard.start for shard in manifest.shards], dtype=np.int64)
        self._blocks: OrderedDict[tuple[str, int], Block] = OrderedDict()
        self._known: Tokens | None = None

    def __len__(self) -> int:
        """Tokens."""
        return self.manifest.n_tokens

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose neurons are stored."""
        names = [name.split(".") for name in self._sites]
        return tuple(int(name[1]) for name in names if name[2:] == ["mlp", "hook_relu"])

    # ------------------------------------------------------------------ by unit

    def neuron(self, layer: int, unit: int) -> Firings:
        """When one neuron fires, and how much; see `neurons`."""
        return self.neurons(layer, [unit])

    def neurons(self, layer: int, units: Sequence[int]) -> Firings:
        """When some neurons of a layer fire, and how much.

        Only the bytes of these neurons are read.

        Args:
            layer: The layer.
            units: Numbers of neurons, in any order.

        Raises:
            ValueError: The layer is not stored, it lacks a unit, or a shard is damaged.
        """
        site, _ = self.find(layer)
        units = [int(unit) for unit in units]
        if wrong := [unit for unit in units if not 0 <= unit < site.width]:
            raise ValueError(f"{site.name} has no unit {wrong[0]}; expected 0 to {site.width - 1}")
        pieces = [self.units(site.name, n, units) for n in range(len(self.manifest.shards))]
        rows = sparse.beside(pieces) if pieces else _nothing(len(units), site)
        return Firings.of(layer, units, rows, site.value_dtype)

    def topk(
        self,
        layer: int,
        unit: int,
        k: int = 20,
        *,
        around: tuple[int, int] = (16, 4),
        first: bool = False,
    ) -> TopFirings:
        """Where a neuron fires the most, with the text around.

        Args:
            layer: The layer.
            unit: The neuron.
            k: Firings, at most.
            around: Tokens shown before and after, within the window that the model read.
            first: Whether first positions count; models treat them unlike any other. Padding never
                counts.

        Raises:
            ValueError: As `neurons`.
        """
        firings = self.neuron(layer, unit)
        known = self.token_data()
        counted = known.attended if first else known.attended & ~known.first
        kept = counted[firings.tokens] & (firings.values > 0)
        tokens, values = firings.tokens[kept], firings.values[kept]
        order = torch.argsort(values.float(), descending=True, stable=True)[:k]
        # relu(u)² of this one neuron at every token, to colour the text around with.
        line = firings.dense()[:, 0]
        texts, shades, places = [], [], []
        for token in tokens[order].tolist():
            low, high = max(0, token - around[0]), min(len(self), token + around[1] + 1)
            same = known.windows[low:high] == known.windows[token]
            same &= known.attended[low:high]
            texts.append(self._text(known.ids[low:high][same].tolist()))
            shades.append(line[low:high][same])
            places.append(int(same[: token - low].sum()))
        return TopFirings(
            layer=layer,
            unit=unit,
            n_tokens=int(counted.sum()),
            n_fired=len(tokens),
            tokens=tokens[order],
            values=values[order],
            documents=known.documents[tokens[order]],
            positions=known.positions[tokens[order]],
            around=tuple(texts),
            around_values=tuple(shades),
            places=tuple(places),
        )

    # ------------------------------------------------------------------ by token

    def token(self, token: int, site: str | int) -> Float[Tensor, " width"]:
        """The activations of one site at one token.

        Args:
            token: Its number; negative counts from the end.
            site: The site, or a layer whose `mlp.hook_post` is meant.

        Raises:
            ValueError: No such token or site.
        """
        if not -len(self) <= token < len(self):
            raise ValueError(f"token {token}; the store has the tokens 0 to {len(self) - 1}")
        token %= len(self)
        return self.tokens(slice(token, token + 1), site)[0]

    def tokens(self, which: slice, site: str | int, *, form: str = "torch") -> Any:
        """The activations of one site at a range of tokens.

        Args:
            which: The tokens, as a slice without a step.
            site: The site, or a layer whose `mlp.hook_post` is meant.
            form: `torch` [token, width] or, where a site has several axes, those; `numpy` the same,
                with bfloat16 as float32; `sparse` a torch CSR matrix; `scipy` a CSR array of
                float32, since scipy has no 16-bit floats.

        Raises:
            ValueError: No such site, a slice with a step, or a damaged shard.
        """
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; expected one of {', '.join(FORMS)}")
        start, stop = self._range(which)
        stored, squared = self.find(site)
        if form in ("torch", "numpy"):
            parts = [self.dense(stored.name, *piece) for piece in self._pieces(start, stop)]
            nothing = torch.zeros(0, stored.width, dtype=stored.value_dtype)
            x = torch.cat(parts) if parts else nothing
            x = x.square() if squared else x
            x = x.reshape(-1, *stored.shape)
            return x if form == "torch" else _numpy(x)
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

    def rows(self, start: int, stop: int, site: str) -> Rows:
        """The nonzeros at a range of tokens, as they are stored: the fastest form.

        Args:
            start: First token.
            stop: The token behind the last one.
            site: A stored site's own name.
        """
        stored = self._sites[site]
        pieces = [self.span(site, *piece) for piece in self._pieces(start, stop)]
        return sparse.below(pieces) if pieces else _nothing(0, stored, stored.width)

    def token_data(self, which: slice = slice(None)) -> Tokens:
        """Ids, positions, documents, windows, masks and tags of a range of tokens."""
        start, stop = self._range(which)
        if self._known is not None:
            return self._known[start:stop]
        parts = [
            self._read_tokens(number)[low:high] for number, low, high in self._pieces(start, stop)
        ]
        joined = parts[0] if len(parts) == 1 else Tokens.join(parts, tags=self.manifest.tags)
        if stop - start == len(self):
            self._known = joined  # some 20 bytes a token
        return joined

    def _read_tokens(self, number: int) -> Tokens:
        shard = self.manifest.shards[number]
        return shard_files.read_tokens(
            self.folder, shard.tokens, length=len(shard), tags=self.manifest.tags
        )

    # ------------------------------------------------------------------ as a whole

    def frame(self, site: str | int | None = None, *, which: slice = slice(None)) -> pd.DataFrame:
        """A table of tokens, or of the activations at a site.

        Args:
            site: None gives one row a token: id, position, document, window, attended, first and
                each tag. A site of neurons gives one row a nonzero: token, unit, value. Any other
                site gives one row a token and one column a value, without a copy where the range
                lies in one shard and the dtype is one that numpy has.
            which: The tokens.

        Raises:
            ValueError: As `tokens`.
        """
        start, stop = self._range(which)
        if site is None:
            return self._token_frame(self.token_data(which), start)
        stored, squared = self.find(site)
        if stored.counts_nonzeros:
            rows = self.rows(start, stop, stored.name)
            values = sparse.from_bits(rows.values.copy(), stored.value_dtype)
            columns = {
                "token": rows.row + start,
                "unit": rows.index.astype(np.int64),
                "value": _numpy(values.square() if squared else values),
            }
            return pd.DataFrame(columns)
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1 and not squared:
            values = _numpy(self.dense(stored.name, *pieces[0]))
            values.flags.writeable = False  # it may be the file itself
        else:
            values = self.tokens(which, site, form="numpy").reshape(stop - start, stored.width)
        return pd.DataFrame(values, index=pd.RangeIndex(start, stop, name="token"), copy=False)

    def stats(self) -> "FiringStats":
        """How often each stored neuron fires, and how many fire at each token.

        The counts equal those of `al.sparsity.measure` over the same batches.
        """
        from arcee_lab.dump.reading.stats import count

        return count(self)

    def torch_dataset(
        self,
        sites: str | int | Sequence[str | int],
        *,
        batch_size: int = 256,
        shuffle: bool = True,
        seed: int = 0,
        first: bool = False,
    ) -> "Activations":
        """Batches of activations for training a probe or a dictionary.

        See `arcee_lab.dump.reading.dataset.Activations`.
        """
        from arcee_lab.dump.reading.dataset import Activations

        several = [sites] if isinstance(sites, str | int) else list(sites)
        return Activations(
            self, several, batch_size=batch_size, shuffle=shuffle, seed=seed, first=first
        )

    def export(self, kind: str, out: str | os.PathLike[str], **options: Any) -> "Export":
        """Writes the store for another program.

        Args:
            kind: `parquet`, `delphi`, `saelens` or `coo`; see `arcee_lab.dump.reading.exports`.
            out: A folder, which must be new or empty.
            **options: Of that kind, e.g. `sites=`.

        Returns:
            The files, and what was lost.
        """
        from arcee_lab.dump.reading.exports import export

        return export(self, kind, out, **options)

    # ------------------------------------------------------------------ the parts

    def find(self, site: str | int) -> tuple[StoredSite, bool]:
        """The stored site that answers for a name, and whether its values are to be squared.

        Raises:
            ValueError: No hook point, or one that is not stored.
        """
        name = f"layers.{site}.mlp.hook_post" if isinstance(site, int) else site
        canonical = self._legend().canonical(name)
        if canonical in self._sites:
            return self._sites[canonical], False
        if stored_as(canonical) in self._sites:
            return self._sites[stored_as(canonical)], True
        held = ", ".join(list(self._sites)[:6]) + (" ..." if len(self._sites) > 6 else "")
        raise ValueError(f"store {self.folder} has no {canonical}; it holds {held or 'no site'}")

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

    def units(self, site: str, number: int, which: Sequence[int] | slice) -> Rows:
        """The nonzeros of some units in one shard of a stored site: a row a unit."""
        with self._naming(number, site):
            return self.block(site, number).units(which)

    def span(self, site: str, number: int, start: int, stop: int) -> Rows:
        """The nonzeros of some tokens of one shard, counted within it: a row a token."""
        with self._naming(number, site):
            return self.block(site, number).span(start, stop)

    def dense(self, site: str, number: int, start: int, stop: int) -> Tensor:
        """All values of some tokens of one shard, counted within it: [token, width]."""
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
            raise ValueError(f"got a slice with step {step}; expected one without a step")
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
        """Puts the file's name into what reading finds wrong in it."""
        file = self.manifest.shards[number].sites[site]
        try:
            yield
        except shard_files.Damaged:
            raise
        except ValueError as error:
            raise shard_files.Damaged(f"{self.folder}/{file.path}", str(error)) from error

    def _text(self, ids: list[int]) -> tuple[str, ...]:
        if self.tokenizer is None:
            return tuple(f"{number} " for number in ids)
        return tuple(self.tokenizer.decode([number]) for number in ids)

    def _token_frame(self, known: Tokens, start: int) -> pd.DataFrame:
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

    def __repr__(self) -> str:
        manifest = self.manifest
        lines = [
            f"Store of {len(self):,} tokens, {len(manifest.sites)} sites, {len(manifest.shards)} "
            f"shards, {manifest.bytes:,} bytes, of {manifest.model['name']}"
        ]
        for site in manifest.sites[:6]:
            lines.append(f"  {site.name}: {list(site.shape)} {site.dtype}, {site.layout}")
        return "\n".join(lines + (["  ..."] if len(manifest.sites) > 6 else []))

    def _repr_html_(self) -> str:
        head = escape(repr(self).splitlines()[0])
        return f"<p>{head}</p>{self.sites().to_html(index=False, max_rows=20)}"

    def sites(self) -> pd.DataFrame:
        """One row a site: name, shape, dtype, layout, bytes, and bytes over dense ones."""
        rows = []
        for site in self.manifest.sites:
            size = sum(shard.sites[site.name].bytes for shard in self.manifest.shards)
            whole = len(self) * site.width * site.torch_dtype.itemsize
            rows.append(
                {
                    "site": site.name,
                    "shape": str(list(site.shape)),
                    "dtype": site.dtype,
                    "layout": site.layout,
                    "bytes": size,
                    "of_dense": size / whole if whole else float("nan"),
                }
            )
        return pd.DataFrame(rows)


def _keep(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    cache[key] = value
    if len(cache) > _MOST_OPEN:
        cache.popitem(last=False)


def _nothing(n_rows: int, site: StoredSite, width: int = 0) -> Rows:
    bits = sparse.to_bits(torch.zeros(n_rows, width, dtype=site.value_dtype))
    return sparse.compress(bits)


def _numpy(x: Tensor) -> np.ndarray:
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def _scipy_csr() -> Any:
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise ValueError(
            "form='scipy' needs scipy, which is not installed; `pip install scipy`, or take "
            "form='sparse'"
        ) from error
    return csr_array
