"""Probes: how well a linear reader of the residual stream tells the labels, layer by layer.

A probe reads what is there to be read, not what the model uses; compare it with the commonest label
and with the head, and see an ablation for use.
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

from arcee_lab.errors import Interrupted, SettingError
from arcee_lab.evals import metrics
from arcee_lab.evals.result import Score
from arcee_lab.heads.batches import in_batches
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.recording.capturing import capture
from arcee_lab.runs.progress import progress_bar
from arcee_lab.training.heads.encoding import Row, encode
from arcee_lab.training.heads.fitting import score_of
from arcee_lab.training.heads.labelled import Labelled
from arcee_lab.views.figures.curves import Line, lines
from arcee_lab.views.figures.figure import Figure
from arcee_lab.views.scale import CATEGORIES

SITES = ("hook_embed", "layers.*.hook_resid_post")
MOST = 5000  # labelled places that a probe is fitted on, evenly taken


@dataclass(frozen=True)
class Probes:
    """The result of `probe_layers`.

    Attributes:
        sites: Where each probe reads, from the embeddings to behind the last layer.
        acc: Accuracy on the test texts, of each.
        macro_f1: Macro-F1, of each.
        majority: Share of the commonest label.
        n_train: Labelled places that each was fitted on.
    """

    sites: tuple[str, ...]
    acc: tuple[Score, ...]
    macro_f1: tuple[float, ...]
    majority: float
    n_train: int

    def frame(self) -> pd.DataFrame:
        """One row a layer; layer 0 is the embeddings, layer L the stream behind L layers."""
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
        """Accuracy by layer with its 95 % interval, beside the commonest label.

        Args:
            dark: For a dark page.
        """
        frame = self.frame()
        layers = frame["layer"].to_numpy(dtype=float)
        curves = [
            Line("probe, 95 %", layers, frame["acc"].to_numpy()),
            Line("commonest label", layers, np.full(len(layers), self.majority), dashed=True, of=0),
        ]
        figure = lines(
            curves,
            x="layers read (0: the embeddings)",
            y="accuracy on held-out texts",
            title=f"What a linear probe reads behind each layer (n = {self.acc[0].n:,})",
            dark=dark,
        )
        (axes,) = figure.axes
        axes.fill_between(
            layers, frame["low"], frame["high"], color=CATEGORIES[0], alpha=0.18, linewidth=0
        )
        axes.set_xticks(layers[:: max(1, len(layers) // 12)])
        return figure

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False, float_format="{:.3f}".format)


def probe_layers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: Labelled,
    test: Labelled,
    *,
    batch_size: int = 8,
    strength: float = 1.0,
    most: int = MOST,
    progress: bool | None = None,
) -> Probes:
    """Fits a linear probe on the residual stream behind every layer.

    A sequence's label is read at its last token, a word's at the word's last token: the places
    where the heads read. A probe is scikit-learn's logistic regression on standardised features.

    Args:
        model: Any Arcee model.
        tokenizer: Its tokenizer.
        train: Labelled texts to fit on.
        test: Held-out texts with the same labels.
        batch_size: Texts a forward.
        strength: The regression's `C`: less is more regular.
        most: Most labelled places to fit on; of more, evenly many are taken.
        progress: Show a bar over texts and layers.

    Returns:
        Accuracy of each layer on the test texts, with its 95 % bootstrap interval, and macro-F1.

    Raises:
        ValueError: The labels differ, or a text does not fit the model.
        Interrupted: A KeyboardInterrupt, for Ctrl-C while probes are fitted; its `partial` holds
            the layers that are done.

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
        raise SettingError(
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
        taken = np.unique(np.linspace(0, len(y) - 1, min(most, len(y))).astype(int))
        acc, macro_f1 = [], []
        try:
            for site in sites:
                probe = make_pipeline(
                    StandardScaler(), LogisticRegression(C=strength, max_iter=300)
                )
                with warnings.catch_warnings():  # a probe need not be at its optimum to be told by
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
    test: Labelled,
    taken: np.ndarray,
) -> Probes:
    return Probes(tuple(sites), tuple(acc), tuple(macro_f1), test.majority, len(taken))


def _by_text(rows: Sequence[Row], given: list[int]) -> list[tuple[int, int]]:
    """(right, asked) of each text, so that a bootstrap draws whole texts."""
    items, start = [], 0
    for row in rows:
        own = given[start : start + len(row.labels)]
        items.append((sum(a == b for a, b in zip(row.labels, own, strict=True)), len(own)))
        start += len(own)
    return items


@torch.no_grad()
def _read(
    anatomy: Anatomy, rows: list[Row], sites: list[str], batch_size: int, bar: Any
) -> dict[str, Float[np.ndarray, "place d_model"]]:
    """The residual stream where the head is asked, in the order of the rows."""
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
