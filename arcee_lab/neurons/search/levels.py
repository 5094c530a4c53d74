"""Scores of all units at a few levels of each unit's range, exactly counted in two passes.

A unit says yes where it is above a level, and levels are shares of the range that it has on these
texts. Counts are whole numbers, so F1 at a level is exact; AUPRC is a sum over the levels, a lower
estimate of the exact one, which serves to choose the few units that are scored exactly.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import ModelError
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.neurons.labels.labelled import LabelledTokens
from arcee_lab.neurons.search.streaming import Place, stream

# Activations are squares, so most of what a neuron does is far below its peak.
LEVELS = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
_MOST_BYTES = 2**30  # of counts that are held at a time; more sites take more passes


class Scan(NamedTuple):
    """Scores of all columns: F1 at the best level, and AUPRC over the levels.

    Attributes:
        f1: Of the labels.
        auprc: Of the labels.
        shuffled_f1: The best column's, for each shuffled label.
        shuffled_auprc: The best column's, for each shuffled label.
        shuffled_best: The column with the best F1, for each shuffled label.
    """

    f1: Float[np.ndarray, "label column"]
    auprc: Float[np.ndarray, "label column"]
    shuffled_f1: Float[np.ndarray, "label shuffle"]
    shuffled_auprc: Float[np.ndarray, "label shuffle"]
    shuffled_best: Int[np.ndarray, "label shuffle"]


def passes(places: Sequence[Place], labels: int, shuffles: int) -> list[list[Place]]:
    """The sites whose counts are held together; each group takes one pass, after one for ranges."""
    per_column = len(LEVELS) * labels * (2 + shuffles) * 8
    groups: list[list[Place]] = [[]]
    held = 0
    for place in places:
        size = place.columns * per_column
        if groups[-1] and held + size > _MOST_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(place)
        held += size
    return groups


def scan(
    anatomy: Anatomy,
    places: Sequence[Place],
    tokens: LabelledTokens,
    others: Bool[np.ndarray, "token label shuffle"],
    *,
    batch_size: int,
    bar: Any,
) -> Scan:
    """Scores every column of every site.

    Args:
        anatomy: Of the model.
        places: The sites, in forward order.
        tokens: The texts with their labels.
        others: The shuffled labels.
        batch_size: Windows per forward.
        bar: A progress bar, moved on by one per batch.
    """
    wanted = tokens.wanted
    run = {"batch_size": batch_size, "bar": bar}
    ranges = _Ranges()
    stream(anatomy, places, tokens.windows, wanted, ranges.read, **run)
    labels, shuffles = others.shape[1:]
    all_truth = np.concatenate([tokens.truth[:, :, None], others], axis=2)
    found: list[Any] = []
    first = 0
    for group in passes(places, labels, shuffles):
        counts = _Counts(ranges, all_truth, tokens.asked)
        stream(anatomy, group, tokens.windows, wanted, counts.read, **run)
        for place in group:
            found.append(counts.scores(place.site, first))
            first += place.columns
    f1, auprc, best_f1, best_auprc, best = (list(part) for part in zip(*found, strict=True))
    pick = np.argmax(np.stack(best_f1), axis=0)
    return Scan(
        np.concatenate(f1, axis=1),
        np.concatenate(auprc, axis=1),
        np.max(np.stack(best_f1), axis=0),
        np.max(np.stack(best_auprc), axis=0),
        np.take_along_axis(np.stack(best), pick[None], axis=0)[0],
    )


class _Ranges:
    """The smallest and largest value of each column."""

    def __init__(self) -> None:
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}

    def read(self, site: str, x: Float[Tensor, "token column"], tokens: np.ndarray) -> None:
        low, high = x.amin(0), x.amax(0)
        if site in self.low:
            low = torch.minimum(low, self.low[site])
            high = torch.maximum(high, self.high[site])
        self.low[site], self.high[site] = low, high

    def levels(self, site: str) -> Iterator[Float[Tensor, " column"]]:
        low, high = self.low[site], self.high[site]
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            raise ModelError(
                f"{site} holds NaN or infinite values on these texts; expected finite ones. Check "
                "the checkpoint and the dtype."
            )
        for share in LEVELS:
            yield low + share * (high - low)


class _Counts:
    """How often each column is above each level, and has each label there."""

    def __init__(
        self,
        ranges: _Ranges,
        truth: Bool[np.ndarray, "token label variant"],
        asked: Bool[np.ndarray, "token label"],
    ):
        self._ranges = ranges
        self._shape = truth.shape[1:]
        # One product counts hits of all labels, and the last columns how often a level is passed.
        self._columns = np.concatenate([truth.reshape(len(truth), -1), asked], axis=1)
        self._positives = truth.sum(axis=0)
        self._asked = asked.sum(axis=0)
        self._levels: dict[str, list[Tensor]] = {}
        self._hits: dict[str, Tensor] = {}

    def read(self, site: str, x: Float[Tensor, "token column"], tokens: np.ndarray) -> None:
        if site not in self._levels:
            self._levels[site] = list(self._ranges.levels(site))
            shape = (len(LEVELS), x.shape[1], self._columns.shape[1])
            self._hits[site] = torch.zeros(shape, dtype=torch.int64, device=x.device)
        # fp32 products of zeros and ones are exact below 2^24 tokens, with autocast off.
        goal = torch.from_numpy(self._columns[tokens]).to(x.device, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            for place, level in enumerate(self._levels[site]):
                above = (x > level).to(torch.float32)
                self._hits[site][place] += (above.T @ goal).to(torch.int64)

    def scores(self, site: str, first: int) -> tuple[np.ndarray, ...]:
        """F1 and AUPRC of the labels, and of each shuffled label the best column's, and which."""
        labels, variants = self._shape
        hits = self._hits.pop(site).double()
        above = hits[:, :, labels * variants :, None]  # [level, column, label, 1]
        hits = hits[:, :, : labels * variants].unflatten(2, (labels, variants))
        positives = torch.from_numpy(self._positives).to(hits)
        asked = torch.from_numpy(self._asked).to(hits)[:, None]
        f1 = (2 * hits / (above + positives).clamp(min=1)).amax(0)  # [column, label, variant]
        recall = hits / positives.clamp(min=1)
        precision = hits / above.clamp(min=1)
        gained = recall - torch.cat([recall[1:], torch.zeros_like(recall[:1])])
        auprc = (gained * precision).sum(0) + (1 - recall[0]) * positives / asked.clamp(min=1)
        best = f1.amax(0)
        return (
            f1[:, :, 0].T.cpu().numpy(),
            auprc[:, :, 0].T.cpu().numpy(),
            best[:, 1:].cpu().numpy(),
            auprc.amax(0)[:, 1:].cpu().numpy(),
            first + f1.argmax(0)[:, 1:].cpu().numpy(),
        )
