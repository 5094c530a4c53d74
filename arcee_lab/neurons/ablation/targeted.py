"""`ablate_target`: what a class, tag or answer loses when neurons are taken out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.bootstrap import ratio_interval
from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import PaddedBatch
from arcee_lab.errors import SettingError
from arcee_lab.heads.targets import Given, Target, target_of
from arcee_lab.interventions import intervene
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.neurons.ablation._ablate import WINDOWS, token_numbers
from arcee_lab.neurons.ablation.named import Neuron, sets_of
from arcee_lab.neurons.ablation.replaced import HOW, Values, replacements
from arcee_lab.neurons.search.streaming import device_of
from arcee_lab.results import Result, counted
from arcee_lab.runs.progress import progress_bar


@dataclass(frozen=True, repr=False)
class TargetAblations(Result):
    """What a target is without neurons, each set on its own.

    Attributes:
        sets: The neurons of each set.
        how: "zero", "mean" or "resample".
        target: What was read, e.g. "good - bad".
        base: The target of the model as it is.
        values: The target with each set taken out.
    """

    sets: tuple[tuple[Neuron, ...], ...]
    how: str
    target: str
    base: Float[np.ndarray, " text"]
    values: Float[np.ndarray, "set text"]

    @property
    def change(self) -> Float[np.ndarray, " set"]:
        """Mean over the texts of what the target changes by."""
        return (self.values - self.base).mean(axis=1)

    @property
    def headline(self) -> str:
        """How many sets and texts, and the largest change."""
        most = int(np.argmax(np.abs(self.change)))
        return (
            f"{counted(len(self.sets), 'ablation')} ({self.how}) on "
            f"{counted(len(self.base), 'text')}: {self.target!r} changes most in number "
            f"{most + 1}, by {self.change[most]:+.3g}"
        )

    def frame(self) -> pd.DataFrame:
        """One row per set: neurons, mean change with its 95 % interval over texts, texts."""
        ones = np.ones(len(self.base), dtype=np.int64)
        low, high = ratio_interval((self.values - self.base).T, ones)
        names = [" ".join(str(neuron) for neuron in some) for some in self.sets]
        return pd.DataFrame(
            {"neurons": names, "change": self.change, "low": low, "high": high, "n": len(ones)}
        )


@torch.no_grad()
def ablate_target(
    model: nn.Module,
    tokenizer: Any,
    units: Any,
    texts: Iterable[str],
    target: Given | Target,
    *,
    versus: Given | None = None,
    at: int = -1,
    how: str = "zero",
    context: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool | None = None,
) -> TargetAblations:
    """How one logit of any head changes when neurons are taken out, one set after another.

    Args:
        model: One of arcee_lab's models with a head.
        tokenizer: Its tokenizer.
        units: As for `al.neurons.ablate`.
        texts: The texts, each with one value of the target.
        target: A label of a sequence or token head, "start" or "end" of a question-answering head,
            or an answer of one token; the same one for all texts.
        versus: What is subtracted, likewise.
        at: The token that is read, counted in each text, negative from its end; a sequence head
            has one row of logits and ignores it.
        how: As for `al.neurons.ablate`.
        context: Longest text in tokens; by default 1024, or what the model can read if less.
        batch_size: Rows of a forward.
        seed: Random seed of "resample".
        progress: Whether to show a bar with forwards on stderr.

    Returns:
        The target of each text, as it is and without each set.

    Raises:
        ModelError: The model has no head.
        SettingError: A neuron, a target or a setting that cannot be used; a text that is longer
            than the context, or too short for `at`.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo", head="sequence")
        >>> texts = [document.prompt for document in al.demo.documents("review", n=4)]
        >>> found = al.neurons.ablate_target(model, tokenizer, [(0, 420)], texts, "good")
        >>> list(found.values.shape)
        [1, 4]
    """
    if how not in HOW:
        raise SettingError(f"how={how!r}; expected one of {', '.join(HOW)}.")
    if batch_size < 2:
        raise SettingError(f"batch_size is {batch_size} rows; expected at least 2.")
    anatomy = anatomy_of(model)
    goal = target_of(anatomy.model, target, versus=versus, tokenizer=tokenizer)
    if goal.examples is not None or goal.spots > 1:
        raise SettingError(
            f"the target {goal.name!r} has an answer per text, or is read at two tokens; expected "
            "one logit for all texts. Take 'start' and 'end' of a span one after the other."
        )
    layers, d_mlp = len(anatomy.backbone.layers), anatomy.size("d_mlp")
    sets = sets_of(units, layers=layers, d_mlp=d_mlp)
    windows = windows_of(anatomy.model, tokenizer, texts, context=context)
    if len(np.unique(windows.documents)) < len(windows):
        raise SettingError("a text is longer than the context; expected one window per text.")
    lengths = np.diff(windows.bounds)
    if not -lengths.min() <= at < lengths.min():
        raise SettingError(
            f"at={at}, and the shortest text has {lengths.min()} tokens; expected a token that "
            "every text has."
        )
    width = min(WINDOWS, len(windows), batch_size)
    copies = max(1, batch_size // width)
    neurons = sorted({neuron for some in sets for neuron in some})
    rounds = -(-len(windows) // width)
    total = rounds * (1 + -(-len(sets) // copies)) + (0 if how == "zero" else rounds)
    base, values = np.zeros(len(windows)), np.zeros((len(sets), len(windows)))
    with progress_bar(show=progress, total=total, unit="forward") as bar:
        given = Values(anatomy, neurons, windows, how=how, seed=seed, batch_size=width, bar=bar)
        for batch in windows.batches(width):
            rows = list(batch.rows)
            place = torch.from_numpy(lengths[rows] + at if at < 0 else np.full(len(rows), at))
            base[rows] = _value(anatomy, goal, batch, place, 1)[0]
            bar.update()
            for start in range(0, len(sets), copies):
                some: Sequence[Any] = sets[start : start + copies]
                with intervene(model, replacements(some, given, token_numbers(windows, batch))):
                    found = _value(anatomy, goal, batch, place, len(some))
                values[start : start + len(some), rows] = found
                bar.update()
    return TargetAblations(sets, how, goal.name, base, values)


def _value(
    anatomy: Anatomy, goal: Target, batch: PaddedBatch, place: Tensor, copies: int
) -> np.ndarray:
    """The target of each copy and row."""
    device = device_of(anatomy)
    output: Any = anatomy.model(
        input_ids=batch.input_ids.to(device).repeat(copies, 1),
        attention_mask=batch.attention_mask.to(device).repeat(copies, 1),
    )
    if goal.head == "qa":
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
    else:
        logits = output.logits
    found = goal.value(logits, place.repeat(copies) if goal.spots else None)
    return found.unflatten(0, (copies, -1)).cpu().double().numpy()
