"""What the pass found: where each neuron fires, and how often."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.neurons.reading import files, negatives, state, values
from arcee_lab.neurons.reading.domains import Corpus
from arcee_lab.neurons.reading.facts import Facts
from arcee_lab.neurons.reading.state import State
from arcee_lab.results import Result, counted

if TYPE_CHECKING:
    import pandas as pd


class Exemplar(NamedTuple):
    """A window in which a neuron fires.

    Attributes:
        window: Its number.
        document: The number of its document.
        position: The token of the window, counted from 0, at which the neuron is largest: the first
            one of those.
        value: relu(u)² there.
    """

    window: int
    document: int
    position: int
    value: float


@dataclass(frozen=True, repr=False, eq=False)
class Exemplars(Result):
    """Where each neuron fires: windows with its largest values, drawn windows, and counts.

    Values are relu(u)². Windows are numbered in the order of the documents. The first token of a
    window, and BOS, are read and not counted.

    Attributes:
        facts: What was run.
        corpus: The text: its windows, and their domains.
        counts: Which tokens of the text count.
        pool: Windows that negatives come from.
        states: What was kept, by layer; see `arcee_lab.neurons.reading.state`.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> run = al.neurons.exemplars(model, tokenizer, ["The dogs near the gate bark ."])
        >>> best = run.top(0, 3)
        >>> all(run.values(model, 0, 3, [one.window])[0][one.position] == one.value for one in best)
        True
    """

    facts: Facts
    corpus: Corpus
    counts: Bool[np.ndarray, " token"]
    pool: Int[np.ndarray, " pool"]
    states: Mapping[Any, Any]  # of int and State; see `files.LayerFiles`

    # ------------------------------------------------------------------ what was run

    @property
    def model(self) -> str:
        """The model's name."""
        return self.facts.model

    @property
    def fingerprint(self) -> str:
        """Of the model's weights."""
        return self.facts.fingerprint

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers."""
        return self.facts.layers

    @property
    def d_mlp(self) -> int:
        """Neurons of a layer."""
        return self.facts.d_mlp

    @property
    def n_tokens(self) -> int:
        """N, the tokens that were counted."""
        return self.facts.n_tokens

    @property
    def n_windows(self) -> int:
        """Windows that were read."""
        return self.facts.n_windows

    @property
    def context(self) -> int:
        """Tokens of the longest window."""
        return self.facts.context

    # ------------------------------------------------------------------ one layer

    def fired(self, layer: int) -> Int[Tensor, " d_mlp"]:
        """On how many of the N tokens each neuron fires."""
        return self._of(layer)["fired"]

    def rates(self, layer: int) -> Float[Tensor, " d_mlp"]:
        """The share of the N tokens on which each neuron fires, in fp64."""
        return self.fired(layer).double() / max(1, self.n_tokens)

    def maxima(self, layer: int) -> Float[Tensor, " d_mlp"]:
        """The largest value of each neuron, in fp32; 0 where it never fires."""
        return self._of(layer)["top_values"][:, 0].float()

    # ------------------------------------------------------------------ one neuron

    def histogram(
        self, layer: int, unit: int
    ) -> tuple[Float[Tensor, " edge"], Int[Tensor, " bin"]]:
        """The windows in which a neuron fires, by the octave of its maximum there.

        Returns:
            Edges, from 0 to infinity by factors of 2, and how many windows are between each two.
        """
        return state.edges(), self._of(layer, unit)["histogram"][unit].long()

    def top(self, layer: int, unit: int) -> tuple[Exemplar, ...]:
        """The windows with the largest maxima, the best first.

        Of equal maxima the one in the smaller document comes first, then the earlier one.
        """
        return self._listed("top", layer, unit)

    def stratified(self, layer: int, unit: int) -> tuple[tuple[Exemplar, ...], ...]:
        """Windows drawn at random by the octave of a neuron's maximum there, the lowest first.

        The last stratum is the octave of the largest value, the one before it goes from a half to a
        quarter of that, and so on. In each, all windows were equally likely; `histogram` tells how
        many there are. A stratum lists its windows by falling maximum, as `top` does.

        Returns:
            One tuple per stratum; empty where no window has its maximum there.
        """
        drawn = self._listed("drawn", layer, unit)
        octaves = state.octaves(torch.tensor([one.value for one in drawn])).tolist()
        highest = int(state.octaves(self.maxima(layer)[unit]))
        by_octave: dict[int, list[Exemplar]] = {}
        for octave, one in zip(octaves, drawn, strict=True):
            by_octave.setdefault(octave, []).append(one)
        wanted = range(highest - self.facts.strata + 1, highest + 1)
        return tuple(
            tuple(sorted(by_octave.get(octave, ()), key=lambda one: (-one.value, one.window)))
            for octave in wanted
        )

    def negatives(self, layer: int, unit: int) -> tuple[int, ...]:
        """Windows in which a neuron never fires, alike in length and domain to its top windows.

        They are numbers of windows. Of a neuron that never fires, or fires in almost every window,
        there are few or none.
        """
        bits = self._of(layer, unit)["silent"][:, unit // 8] >> (unit % 8) & 1
        return negatives.matched(
            [one.window for one in self.top(layer, unit)],
            self.pool[bits.bool().numpy()],
            lengths=np.diff(self.corpus.windows.bounds),
            domains=self.corpus.domains,
            most=self.facts.n_negatives,
        )

    # ------------------------------------------------------------------ windows

    def ids(self, window: int) -> tuple[int, ...]:
        """The token ids of a window; a tokenizer decodes them to its text."""
        return tuple(self.corpus.windows[self._window(window)].tolist())

    def counted(self, window: int) -> tuple[bool, ...]:
        """Which tokens of a window count."""
        start, end = self.corpus.windows.bounds[self._window(window) : window + 2]
        return tuple(self.counts[start:end].tolist())

    def document(self, window: int) -> int:
        """The number of a window's document."""
        return int(self.corpus.windows.documents[self._window(window)])

    def domain(self, window: int) -> str:
        """The name of a window's domain; empty where the texts were not divided."""
        return self.corpus.names[int(self.corpus.domains[self._window(window)])]

    def values(
        self, model: Any, layer: int, unit: int, windows: Sequence[int], *, batch_size: int = 8
    ) -> list[Float[Tensor, " pos"]]:
        """The values of a neuron at every token of some windows, computed again.

        Args:
            model: The model of this run.
            layer: The neuron's layer; the forward ends there.
            unit: The neuron.
            windows: Numbers of windows.
            batch_size: Windows per forward.

        Returns:
            One fp32 tensor per window, on the CPU, first tokens included.

        Raises:
            SettingError: A layer, unit or window out of range.
            OtherRun: Another model.
        """
        self._of(layer, unit)
        return values.values(
            model,
            layer,
            unit,
            [self.corpus.windows[self._window(window)] for window in windows],
            pad_id=self.corpus.windows.pad_id,
            fingerprint=self.fingerprint,
            batch_size=batch_size,
        )

    # ------------------------------------------------------------------ the whole

    @property
    def headline(self) -> str:
        """N, the neurons, and how many of them never fired."""
        dead = sum(int((self.fired(layer) == 0).sum()) for layer in self.layers)
        neurons = len(self.layers) * self.d_mlp
        return (
            f"N = {self.n_tokens:,} tokens in {counted(self.n_windows, 'window')}: {neurons:,} "
            f"neurons of {counted(len(self.layers), 'layer')}, of which {dead:,} never fired"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per neuron: layer, unit, rate, max, fired, n_tokens."""
        import pandas as pd

        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "layer": layer,
                        "unit": np.arange(self.d_mlp),
                        "rate": self.rates(layer).numpy(),
                        "max": self.maxima(layer).numpy(),
                        "fired": self.fired(layer).numpy(),
                        "n_tokens": self.n_tokens,
                    }
                )
                for layer in self.layers
            ],
            ignore_index=True,
        )

    def save(self, folder: str | Path) -> Path:
        """Writes the run: one JSON file, the windows, and one file per layer.

        Args:
            folder: A new folder, or one that holds this run.

        Returns:
            The JSON file.

        Raises:
            OtherRun: The folder holds another run.
            FileError: It cannot be written.
        """
        parts = self.facts, self.corpus, self.counts, self.pool, self.states
        return files.write(Path(folder), *parts)

    @classmethod
    def load(cls, folder: str | Path) -> "Exemplars":
        """Reads a run that `save`, `exemplars(..., out=)` or `arcee-lab neurons` wrote.

        Layers are read at their first use. Every file is checked before it is used.

        Raises:
            SavedDamaged: The folder holds no run, or a file was changed.
            OtherRun: A later release wrote it.
        """
        return cls(*files.read(Path(folder)))

    # ------------------------------------------------------------------ inside

    def _of(self, layer: int, unit: int = 0) -> State:
        if layer not in self.layers:
            raise SettingError(
                f"layer {layer!r} is not in this run; expected one of "
                f"{', '.join(map(str, self.layers))}."
            )
        if not isinstance(unit, int | np.integer) or not 0 <= unit < self.d_mlp:
            raise SettingError(
                f"unit {unit!r} is out of range; expected a neuron from 0 to {self.d_mlp - 1}."
            )
        return self.states[layer]

    def _window(self, window: int) -> int:
        if not 0 <= window < len(self.corpus.windows):
            raise SettingError(
                f"window {window} is out of range; expected 0 to {len(self.corpus.windows) - 1}."
            )
        return int(window)

    def _listed(self, name: str, layer: int, unit: int) -> tuple[Exemplar, ...]:
        kept = self._of(layer, unit)
        parts = ("windows", "positions", "values")
        windows, positions, found = (kept[f"{name}_{part}"][unit].tolist() for part in parts)
        documents = self.corpus.windows.documents
        return tuple(
            Exemplar(window, int(documents[window]), position, value)
            for window, position, value in zip(windows, positions, found, strict=True)
            if window >= 0
        )
