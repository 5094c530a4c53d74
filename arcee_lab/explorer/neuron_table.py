"""All neurons as columns: sorted, searched, and read a page at a time.

A model of AFM's size has 663,552 neurons, so nothing here is a Python object per neuron: columns
are arrays, an order is computed at its first use and kept, and a page is a slice of it.
"""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from arcee_lab.explorer.units import Sizes
from arcee_lab.neurons.pages.token_text import TokenText
from arcee_lab.sites import unit_name

if TYPE_CHECKING:
    from arcee_lab.neurons.reading.result import Exemplars
    from arcee_lab.neurons.search.found import Found
    from arcee_lab.neurons.weights.result import Effects

SORTS = ("neuron", "rate", "largest", "effect", "score")
_PEAKS = 5  # exemplars of a neuron whose tokens a search looks at
_NAMED = re.compile(r"L(\d{1,6})(?:/(?:N(\d{0,9}))?)?", re.IGNORECASE)


class NeuronTable:
    """Every neuron of a model, in columns of one number each.

    Args:
        sizes: Of the model.
        words: Decodes token ids.
        run: For rates, largest values and the tokens at them; or None.
        effects: For effects and the tokens that are raised; or None.
        found: For labels and their scores; or None.

    Attributes:
        columns: By the names in `SORTS` but the first; NaN where a number is not known.
    """

    def __init__(
        self,
        sizes: Sizes,
        words: TokenText,
        run: "Exemplars | None",
        effects: "Effects | None",
        found: "Found | None",
    ):
        self._sizes, self._words = sizes, words
        size = sizes.layers * sizes.d_mlp
        names = SORTS[1:]
        self.columns = {name: np.full(size, np.nan, dtype=np.float32) for name in names}
        self._raised = np.full((size, 0), -1, dtype=np.int32)
        self._peaks = np.full((size, 0), -1, dtype=np.int32)
        self._labels: list[str] = []
        self._label_of = np.full(size, -1, dtype=np.int32)
        if run is not None:
            self._read_run(run)
        if effects is not None:
            self._read_effects(effects)
        if found is not None:
            self._read_found(found)
        self._orders: dict[tuple[str, bool], np.ndarray] = {}
        self._vocabulary: list[str] | None = None
        self._last: tuple[tuple[str, bool, str], np.ndarray] | None = None

    def page(
        self, sort: str, descending: bool, query: str, start: int, count: int
    ) -> tuple[int, list[list[Any]]]:
        """Some rows of the sorted and searched table.

        Args:
            sort: A name in `SORTS`; neurons whose number is not known come last.
            descending: Whether the largest comes first.
            query: Part of a token or of a label, or a name such as "L2" or "L2/N681"; "" for all.
            start: Number of the first row.
            count: How many rows.

        Returns:
            How many rows there are in all; and of each row the name, rate, largest value, effect,
            label, its score, tokens that it raises, and tokens at its largest values.
        """
        chosen = self._chosen(sort, descending, query.strip().lower())
        return len(chosen), [self._row(int(one)) for one in chosen[start : start + count]]

    def raised(self, at: int) -> list[str]:
        """The three tokens that a neuron raises most; none where effects are not known.

        Args:
            at: Its place among all neurons, layer by layer.
        """
        return [self._words.one(int(i)) for i in self._raised[at, :3] if i >= 0]

    # ------------------------------------------------------------------ inside

    def _row(self, at: int) -> list[Any]:
        layer, unit = divmod(at, self._sizes.d_mlp)
        numbers = {name: _known(column[at]) for name, column in self.columns.items()}
        label = self._label_of[at]
        return [
            unit_name(layer, unit),
            numbers["rate"],
            numbers["largest"],
            numbers["effect"],
            self._labels[label] if label >= 0 else None,
            numbers["score"],
            self.raised(at),
            [self._words.one(int(i)) for i in dict.fromkeys(self._peaks[at].tolist()) if i >= 0],
        ]

    def _chosen(self, sort: str, descending: bool, query: str) -> Int[np.ndarray, " row"]:
        key = sort, descending, query
        if self._last is None or self._last[0] != key:
            order = self._order(sort, descending)
            self._last = key, order[self._matches(query)[order]] if query else order
        return self._last[1]

    def _order(self, sort: str, descending: bool) -> Int[np.ndarray, " neuron"]:
        if (sort, descending) not in self._orders:
            if sort == "neuron":
                order = np.arange(len(self._label_of))[:: -1 if descending else 1]
            else:
                column = self.columns[sort]
                order = np.argsort(-column if descending else column, kind="stable")  # NaN last
            self._orders[sort, descending] = order.astype(np.int32)
        return self._orders[sort, descending]

    def _matches(self, query: str) -> Bool[np.ndarray, " neuron"]:
        size = len(self._label_of)
        named = _NAMED.fullmatch(query)
        if named:
            matches = np.arange(size) // self._sizes.d_mlp == int(named[1])
            if named[2]:
                matches &= np.arange(size) % self._sizes.d_mlp == int(named[2])
            return matches
        matches = np.zeros(size, dtype=bool)
        labels = np.array([query in label.lower() for label in self._labels], dtype=bool)
        if labels.any():
            known = self._label_of >= 0
            matches[known] = labels[self._label_of[known]]
        ids = [i for i, word in enumerate(self._known_words()) if query in word]
        # The last place stands for -1, a place without a token.
        asked = np.zeros(len(self._known_words()) + 1, dtype=bool)
        asked[ids] = True
        for tokens in (self._raised, self._peaks):
            if tokens.shape[1] and ids:
                matches |= asked[tokens].any(axis=1)
        return matches

    def _known_words(self) -> list[str]:
        """The text of every token that a row names, in small letters; others are empty."""
        if self._vocabulary is None:
            used = np.unique(np.concatenate([self._raised.ravel(), self._peaks.ravel()]))
            self._vocabulary = [""] * (int(used.max(initial=-1)) + 1)
            for number in used[used >= 0].tolist():
                self._vocabulary[number] = self._words.one(number).lower()
        return self._vocabulary

    def _part(self, layer: int) -> slice:
        return slice(layer * self._sizes.d_mlp, (layer + 1) * self._sizes.d_mlp)

    def _read_run(self, run: "Exemplars") -> None:
        self._peaks = np.full((len(self._label_of), _PEAKS), -1, dtype=np.int32)
        for layer in run.layers:
            rows = self._part(layer)
            self.columns["rate"][rows] = run.rates(layer).numpy()
            self.columns["largest"][rows] = run.maxima(layer).numpy()
            found = _peak_ids(run, layer)
            self._peaks[rows, : found.shape[1]] = found

    def _read_effects(self, effects: "Effects") -> None:
        at = (effects.layers * self._sizes.d_mlp + effects.units).numpy()
        self._raised = np.full((len(self._label_of), effects.promoted.shape[1]), -1, dtype=np.int32)
        self._raised[at] = effects.promoted.numpy()
        both = effects.promoted_by[:, 0].abs().maximum(effects.suppressed_by[:, 0].abs())
        self.columns["effect"][at] = both.float().numpy()

    def _read_found(self, found: "Found") -> None:
        for number, of in enumerate(found.labels):
            self._labels.append(of.label)
            for one in of.units:
                if not one.site.endswith("mlp.hook_post") or one.falling or one.layer is None:
                    continue
                at = one.layer * self._sizes.d_mlp + one.unit
                score = one.auprc if found.rank_by == "auprc" else one.f1
                if not score <= self.columns["score"][at]:  # also where there is none yet
                    self.columns["score"][at], self._label_of[at] = score, number


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _peak_ids(run: "Exemplars", layer: int) -> Int[np.ndarray, "d_mlp peak"]:
    """The tokens at which each neuron of a layer is largest, in its best windows; -1 for none."""
    kept, windows = run.states[layer], run.corpus.windows
    numbers = kept["top_windows"][:, :_PEAKS].numpy()
    places = kept["top_positions"][:, :_PEAKS].numpy()
    at = np.asarray(windows.bounds)[numbers.clip(min=0)] + places.clip(min=0)
    return np.where(numbers >= 0, windows.ids[at], -1).astype(np.int32)
