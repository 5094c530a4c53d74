"""What is put in a neuron's place: zeros, its mean, or its value at another token."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.data.windows import Windows
from arcee_lab.interventions import Replace
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.neurons.ablation.named import Neuron
from arcee_lab.neurons.search.streaming import Place, collect

HOW = ("zero", "mean", "resample")


class Values:
    """The values that neurons get.

    "mean" is over all tokens but first ones, and is put at every token. "resample" gives each token
    the values of another one, the same for all neurons: tokens that are not first are drawn in one
    cycle, so none keeps its own, and a first token gets that of some other token. What a token gets
    depends on the texts and the seed, not on batches.

    Args:
        anatomy: Of the model.
        neurons: The neurons, each once.
        windows: The texts.
        how: "zero", "mean" or "resample".
        seed: Of the draw.
        batch_size: Windows per forward.
        bar: A progress bar.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        neurons: Sequence[Neuron],
        windows: Windows,
        *,
        how: str,
        seed: int,
        batch_size: int,
        bar: Any,
    ):
        self._how = how
        self._column = {neuron: place for place, neuron in enumerate(neurons)}
        if how == "zero":
            return
        d_mlp = anatomy.size("d_mlp")
        columns: dict[str, list[int]] = {}
        for layer, unit in neurons:
            columns.setdefault(f"layers.{layer}.mlp.hook_post", []).append(unit)
        places = [Place(name, d_mlp, False) for name in anatomy.resolve(list(columns))]
        order = [(p.site, unit) for p in places for unit in columns[p.site]]
        self._column = {
            Neuron(int(site.split(".")[1]), unit): place for place, (site, unit) in enumerate(order)
        }
        counted = ~windows.first()
        values = collect(
            anatomy,
            places,
            columns,
            windows,
            np.ones(windows.n_tokens, dtype=bool),
            batch_size=batch_size,
            bar=bar,
        )
        self._mean = torch.from_numpy(values[counted].mean(axis=0))
        if how == "resample":
            self._values = torch.from_numpy(values)
            self._source = _sources(counted, np.random.default_rng(seed))

    def at(
        self, neurons: Sequence[Neuron], tokens: Int[np.ndarray, "row pos"]
    ) -> Float[Tensor, "..."]:
        """Values of some neurons at tokens of the texts, `[row or 1, pos or 1, neuron]`."""
        columns = [self._column[neuron] for neuron in neurons]
        if self._how == "zero":
            return torch.zeros(1, 1, len(columns), dtype=torch.float64)
        if self._how == "mean":
            return self._mean[columns].view(1, 1, -1)
        rows = torch.from_numpy(self._source[tokens])
        return self._values[:, columns][rows]


def _sources(counted: np.ndarray, source: np.random.Generator) -> Int[np.ndarray, " token"]:
    """For each token, the one whose values it gets."""
    tokens = source.permutation(np.flatnonzero(counted))
    found = np.zeros(len(counted), dtype=np.int64)
    found[tokens] = np.roll(tokens, 1)
    first = np.flatnonzero(~counted)
    found[first] = source.choice(tokens, size=len(first))
    return found


def replacements(
    sets: Sequence[Sequence[Neuron]], values: Values, tokens: Int[np.ndarray, "row pos"]
) -> list[Replace]:
    """One intervention per layer, for a batch that holds the texts once per set.

    Args:
        sets: The neurons that each copy of the texts loses.
        values: What they get.
        tokens: Number of each token of one copy in the texts.
    """
    layers = sorted({neuron.layer for some in sets for neuron in some})
    found = []
    for layer in layers:
        puts = []
        for place, some in enumerate(sets):
            here = [neuron for neuron in some if neuron.layer == layer]
            if here:
                rows = slice(place * len(tokens), (place + 1) * len(tokens))
                puts.append((rows, [neuron.unit for neuron in here], values.at(here, tokens)))
        found.append(Replace(f"layers.{layer}.mlp.hook_post", partial(_put, puts=puts)))
    return found


def _put(x: Tensor, *, puts: list[tuple[slice, list[int], Tensor]]) -> Tensor:
    new = x.clone()
    for rows, units, value in puts:
        index = torch.tensor(units, device=x.device)
        part = value.to(x.device, x.dtype).expand(rows.stop - rows.start, x.shape[1], len(units))
        new[rows] = new[rows].index_copy(2, index, part)
    return new
