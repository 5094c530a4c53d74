"""Reads an activation store lazily: only the bytes that a query needs."""

import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.data.token_words import token_word
from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.manifest import Manifest
from arcee_lab.dump.reading.firings import Firings, TopFirings
from arcee_lab.dump.reading.reader import Reader, as_numpy
from arcee_lab.errors import SettingError, WrongType
from arcee_lab.results import counted, page
from arcee_lab.runs.arguments import checked

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.dump.reading.dataset import ActivationDataset
    from arcee_lab.dump.reading.exports import Export
    from arcee_lab.dump.reading.stats import FiringStats


@checked
def open(path: str | os.PathLike[str] | Folder, *, tokenizer: Any = None) -> "Store":
    """Opens an activation store.

    Only the manifest is read and checked; each shard is checked when it is first needed.
    `arcee-lab verify` compares checksums.

    Args:
        path: The folder that a dump wrote, or its fsspec URL such as `s3://bucket/store`. A remote
            shard is copied to this machine when it is first needed, and kept as long as the store
            object exists.
        tokenizer: The model's tokenizer, so that `topk` shows text; without it, it shows token ids.

    Raises:
        FileError: There is no store, or an unfinished one.
        StoreDamaged: The manifest is damaged.

    Example:
        >>> import arcee_lab as al
        >>> store = al.dump.open(out)  # doctest: +SKIP
        >>> store.neuron(2, 17).frame()  # doctest: +SKIP
    """
    folder = folder_of(path)
    return Store(folder, Manifest.load(folder), tokenizer)


class Store(Reader):
    """The activations of some hook points at many tokens.

    Tokens are numbered from 0 in the order in which they are stored. Sites have the usual names
    (`layers.3.mlp.hook_post`, `blocks.3.mlp.hook_post`); the number of a layer means its
    `mlp.hook_post`. Where relu(u) is stored, `hook_post` is its square with the model's rounding.

    Attributes:
        folder: Its folder.
        manifest: What it holds.
        tokenizer: As given to `open`.
    """

    # ------------------------------------------------------------------ by unit

    def neuron(self, layer: int, unit: int) -> Firings:
        """When and how strongly one neuron fires; see `neurons`."""
        return self.neurons(layer, [unit])

    def neurons(self, layer: int, units: Sequence[int]) -> Firings:
        """When and how strongly some neurons of a layer fire.

        Only the bytes of these neurons are read.

        Args:
            layer: The layer.
            units: Numbers of neurons, in any order.

        Raises:
            SettingError: The layer has no such unit.
            SiteError: The layer is not stored.
            ShardDamaged: A shard is damaged.
        """
        site, _ = self.find(layer)
        try:
            units = [operator.index(unit) for unit in units]
        except TypeError:
            raise WrongType(f"units are {units!r}; expected whole numbers.") from None
        if wrong := [unit for unit in units if not 0 <= unit < site.width]:
            raise SettingError(
                f"{site.name} has no unit {wrong[0]}; expected 0 to {site.width - 1}."
            )
        rows = self.columns(site, units)
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
        """The strongest firings of a neuron, with the surrounding text.

        Args:
            layer: The layer.
            unit: The neuron.
            k: How many firings at most.
            around: Tokens shown before and after, within the window that the model read.
            first: Whether to include first positions, whose activations are unlike those of other
                tokens. Padding is never included.

        Raises:
            ArceeLabError: As for `neurons`.
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
            token: Its number; negative numbers count from the end.
            site: The site, or a layer whose `mlp.hook_post` is meant.

        Raises:
            SettingError: There is no such token.
            SiteError: The site is not stored.
        """
        if not -len(self) <= token < len(self):
            raise SettingError(f"token is {token}; expected 0 to {len(self) - 1}.")
        token %= len(self)
        return self.tokens(slice(token, token + 1), site)[0]

    # ------------------------------------------------------------------ as a whole

    def frame(self, site: str | int | None = None, *, which: slice = slice(None)) -> "pd.DataFrame":
        """A table of tokens, or of the activations at a site.

        Args:
            site: None gives one row per token: id, position, document, window, attended, first and
                each tag. A site of neurons gives one row per nonzero: token, unit, value. Any other
                site gives one row per token and one column per value, without a copy if the range
                is within one shard and numpy has the dtype.
            which: The tokens.

        Raises:
            ArceeLabError: As for `tokens`.
        """
        import pandas as pd

        start, stop = self._range(which)
        if site is None:
            return self.token_frame(which)
        stored, squared = self.find(site)
        if stored.counts_nonzeros:
            rows = self.rows(start, stop, stored.name)
            values = sparse.from_bits(rows.values.copy(), stored.value_dtype)
            columns = {
                "token": rows.row + start,
                "unit": rows.index.astype(np.int64),
                "value": as_numpy(values.square() if squared else values),
            }
            return pd.DataFrame(columns)
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1 and not squared:
            values = as_numpy(self.dense(stored.name, *pieces[0]))
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
    ) -> "ActivationDataset":
        """Batches of activations for training a probe or a dictionary.

        See `arcee_lab.dump.reading.dataset.ActivationDataset`.
        """
        from arcee_lab.dump.reading.dataset import ActivationDataset

        several = [sites] if isinstance(sites, str | int) else list(sites)
        return ActivationDataset(
            self, several, batch_size=batch_size, shuffle=shuffle, seed=seed, first=first
        )

    def export(self, kind: str, out: str | os.PathLike[str], **options: Any) -> "Export":
        """Writes the store in a format of another program.

        Args:
            kind: `parquet`, `delphi`, `saelens` or `coo`; see `arcee_lab.dump.reading.exports`.
            out: A folder, which must be new or empty.
            **options: Options of that kind, e.g. `sites=`.

        Returns:
            The files, and what was lost.
        """
        from arcee_lab.dump.reading.exports import export

        return export(self, kind, out, **options)

    # ------------------------------------------------------------------ the parts

    def _text(self, ids: list[int]) -> tuple[str, ...]:
        if self.tokenizer is None:
            return tuple(f"{number} " for number in ids)
        return tuple(token_word(self.tokenizer, number) for number in ids)

    def __repr__(self) -> str:
        manifest = self.manifest
        lines = [
            f"Store of {counted(len(self), 'token')}, {counted(len(manifest.sites), 'site')}, "
            f"{counted(len(manifest.shards), 'shard')}, {manifest.bytes:,} bytes, from "
            f"{manifest.model['name']}"
        ]
        for site in manifest.sites[:6]:
            lines.append(f"  {site.name}: {list(site.shape)} {site.dtype}, {site.layout}")
        return "\n".join(lines + (["  ..."] if len(manifest.sites) > 6 else []))

    def _repr_html_(self) -> str:
        return page(repr(self).splitlines()[0], self.sites())

    def sites(self) -> "pd.DataFrame":
        """One row per site: name, shape, dtype, layout, bytes, and their share of dense bytes."""
        import pandas as pd

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
