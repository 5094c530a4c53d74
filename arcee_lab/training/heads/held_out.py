"""Held-out texts during training: a part of the training texts, and the best epoch on it."""

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from arcee_lab.errors import SavedDamaged, TextError
from arcee_lab.training.heads.labelled import Labelled, part_of

BEST = "best."  # before the names of the best epoch's weights in a saved state
Look = dict[str, int | float]  # "epoch", "step", and the scores of the held-out texts by name
_LOWER = ("nll", "brier", "ece")  # scores of which less is better


def split(data: Labelled, share: float, *, seed: int) -> tuple[Any, Any]:
    """Training texts, and a random part of them that is held out.

    Args:
        data: All texts.
        share: Of them, rounded up.
        seed: Of the draw.

    Returns:
        The texts to train on and the held-out ones, both in their original order.

    Raises:
        TextError: Nothing would be left to train on.
    """
    size = math.ceil(share * len(data))
    if size >= len(data):
        raise TextError(
            f"There are {len(data)} training texts, and {size} would be held out; expected some to "
            "train on. Give more texts, a smaller held_out, or validation texts of their own."
        )
    held = set(random.Random(seed).sample(range(len(data)), size))
    rest = [number for number in range(len(data)) if number not in held]
    return part_of(data, rest), part_of(data, sorted(held))


class KeepBest(TrainerCallback):
    """Scores held-out texts after every epoch, keeps the best weights, and stops early.

    The looks and the best weights are part of the saved state of a run.

    Args:
        every: Steps per epoch.
        score: Gives the scores of the held-out texts by name.
        metric: Which of them decides.
        patience: Epochs without a better score after which training ends; None: never, and the last
            weights are kept.
        trained: Gives the trained parameters by name.
    """

    def __init__(
        self,
        *,
        every: int,
        score: Callable[[], Mapping[str, float]],
        metric: str,
        patience: int | None,
        trained: Callable[[], Mapping[str, Tensor]],
    ):
        self._every, self._score, self._metric = every, score, metric
        self._patience, self._trained = patience, trained
        self.looks: list[Look] = []
        self._best: dict[str, Tensor] = {}

    @property
    def best(self) -> Look:
        """The best look, the first of equals."""
        return max(self.looks, key=lambda look: self._worth(look[self._metric]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks at the held-out texts at the end of an epoch, before the state is saved."""
        if state.global_step % self._every:
            return
        look: Look = {"epoch": len(self.looks) + 1, "step": state.global_step}
        self.looks.append(look | dict(self._score()))
        if self._patience is None:
            return
        if self.best is self.looks[-1]:
            self._keep()
        if len(self.looks) - self.best["epoch"] >= self._patience:
            control.should_training_stop = True

    def restore_best(self) -> None:
        """Puts the weights of the best epoch in place, where early stopping was asked for."""
        if self._best:
            self._place(self._best)

    # ------------------------------------------------------------------ the saved state

    def tensors(self) -> dict[str, Tensor]:
        """The best weights under their names in a saved state: the present ones before a look."""
        if self._patience is None:
            return {}
        found = self._best or self._trained()
        # Copies: two tensors of a safetensors file may not share memory.
        return {BEST + name: one.detach().clone() for name, one in found.items()}

    def check(self, looks: Any, step: int) -> None:
        """Checks the looks of a saved state.

        Raises:
            SavedDamaged: They are not what was written after this step.
        """
        epochs = range(1, step // self._every + 1)
        if not isinstance(looks, list) or len(looks) != len(epochs):
            raise SavedDamaged(f"it does not hold the scores of {len(epochs)} epochs")
        for epoch, look in zip(epochs, looks, strict=True):
            if not isinstance(look, dict) or not all(map(_is_number, look.values())):
                raise SavedDamaged(f"the scores of epoch {epoch} are no numbers")
            wanted = {"epoch": epoch, "step": epoch * self._every}
            if self._metric not in look or look | wanted != look:
                raise SavedDamaged(f"the scores of epoch {epoch} are those of another run")

    def resume(self, looks: list[Look], tensors: Mapping[str, Tensor]) -> None:
        """Goes on from a saved state that was checked.

        Args:
            looks: The scores.
            tensors: All tensors of the state.
        """
        self.looks = looks
        if looks and self._patience is not None:
            self._best = {name: tensors[BEST + name].clone() for name in self._trained()}

    def _keep(self) -> None:
        self._best = {name: one.detach().clone() for name, one in self._trained().items()}

    def _place(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, one in self._trained().items():
                one.copy_(weights[name])

    def _worth(self, value: float) -> float:
        """A score of which more is better; one that is no number is the worst."""
        if math.isnan(value):
            return -math.inf
        return -value if self._metric in _LOWER else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
