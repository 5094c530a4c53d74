"""The counts of `al.sparsity.measure`, computed from a store instead of a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.sparse import SparseRows
from arcee_lab.errors import SettingError
from arcee_lab.results import Result, page

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.dump.reading.reader import Reader

_CELLS = 1 << 26  # of a shard that are decoded at once


@dataclass(frozen=True, repr=False)
class FiringStats(Result):
    """How often neurons fire, with the terms of `arcee_lab.sparsity.SparsityReport`.

    A neuron fires at a token if relu(u)² as the model computed it is above 0. Padding never counts,
    and first positions are counted separately.

    Attributes:
        layers: The stored layers, in order; the counts have one row per layer.
        n_tokens: N, the tokens counted.
        n_first: First positions, counted separately.
        fired: On how many of the N tokens each neuron fired.
        fired_first: On how many of the first positions each neuron fired.
        active: `active[l, n]` is the number of tokens at which exactly n neurons of a layer fired.
    """

    layers: tuple[int, ...]
    n_tokens: int
    n_first: int
    fired: Int[Tensor, "layer d_mlp"]
    fired_first: Int[Tensor, "layer d_mlp"]
    active: Int[Tensor, "layer d_mlp+1"]

    @property
    def rates(self) -> Float[Tensor, "layer d_mlp"]:
        """The share of the N tokens on which each neuron fires."""
        return self.fired.double() / self.n_tokens

    @property
    def zeros(self) -> Float[Tensor, " layer"]:
        """The share of exact zeros among each layer's activations."""
        return 1 - self.rates.mean(dim=1)

    def frame(self) -> "pd.DataFrame":
        """One row per neuron: layer, unit, fired, rate, fired_first, n_tokens, n_first."""
        import pandas as pd

        d_mlp = self.fired.shape[1]
        return pd.DataFrame(
            {
                "layer": np.repeat(np.asarray(self.layers, dtype=np.int64), d_mlp),
                "unit": np.tile(np.arange(d_mlp), len(self.layers)),
                "fired": self.fired.flatten().numpy(),
                "rate": self.rates.flatten().numpy(),
                "fired_first": self.fired_first.flatten().numpy(),
                "n_tokens": self.n_tokens,
                "n_first": self.n_first,
            }
        )

    @property
    def headline(self) -> str:
        """Exact zeros by layer, with N."""
        zeros = ", ".join(
            f"{layer}: {share:.3f}" for layer, share in zip(self.layers, self.zeros, strict=True)
        )
        return f"N = {self.n_tokens:,} tokens, exact zeros by layer: {zeros}"

    def _repr_html_(self) -> str:
        import pandas as pd

        # By layer: the frame has one row per neuron, too many to read.
        table = pd.DataFrame({"layer": self.layers, "zeros": self.zeros.numpy()})
        return page(f"N = {self.n_tokens:,} tokens", table)


def count(store: "Reader") -> FiringStats:
    """Counts all stored neurons.

    Raises:
        SettingError: The store holds no neurons.
        ShardDamaged: A shard is damaged.
    """
    layers = store.layers
    if not layers:
        raise SettingError(f"store {store.folder} holds no neurons; dump layers.*.mlp.hook_post.")
    known = store.token_data()
    first = (known.attended & known.first).numpy()
    counted = (known.attended & ~known.first).numpy()
    counts = [_count_layer(store, layer, counted, first) for layer in layers]
    fired, fired_first, active = (
        torch.from_numpy(np.stack(part)) for part in zip(*counts, strict=True)
    )
    return FiringStats(
        layers=layers,
        n_tokens=int(counted.sum()),
        n_first=int(first.sum()),
        fired=fired,
        fired_first=fired_first,
        active=active,
    )


def _count_layer(
    store: "Reader", layer: int, counted: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    site, _ = store.find(layer)
    fired = np.zeros((2, site.width), dtype=np.int64)
    active = np.zeros(len(store), dtype=np.int64)
    for number, shard in enumerate(store.manifest.shards):
        tokens = slice(shard.start, shard.stop)
        step = max(1, _CELLS // len(shard))
        for start in range(0, site.width, step):
            rows = store.units(site.name, number, slice(start, start + step))
            units, index = _firing(rows, site.value_dtype)
            active[tokens] += np.bincount(index, minlength=len(shard))
            for row, mask in enumerate((counted[tokens], first[tokens])):
                fired[row, start : start + len(rows)] += np.bincount(
                    units[mask[index]], minlength=len(rows)
                )
    return fired[0], fired[1], np.bincount(active[counted], minlength=site.width + 1)


def _firing(rows: SparseRows, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Unit and token of each entry whose square is above 0: small ones underflow in float16."""
    above = (sparse.from_bits(rows.values, dtype).square() > 0).numpy()
    return rows.row[above], rows.index[above]
