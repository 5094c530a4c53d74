"""Scores of the demo, each next to the best possible one, and the table of all of them."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from arcee_lab.errors import SavedDamaged, UnknownName
from arcee_lab.results import Result
from arcee_lab.runs.json_text import read_object
from arcee_lab.runs.storage import write_json

Z = 1.959963985  # two-sided 95 %


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927), which is valid at 0 and 1 too."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = right / n, Z * Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class SkillScore:
    """How often a model was right at one skill.

    Attributes:
        skill: Its name.
        right: Number of correct answers.
        n: Number of questions.
        ceiling: Best possible share of correct answers, exact.
        must: Share that the demo must reach.
        ceiling_here: Share that the best possible reader got right on these documents.
        baseline: Share of a simple reader.
        baseline_name: What the simple reader does.
    """

    skill: str
    right: int
    n: int
    ceiling: float
    must: float
    ceiling_here: float | None = None
    baseline: float | None = None
    baseline_name: str = ""

    @property
    def share(self) -> float:
        """Share of correct answers."""
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return wilson(self.right, self.n)

    @property
    def reached(self) -> bool:
        """Whether the share is at least what it must be."""
        return self.share >= self.must


@dataclass(frozen=True)
class KindLoss:
    """Next-token loss on one kind of document, next to its lower bound.

    Attributes:
        kind: Kind of document.
        loss: Mean loss of the model, in nats per token.
        entropy: Information of the same documents in the mix of kinds, in nats per token: exact for
            each document, the information of its kind (`MIX`) included.
        error: Standard error of loss minus entropy, over documents.
        tokens: Tokens predicted, the end of each document included.
    """

    kind: str
    loss: float
    entropy: float
    error: float
    tokens: int


@dataclass(frozen=True)
class LayerZeros:
    """Zeros of relu² in one layer.

    Attributes:
        layer: Its number.
        zeros: Share of exact zeros over tokens and neurons.
        untrained: The same before training, or None if it was not measured.
        dead: Neurons that never fired.
        rare: Neurons that fired, but on fewer than one token in a thousand.
        neurons: Neurons of the layer.
        tokens: Tokens counted, padding and `<bos>` excluded.
    """

    layer: int
    zeros: float
    untrained: float | None
    dead: int
    rare: int
    neurons: int
    tokens: int


@dataclass(frozen=True, repr=False)
class Scorecard(Result):
    """All measurements of one demo model.

    Attributes:
        scores: Skills of the LM and of the heads.
        losses: Loss by kind of document.
        zeros: Zeros by layer.
        seed: Seed of the held-out documents.
        split: Split they come from.
    """

    scores: tuple[SkillScore, ...]
    losses: tuple[KindLoss, ...]
    zeros: tuple[LayerZeros, ...]
    seed: int
    split: str

    def __getitem__(self, skill: str) -> SkillScore:
        """The score of one skill."""
        found = next((score for score in self.scores if score.skill == skill), None)
        if found is None:
            known = ", ".join(score.skill for score in self.scores)
            raise UnknownName(f"There is no skill {skill!r}; expected one of {known}.")
        return found

    @property
    def missed(self) -> tuple[str, ...]:
        """Skills that are below what they must reach."""
        return tuple(score.skill for score in self.scores if not score.reached)

    def frame(self) -> pd.DataFrame:
        """One row per skill."""
        rows = []
        for score in self.scores:
            low, high = score.interval
            rows.append(
                {
                    "skill": score.skill,
                    "score": score.share,
                    "low": low,
                    "high": high,
                    "n": score.n,
                    "must": score.must,
                    "ceiling": score.ceiling,
                    "ceiling here": score.ceiling_here,
                    "baseline": score.baseline,
                    "reached": score.reached,
                }
            )
        return pd.DataFrame(rows)

    def _ipython_key_completions_(self) -> list[str]:
        return [score.skill for score in self.scores]

    @property
    def headline(self) -> str:
        """How many skills reach their aim, in one sentence."""
        reached = len(self.scores) - len(self.missed)
        return (
            f"{reached} of {len(self.scores)} skills reach their aim on held-out documents "
            f"({self.split} split, seed {self.seed})"
        )

    def save(self, path: str | Path) -> Path:
        """Writes all of it as JSON."""
        return write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Scorecard":
        """Reads what `save` wrote.

        Raises:
            SavedDamaged: The file is missing or damaged.
        """
        raw = read_object(path)
        try:
            return cls(
                scores=tuple(SkillScore(**row) for row in raw["scores"]),
                losses=tuple(KindLoss(**row) for row in raw["losses"]),
                zeros=tuple(LayerZeros(**row) for row in raw["zeros"]),
                seed=raw["seed"],
                split=raw["split"],
            )
        except (KeyError, TypeError) as error:
            raise SavedDamaged(
                f"{path} holds no scores of a demo model ({error}); get the file again."
            ) from error
