"""A description of a neuron, and how well it predicts where the neuron fires."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arcee_lab.results import Result, counted
from arcee_lab.sites import unit_name

if TYPE_CHECKING:
    import pandas as pd

_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class JudgeScore:
    """How often a judge that reads a description was right.

    Attributes:
        method: "detection" or "fuzzing".
        hits: Right answers where the answer was yes.
        n_yes: Questions whose answer was yes.
        rejections: Right answers where the answer was no.
        n_no: Questions whose answer was no.
        unread: Questions whose answer could not be read; they count as wrong.
    """

    method: str
    hits: int
    n_yes: int
    rejections: int
    n_no: int
    unread: int = 0

    @property
    def accuracy(self) -> float:
        """Balanced accuracy: the mean of the two shares of right answers. Guessing gives 0.5."""
        if not self.n_yes or not self.n_no:
            return math.nan
        return (self.hits / self.n_yes + self.rejections / self.n_no) / 2

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `accuracy`.

        Wilson's intervals of the two shares, joined by the squares of their half widths (method of
        variance estimates recovery). It takes questions as independent.
        """
        if not self.n_yes or not self.n_no:
            return math.nan, math.nan
        below = above = 0.0
        for right, n in ((self.hits, self.n_yes), (self.rejections, self.n_no)):
            share = right / n
            low, high = wilson(right, n)
            below += (share - low) ** 2
            above += (high - share) ** 2
        return self.accuracy - math.sqrt(below) / 2, self.accuracy + math.sqrt(above) / 2

    @property
    def n(self) -> int:
        """How many questions."""
        return self.n_yes + self.n_no

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.accuracy:.2f} ({low:.2f} to {high:.2f}, N = {self.n})"


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Args:
        right: Successes.
        n: Trials, at least one.

    Example:
        >>> low, high = wilson(5, 10)
        >>> round(low, 3), round(high, 3)
        (0.237, 0.763)
    """
    share, square = right / n, _Z * _Z / n
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, repr=False)
class Description(Result):
    """What a language model wrote about a neuron, and how well it predicts the neuron.

    Attributes:
        layer: Number of the layer.
        unit: Number of the neuron within it.
        text: The description, as the generator gave it; untrusted text.
        generator: Which generator.
        n_shown: Exemplars that it saw.
        scores: Detection and fuzzing on exemplars that it did not see.
        shuffled: The same description judged on exemplars of other neurons of the layer: what a
            description that says nothing of this neuron gets. Empty where the layer has no other
            neuron that fired.
        seconds: How long it all took.
    """

    layer: int
    unit: int
    text: str
    generator: str
    n_shown: int
    scores: tuple[JudgeScore, ...]
    shuffled: tuple[JudgeScore, ...]
    seconds: float

    @property
    def headline(self) -> str:
        """The neuron, its description and the scores, with N."""
        scores = ", ".join(f"{score.method} {score}" for score in self.scores)
        return f"{unit_name(self.layer, self.unit)}: {self.text!r}; {scores}"

    @property
    def reading(self) -> str:
        """How to read the scores."""
        return (
            f"It saw {counted(self.n_shown, 'exemplar')}; the scores are balanced accuracies on "
            "others, where guessing gives 0.5. Shuffled: the same description judged on exemplars "
            "of other neurons."
        )

    def facts(self) -> dict[str, str]:
        """The scores by name, as text."""
        facts = {score.method: str(score) for score in self.scores}
        return facts | {f"{score.method}, shuffled": str(score) for score in self.shuffled}

    def frame(self) -> "pd.DataFrame":
        """One row per score: method, exemplars, balanced accuracy, its interval, counts."""
        import pandas as pd

        rows = [
            (
                score.method,
                exemplars,
                score.accuracy,
                *score.interval,
                score.hits,
                score.n_yes,
                score.rejections,
                score.n_no,
                score.unread,
            )
            for exemplars, scores in (("own", self.scores), ("shuffled", self.shuffled))
            for score in scores
        ]
        columns = ["method", "exemplars", "accuracy", "low", "high"]
        return pd.DataFrame(
            rows, columns=[*columns, "hits", "n_yes", "rejections", "n_no", "unread"]
        )
