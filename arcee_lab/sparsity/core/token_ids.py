"""Row 14: active neurons by token id, and against how often the token occurs.

Spearman's rank correlation is over token ids that occur at least five times, between the mean
number of active neurons and the id's count.

Source: Luo et al., "Sparsing Law", arXiv:2411.02335, figure 10 (activation by token id).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arcee_lab.results import Result, counted
from arcee_lab.sparsity.core.window_means import as_many, by_layer, ends

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

OFTEN = 5  # occurrences that a token id needs to be in the correlation


@dataclass(frozen=True, repr=False)
class Vocabulary(Result):
    """Active neurons by token id.

    Attributes:
        ids: The token ids that occur.
        active: Mean k, `[id, layer]`.
        tokens: How often each occurs.
        d_mlp: Neurons per layer.
    """

    ids: np.ndarray
    active: np.ndarray
    tokens: np.ndarray
    d_mlp: int

    @classmethod
    def from_counts(cls, active: np.ndarray, tokens: np.ndarray, d_mlp: int) -> "Vocabulary":
        """From Σk `[id, layer]` and tokens `[id]`."""
        ids = np.flatnonzero(tokens)
        return cls(ids, active[ids] / tokens[ids, None], tokens[ids], d_mlp)

    @property
    def spearman(self) -> np.ndarray:
        """By layer, the rank correlation of active neurons and frequency; NaN below three ids."""
        often = self.tokens >= OFTEN
        if often.sum() < 3:
            return np.full(self.active.shape[1], np.nan)
        from scipy.stats import rankdata

        count = rankdata(self.tokens[often])
        found = []
        for layer in range(self.active.shape[1]):
            rank = rankdata(self.active[often, layer])
            spread = rank.std() * count.std()
            both = ((rank - rank.mean()) * (count - count.mean())).mean()
            found.append(both / spread if spread else np.nan)
        return np.array(found)

    @property
    def _finding(self) -> str:
        often = int((self.tokens >= OFTEN).sum())
        n = f"N = {counted(often, 'id')} that {'occurs' if often == 1 else 'occur'} {OFTEN} times"
        if not np.isfinite(self.spearman).any():
            return f"Too few frequent tokens for a rank correlation ({n} or more)"
        return (
            f"Frequent tokens use {as_many(self.spearman)}: rank correlation "
            f"{ends(self.spearman)} by layer ({n} or more)"
        )

    @property
    def headline(self) -> str:
        often = int((self.tokens >= OFTEN).sum())
        return (
            f"N = {int(self.tokens.sum()):,} tokens of {len(self.ids):,} ids; rank correlation of "
            f"active neurons and frequency over {often:,} ids, by layer: {by_layer(self.spearman)}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per token id: id, n_tokens, and mean active neurons per layer, `layer_0` on."""
        import pandas as pd

        columns: dict[str, object] = {"id": self.ids, "n_tokens": self.tokens}
        columns |= {f"layer_{n}": self.active[:, n] for n in range(self.active.shape[1])}
        return pd.DataFrame(columns)

    def figure(self, *, dark: bool = False) -> "Figure":
        """The share of neurons that fire against the id's count: means over octaves of it.

        The highest octaves share a point until it has five ids.
        """
        from arcee_lab.views.figures.curves import Line, lines

        octave = np.floor(np.log2(self.tokens)).astype(int)
        starts, counts = np.unique(octave, return_counts=True)
        # The mean of a few ids is noise: rare octaves, at the top, share a point.
        while len(starts) > 1 and counts[-1] < OFTEN:
            starts, counts = starts[:-1], np.append(counts[:-2], counts[-2:].sum())
        bins = np.searchsorted(starts, octave, side="right") - 1
        means = np.stack([self.active[bins == place].mean(0) for place in range(len(starts))])
        return lines(
            [
                Line(f"layer {layer}", 2.0**starts, means[:, layer] / self.d_mlp)
                for layer in range(means.shape[1])
            ],
            x="how often the token id occurs",
            y="share of neurons that fire, mean over ids",
            shares="y",
            title=self._finding,
            log_x=True,
            dark=dark,
        )
