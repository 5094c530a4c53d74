"""The settings of a training run of the demo: shape, initial weights, stages and seed.

What mattered (see docs/explanation/demo.md): embeddings that start large compared with what the
blocks add, all with one shared mean vector, which does not change a softmax over tied embeddings
and which gives every bias-free layer a constant direction; small down projections; and a higher
loss weight for answers that the left context determines, until the skills are learned. No loss
shows when they are, so a stage ends by a measurement on held-out documents. The last stage weights
all tokens equally.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from arcee_lab.demo import MIX, VERSION
from arcee_lab.errors import SettingError
from arcee_lab.runs import bounds
from arcee_lab.runs.arguments import check_fields, checked


@dataclass(frozen=True)
class Stage:
    """A stage of training with one mix of documents.

    Attributes:
        steps: Most optimiser steps.
        mix: Share of each kind of document.
        answer_weight: Loss weight of tokens that the left context determines (copies, look-ups,
            answers, verdicts); 1 makes the loss a plain mean.
        quiet: Weight of the activity penalty, the mean of relu(u) summed over layers, which reduces
            unnecessary activity.
        until: Skills, each with a share of correct answers on held-out documents; the stage ends
            early once all of them are reached.
    """

    steps: int
    mix: Mapping[str, float]
    answer_weight: float
    quiet: float = 0.0
    until: Mapping[str, float] = field(default_factory=dict)


CONTEXT_FIRST = {
    "copy": 0.16,
    "table": 0.18,
    "passage": 0.18,
    "review": 0.14,
    "clause": 0.16,
    "facts": 0.11,
    "story": 0.03,
    "news": 0.03,
    "brackets": 0.01,
}
ALL_SKILLS = {
    "facts": 0.15,
    "review": 0.23,
    "passage": 0.15,
    "story": 0.15,
    "news": 0.09,
    "table": 0.07,
    "brackets": 0.05,
    "copy": 0.06,
    "clause": 0.05,
}


@dataclass(frozen=True)
class Recipe:
    """All settings of a run of `train`.

    Attributes:
        seed: Random seed of the weights and the documents; the shipped demo has the default.
        d_model: Width of the residual stream.
        d_mlp: ReLU² neurons per layer.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        stages: The stages in order.
        back: How many tokens back the first head of each kv group of layer 0 starts out attending.
        rows: Packed rows per step.
        length: Tokens per row.
        rate: Learning rate after warm-up.
        last_rate: Learning rate at the last step.
        warm_up: Steps until the full rate.
        decay_from: Share of the last stage after which the rate falls linearly.
        look_every: Steps between two evaluations on held-out documents, at which a stage may end.
        bf16: Whether matrix products run in bfloat16.
        world: Version of the demo's world.
    """

    seed: int = 0
    d_model: int = 128
    d_mlp: int = 896
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    stages: tuple[Stage, ...] = (
        Stage(3000, CONTEXT_FIRST, 8.0, until=dict.fromkeys(("copy", "recall", "meaning"), 0.95)),
        Stage(1600, ALL_SKILLS, 6.0),
        Stage(1800, MIX, 1.0, quiet=0.02),
    )
    back: tuple[int, ...] = (1, 2)
    rows: int = 16
    length: int = 128
    rate: float = 3e-3
    last_rate: float = 3e-5
    warm_up: int = 100
    decay_from: float = 0.0
    look_every: int = 25
    bf16: bool = True
    world: str = field(default=VERSION)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("d_model", "d_mlp", "layers", "heads", "kv_heads", "rows", "length"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)}; expected at least 1.")
        if not 0 <= self.seed <= bounds.SEED:
            raise SettingError(f"seed={self.seed}; expected from 0 to {bounds.SEED}.")
        if len(self.back) > self.kv_heads:
            raise SettingError(
                f"back={self.back} needs {len(self.back)} heads with keys of their own, and "
                f"kv_heads is {self.kv_heads}; give at most that many distances."
            )

    @property
    def steps(self) -> int:
        """Most steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def rate_at(self, step: int, starts: Sequence[int]) -> float:
        """Learning rate of a step.

        Args:
            step: Counted from the start of the run.
            starts: First step of each stage begun so far.
        """
        rate = self.rate
        if len(starts) == len(self.stages):
            last = self.stages[-1].steps
            still = self.decay_from * last
            fallen = max(0.0, (step - starts[-1] - still) / max(1.0, last - 1 - still))
            rate += (self.last_rate - self.rate) * fallen
        return rate * min(1.0, (step + 1) / self.warm_up)

    def settings(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return asdict(self)


@checked
def quick(seed: int = 0) -> Recipe:
    """A run of two minutes on one core: more zeros and a lower loss, but not the skills."""
    return Recipe(seed=seed, stages=(Stage(250, MIX, 4.0, quiet=0.05),), decay_from=0.3)
