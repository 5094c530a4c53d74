"""The settings of training a head; the flags of `arcee-lab train-head` are made from them."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from arcee_lab.errors import SettingError
from arcee_lab.runs import bounds
from arcee_lab.runs.arguments import check_fields

TUNED = ("head", "lora", "full")
WEIGHTS = ("none", "balanced")
SHARE = 0.1  # of the training texts, held out where that is needed
RANK = 8  # of LoRA's updates
RATES = {"head": 3e-3, "lora": 3e-4, "full": 1e-4}  # learning rates by what is tuned


def _flag(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text} | more)


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """The settings of training a head.

    Attributes:
        tune: "head" leaves the backbone unchanged; "lora" adds low-rank updates to its matrices and
            merges them at the end; "full" trains all of it.
        epochs: Number of passes over the training texts.
        batch_size: Texts per step.
        learning_rate: Learning rate of AdamW, which decays linearly to 0 after a warm-up over a
            tenth of the steps; by default 3e-3 (head), 3e-4 (LoRA) or 1e-4 (full model).
        lora_rank: Rank of the updates, by default 8; only for "lora".
        class_weights: "balanced" weighs the loss of each label by the inverse of its frequency
            (scikit-learn's rule), "none" counts every label alike.
        patience: Early stopping: training ends after this many epochs without a better score on the
            held-out texts, and the weights of the best epoch are kept. None: all epochs.
        metric: The score that decides which epoch is best; by default "nll" of a sequence head,
            "entity_f1" of a token head ("token_acc" if its labels name no entities), "f1" of a QA
            head.
        calibrate: Whether to divide the logits by a temperature that is fitted on the held-out
            texts (Guo et al., "On Calibration of Modern Neural Networks", 2017).
        held_out: Share of the training texts that is held out for this; 0.1 by default if
            `patience` or `calibrate` asks for it and no other texts are given.
        seed: Random seed of the new head's weights and of the order of texts.

    Raises:
        SettingError: A field is out of range.
    """

    tune: str = _flag("head", "what is trained", choices=TUNED)
    epochs: int = _flag(3, "passes over the training texts", most=bounds.EPOCHS)
    batch_size: int = _flag(16, "texts per step", most=bounds.ROWS)
    learning_rate: float | None = _flag(
        None,
        "learning rate of AdamW (default: 3e-3 for head, 3e-4 for lora, 1e-4 for full)",
        type=float,
        metavar="RATE",
    )
    lora_rank: int | None = _flag(
        None,
        "rank of LoRA's updates, with --tune lora (default: 8)",
        most=bounds.RANK,
    )
    class_weights: str = _flag(
        "none",
        "weights of labels in the loss: balanced is the inverse of their frequency",
        choices=WEIGHTS,
    )
    patience: int | None = _flag(
        None,
        "stop after this many epochs without a better held-out score and keep the best epoch "
        "(default: train all epochs)",
        most=bounds.EPOCHS,
    )
    metric: str | None = _flag(
        None,
        "held-out score that decides which epoch is best, with --patience (default: nll of a "
        "sequence head, entity_f1 or token_acc of a token head, f1 of a QA head)",
        type=str,
        metavar="NAME",
    )
    calibrate: bool = _flag(
        False, "fit a temperature on held-out texts and divide the head's logits by it"
    )
    held_out: float | None = _flag(
        None,
        f"share of the training texts to hold out for --patience and --calibrate (default: {SHARE} "
        "without --validation)",
        type=float,
        metavar="SHARE",
    )
    seed: int = _flag(
        0, "random seed of the head's weights and the order of texts", most=bounds.SEED
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.tune not in TUNED:
            raise SettingError(f"tune={self.tune!r}; expected one of {', '.join(TUNED)}.")
        for one in fields(self):
            value, least = getattr(self, one.name), 0 if one.name == "seed" else 1
            most = one.metadata.get("most")
            if most is not None and value is not None and not least <= value <= most:
                raise SettingError(f"{one.name}={value}; expected from {least} to {most}.")
        if self.lora_rank is not None and self.tune != "lora":
            raise SettingError(
                f"lora_rank={self.lora_rank} has no effect with tune={self.tune!r}; leave it out, "
                "or give tune='lora'."
            )
        if self.class_weights not in WEIGHTS:
            raise SettingError(
                f"class_weights={self.class_weights!r}; expected one of {', '.join(WEIGHTS)}."
            )
        if self.metric is not None and self.patience is None:
            raise SettingError(
                f"metric={self.metric!r} has no effect without patience; give patience=N, or leave "
                "it out."
            )
        if self.held_out is not None and not 0 < self.held_out < 1:
            raise SettingError(f"held_out={self.held_out}; expected between 0 and 1.")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise SettingError(f"learning_rate={self.learning_rate}; expected between 0 and 1.")

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        return RATES[self.tune] if self.learning_rate is None else self.learning_rate

    @property
    def rank(self) -> int:
        """The rank of LoRA's updates that is used."""
        return RANK if self.lora_rank is None else self.lora_rank

    @property
    def needs_held_out(self) -> bool:
        """Whether training asks for held-out texts."""
        return self.patience is not None or self.calibrate or self.held_out is not None

    def settings(self) -> dict[str, Any]:
        """The recipe as JSON values, with the values of the defaults."""
        rank = self.rank if self.tune == "lora" else None
        return asdict(self) | {"learning_rate": self.rate, "lora_rank": rank}
