"""Linear probes of the residual stream, layer by layer.

A probe shows what is linearly readable, not what the model uses: compare it with the most common
label and with the trained head, and use an ablation to see what the model uses.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.errors import Interrupted, TextError
from arcee_lab.evals import metrics
from arcee_lab.evals.result import Score
from arcee_lab.heads.batches import in_batches
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.recording.capturing import capture
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar
from arcee_lab.training.heads.encoding import EncodedText, encode
from arcee_lab.training.heads.fitting import score_of
from arcee_lab.training.heads.labelled import LabelledTexts
from arcee_lab.views.figures.curves import Line, lines
from arcee_lab.views.figures.figure import Figure
from arcee_lab.views.scale import CATEGORIES

SITES = ("hook_embed", "layers.*.hook_resid_post")
MAX_POSITIONS = 5000  # labelled positions that a probe is fitted on, evenly spaced


@dataclass(frozen=True, repr=False)
class Probes(Result):
    """The result of `probe_layers`.

    Attributes:
        sites: The hook point that each probe reads, from the embeddings to the last layer.
        acc: Accuracy of each on the test texts.
        macro_f1: Macro-F1 of each on the test texts.
        majority: Fraction of the most common label in the test texts.
        n_train: Labelled positions that each was fitted on.
    """

    sites: tuple[str, ...]
    acc: tuple[Score, ...]
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
                    "n": acc.n,
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
            Line("probe, 95 %", layers, frame["acc"].to_numpy()),
            Line(
                "most common label", layers, np.full(len(layers), self.majority), dashed=True, of=0
            ),
        ]
        figure = lines(
            curves,
            x="layers read (0: the embeddings)",
            y="accuracy on held-out texts",
            title=f"Linear probe after each layer (n = {self.acc[0].n:,})",
            dark=dark,
        )
        (axes,) = figure.axes
        axes.fill_between(
            layers, frame["low"], frame["high"], color=CATEGORIES[0], alpha=0.18, linewidth=0
        )
        axes.set_xticks(layers[:: max(1, len(layers) // 12)])
        return figure

    @property
    def headline(self) -> str:
        """The best layer, in one sentence."""
        best = max(range(len(self.acc)), key=lambda layer: self.acc[layer].value)
        found = self.acc[best]
        return (
            f"linear probes, fitted on {self.n_train:,} positions: the best is after "
            f"{counted(best, 'layer')}, with accuracy {found.value:.3f} ({found.low:.3f} to "
            f"{found.high:.3f}, n = {found.n:,}); the most common label is {self.majority:.3f}"
        )


@checked
def probe_layers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: LabelledTexts,
    test: LabelledTexts,
    *,
    batch_size: int = 8,
    strength: float = 1.0,
    max_positions: int = MAX_POSITIONS,
    progress: bool | None = None,
) -> Probes:
    """Fits a linear probe on the residual stream after every layer.

    A text's label is read at its last token, a word's at the word's last token, which is where the
    heads read. A probe is scikit-learn's logistic regression on standardised features.

    Args:
        model: Any Arcee model.
        tokenizer: Its tokenizer.
        train: Labelled texts to fit on.
        test: Held-out texts with the same labels.
        batch_size: Texts per forward.
        strength: The regression's `C`; smaller values regularise more.
        max_positions: Most labelled positions to fit on; of more, evenly spaced ones are used.
        progress: Show a bar over texts and layers; by default in notebooks and terminals.

    Returns:
        Accuracy of each layer on the test texts, with its 95 % bootstrap interval, and macro-F1.

    Raises:
        TextError: The labels differ, or a text does not fit the model.
        Interrupted: Ctrl-C was pressed while probes are fitted; its `partial` holds the finished
            layers.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.training.heads import probe_layers, read_labelled
        >>> model, tokenizer = al.load("demo")
        >>> train = read_labelled("demo:train", head="token", limit=9)
        >>> test = read_labelled("demo:test", head="token", limit=9)
        >>> len(probe_layers(model, tokenizer, train, test, progress=False).sites)
        5
    """
    if (test.head, test.names) != (train.head, train.names):
        raise TextError(
            f"The test texts have the labels {', '.join(test.names)}, the training texts "
            f"{', '.join(train.names)}; read them with names=train.names."
        )
    anatomy = anatomy_of(model)
    sites = anatomy.resolve(SITES)
    fitted, asked = encode(anatomy, tokenizer, train), encode(anatomy, tokenizer, test)
    with progress_bar(total=len(train) + len(test) + len(sites), show=progress) as bar:
        x = _read(anatomy, fitted, sites, batch_size, bar)
        y = np.array([label for row in fitted for label in row.labels])
        x_test = _read(anatomy, asked, sites, batch_size, bar)
        gold = [label for row in asked for label in row.labels]
        taken = np.unique(np.linspace(0, len(y) - 1, min(max_positions, len(y))).astype(int))
        acc, macro_f1 = [], []
        try:
            for site in sites:
                probe = make_pipeline(
                    StandardScaler(), LogisticRegression(C=strength, max_iter=300)
                )
                with warnings.catch_warnings():  # a probe need not reach its optimum
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    probe.fit(x[site][taken], y[taken])
                given = probe.predict(x_test[site]).tolist()
                score = score_of(metrics.token_acc, _by_text(asked, given))
                macro_f1.append(metrics.macro_f1(list(zip(gold, given, strict=True))))
                acc.append(score)
                bar.update(1)
        except KeyboardInterrupt:
            done = len(acc)
            raise Interrupted(
                f"interrupted with {done} of {len(sites)} layers probed: "
                + ("they are in `partial` of this error. " if done else "nothing is kept. ")
                + "Repeat the same call or command to probe all.",
                partial=_probes(sites[:done], acc, macro_f1[:done], test, taken) if done else None,
            ) from None
    return _probes(sites, acc, macro_f1, test, taken)


def _probes(
    sites: Sequence[str],
    acc: Sequence[Score],
    macro_f1: Sequence[float],
    test: LabelledTexts,
    taken: np.ndarray,
) -> Probes:
    return Probes(tuple(sites), tuple(acc), tuple(macro_f1), test.majority, len(taken))


def _by_text(rows: Sequence[EncodedText], given: list[int]) -> list[tuple[int, int]]:
    """Correct and all labels of each text, so that a bootstrap draws whole texts."""
    items, start = [], 0
    for row in rows:
        own = given[start : start + len(row.labels)]
        items.append((sum(a == b for a, b in zip(row.labels, own, strict=True)), len(own)))
        start += len(own)
    return items


@torch.no_grad()
def _read(
    anatomy: Anatomy, rows: list[EncodedText], sites: list[str], batch_size: int, bar: Any
) -> dict[str, Float[np.ndarray, "place d_model"]]:
    """The residual stream at the positions where a head reads, in the order of the rows."""
    found: dict[str, list[np.ndarray]] = {site: [np.empty(0)] * len(rows) for site in sites}
    for numbers, ids, mask in in_batches(anatomy, [row.ids for row in rows], batch_size=batch_size):
        with capture(anatomy.model, sites) as acts:
            anatomy.backbone(input_ids=ids, attention_mask=mask, use_cache=False)
        for site in sites:
            values = acts[site].float().cpu().numpy()
            for slot, number in enumerate(numbers):
                found[site][number] = values[slot, rows[number].at]
        bar.update(len(numbers))
    return {site: np.concatenate(values) for site, values in found.items()}
