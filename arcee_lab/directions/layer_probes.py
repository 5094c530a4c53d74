"""Linear probes of the residual stream, layer by layer, for labels of any number.

A probe shows what is linearly readable, not what the model uses: compare it with the most common
label and with the trained head, and use an ablation to see what the model uses.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from arcee_lab import bootstrap
from arcee_lab.directions.direction import Check
from arcee_lab.directions.reading import SITES, activations
from arcee_lab.errors import Interrupted
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.results import Result, counted
from arcee_lab.runs.progress import progress_bar
from arcee_lab.views.figures.curves import Line, lines
from arcee_lab.views.figures.figure import Figure
from arcee_lab.views.scale import CATEGORIES

MAX_POSITIONS = 5000  # labelled positions that a probe is fitted on, evenly spaced


@runtime_checkable
class LabelledRow(Protocol):
    """One text as token ids, and a label at some of its positions."""

    @property
    def ids(self) -> list[int]:
        """Its token ids."""
        ...

    @property
    def at(self) -> list[int]:
        """Positions with a label."""
        ...

    @property
    def labels(self) -> list[int]:
        """The label at each of them."""
        ...


@dataclass(frozen=True, repr=False)
class Probes(Result):
    """The result of `al.training.heads.probe_layers`.

    Attributes:
        sites: The hook point that each probe reads, from the embeddings to the last layer.
        acc: Accuracy of each on the test texts.
        macro_f1: Macro-F1 of each on the test texts.
        majority: Fraction of the most common label in the test texts.
        n_train: Labelled positions that each was fitted on.
    """

    sites: tuple[str, ...]
    acc: tuple[Check, ...]
    macro_f1: tuple[float, ...]
    majority: float
    n_train: int

    def frame(self) -> pd.DataFrame:
        """One row per layer; layer 0 is the embeddings, layer L the stream after L layers."""
        rows = zip(self.sites, self.acc, self.macro_f1, strict=True)
        return pd.DataFrame(
            [
                {
                    "layer": layer,
                    "site": site,
                    "acc": acc.value,
                    "low": acc.low,
                    "high": acc.high,
                    "macro_f1": f1,
                    "n": acc.documents,
                    "majority": self.majority,
                }
                for layer, (site, acc, f1) in enumerate(rows)
            ]
        )

    def figure(self, *, dark: bool = False) -> Figure:
        """Accuracy by layer with its 95 % interval, next to the most common label.

        Args:
            dark: For a dark page.
        """
        frame = self.frame()
        layers = frame["layer"].to_numpy(dtype=float)
        curves = [
            Line("probe, 95% interval", layers, frame["acc"].to_numpy()),
            Line("most common label", layers, np.full(len(layers), self.majority), dashed=True),
        ]
        figure = lines(
            curves,
            x="layers read (0: the embeddings)",
            y="accuracy on held-out texts",
            title=f"A linear probe is best after {counted(self.best, 'layer')}: accuracy "
            f"{self.acc[self.best].value:.3f}, the most common label {self.majority:.3f} "
            f"(N = {counted(self.acc[self.best].documents, 'text')})",
            dark=dark,
        )
        (axes,) = figure.axes
        axes.fill_between(
            layers, frame["low"], frame["high"], color=CATEGORIES[0], alpha=0.18, linewidth=0
        )
        axes.set_xticks(layers[:: max(1, len(layers) // 12)])
        return figure

    @property
    def best(self) -> int:
        """After how many layers the accuracy is highest; 0 means at the embeddings."""
        return max(range(len(self.acc)), key=lambda layer: self.acc[layer].value)

    @property
    def headline(self) -> str:
        """The best layer, in one sentence."""
        found = self.acc[self.best]
        return (
            f"linear probes, fitted on {self.n_train:,} positions: the best is after "
            f"{counted(self.best, 'layer')}, with accuracy {found.value:.3f} ({found.low:.3f} to "
            f"{found.high:.3f}, n = {found.documents:,}); the most common label is "
            f"{self.majority:.3f}"
        )


def probe_rows(
    model: nn.Module,
    fitted: Sequence[LabelledRow],
    asked: Sequence[LabelledRow],
    *,
    batch_size: int = 8,
    strength: float = 1.0,
    max_positions: int = MAX_POSITIONS,
    progress: bool | None = None,
) -> Probes:
    """Fits a linear probe on the residual stream after every layer.

    A probe is scikit-learn's logistic regression on standardised features.

    Args:
        model: Any Arcee model.
        fitted: Texts to fit on.
        asked: Held-out texts with the same labels.
        batch_size: Texts per forward.
        strength: The regression's `C`; smaller values regularise more.
        max_positions: Most labelled positions to fit on; of more, evenly spaced ones are used.
        progress: Show a bar over texts and layers; by default in notebooks and terminals.

    Returns:
        Accuracy of each layer on the held-out texts, with its 95 % interval, and macro-F1.

    Raises:
        Interrupted: Ctrl-C was pressed while probes are fitted; its `partial` holds the finished
            layers.
    """
    sites = anatomy_of(model).resolve(SITES)
    gold = np.array([label for row in asked for label in row.labels])
    y = np.array([label for row in fitted for label in row.labels])
    taken = np.unique(np.linspace(0, len(y) - 1, min(max_positions, len(y))).astype(int))
    acc: list[Check] = []
    macro_f1: list[float] = []

    def done() -> Probes:
        majority = float(np.unique(gold, return_counts=True)[1].max() / len(gold))
        n = len(macro_f1)
        return Probes(tuple(sites[:n]), tuple(acc[:n]), tuple(macro_f1), majority, len(taken))

    with progress_bar(total=len(fitted) + len(asked) + len(sites), show=progress) as bar:
        x = _read(model, fitted, sites, batch_size, bar)
        x_test = _read(model, asked, sites, batch_size, bar)
        try:
            for site in sites:
                probe = make_pipeline(
                    StandardScaler(), LogisticRegression(C=strength, max_iter=300)
                )
                with warnings.catch_warnings():  # a probe need not reach its optimum
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    probe.fit(x[site][taken], y[taken])
                given = probe.predict(x_test[site])
                acc.append(accuracy(asked, given == gold))
                macro_f1.append(float(f1_score(gold, given, average="macro", zero_division=0.0)))  # type: ignore[arg-type]
                bar.update(1)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted with {len(macro_f1)} of {len(sites)} layers probed: "
                + ("they are in `partial` of this error. " if acc else "nothing is kept. ")
                + "Repeat the same call or command to probe all.",
                partial=done() if macro_f1 else None,
            ) from None
    return done()


def accuracy(rows: Sequence[LabelledRow], right: np.ndarray) -> Check:
    """The share of positions with the right label; the interval resamples texts.

    Args:
        rows: The texts.
        right: Whether each position, text by text, got its label.
    """
    sizes = np.array([len(row.at) for row in rows])
    ends = np.cumsum(sizes)
    cumulated = np.concatenate([[0], np.cumsum(right)])
    sums = (cumulated[ends] - cumulated[ends - sizes]).astype(np.float64)
    kept = sizes > 0
    low, high = bootstrap.ratio_interval(sums[kept, None], sizes[kept])[:, 0]
    value = float(sums.sum() / sizes.sum())
    return Check("accuracy", value, float(low), float(high), int(sizes.sum()), len(rows))


def _read(
    model: nn.Module, rows: Sequence[LabelledRow], sites: list[str], batch_size: int, bar: Any
) -> dict[str, Float[np.ndarray, "place d_model"]]:
    """The residual stream at the positions with a label, in the order of the rows."""
    row = np.repeat(np.arange(len(rows)), [len(one.at) for one in rows])
    at = np.array([place for one in rows for place in one.at])
    ids = [one.ids for one in rows]
    return activations(model, ids, row, at, sites, batch_size=batch_size, bar=bar)
