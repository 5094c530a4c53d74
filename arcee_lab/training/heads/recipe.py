"""How a head is fitted. The flags of `arcee-lab train-head` are made of these fields."""

from dataclasses import dataclass, field, fields
from typing import Any

from arcee_lab import bounds

TUNED = ("head", "lora", "full")
RATES = {"head": 3e-3, "lora": 3e-4, "full": 1e-4}  # learning rates by what is tuned


def _flag(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text} | more)


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """How a head is fitted.

    Attributes:
        tune: "head" leaves the backbone as it is; "lora" adds low-rank updates to its matrices and
            merges them at the end; "full" trains all of it.
        epochs: Times that the training texts are read.
        batch_size: Texts a step.
        learning_rate: Of AdamW, falling to 0 in a line after a warm-up over a tenth of the steps;
            by default 3e-3 for the head, 3e-4 for LoRA, 1e-4 for the full model.
        lora_rank: Rank of the updates.
        seed: Of the new head's weights and of the order of texts.

    Raises:
        ValueError: A field out of its range.
    """

    tune: str = _flag("head", "what is trained", choices=TUNED)
    epochs: int = _flag(3, "times that the training texts are read", most=bounds.EPOCHS)
    batch_size: int = _flag(16, "texts a step", most=bounds.ROWS)
    learning_rate: float | None = _flag(
        None,
        "of AdamW (default: 3e-3 for the head, 3e-4 for LoRA, 1e-4 for the full model)",
        type=float,
        metavar="RATE",
    )
    lora_rank: int = _flag(8, "rank of LoRA's updates", most=bounds.RANK)
    seed: int = _flag(0, "seed of the head's weights and of the order of texts", most=bounds.SEED)

    def __post_init__(self) -> None:
        if self.tune not in TUNED:
            raise ValueError(f"tune={self.tune!r}; expected one of {', '.join(TUNED)}.")
        for one in fields(self):
            least, most = 0 if one.name == "seed" else 1, one.metadata.get("most")
            if most is not None and not least <= getattr(self, one.name) <= most:
                raise ValueError(
                    f"{one.name}={getattr(self, one.name)}; expected from {least} to {most}."
                )
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate={self.learning_rate}; expected between 0 and 1.")

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        return RATES[self.tune] if self.learning_rate is None else self.learning_rate
