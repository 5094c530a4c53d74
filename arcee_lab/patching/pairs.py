"""Two aligned batches, and a metric read from their logits: what every method here runs on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import find_positions
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.recording.capturing import capture

Metric = Callable[[Tensor], Tensor]
Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Pairs:
    """Pairs of sequences of the same layout, and where a metric looks.

    Attributes:
        anatomy: Of the model.
        base: Inputs of the run that is changed.
        source: Inputs of the run that activations come from.
        real: Which tokens are attended, in both.
        metric: Logits -> one number per pair.
        where: Of each pair, the column of the token whose logits the metric gets, on the CPU;
            None: it gets the logits of all tokens, or of a sequence head.
    """

    anatomy: Anatomy
    base: dict[str, Tensor]
    source: dict[str, Tensor]
    real: Bool[Tensor, "pair pos"]
    metric: Metric
    where: Tensor | None

    @classmethod
    def read(
        cls, anatomy: Anatomy, base: Batch, source: Batch, metric: Metric, at: int | None
    ) -> "Pairs":
        """Checks two batches against each other.

        Raises:
            ValueError: If they are not aligned, or a sequence has no token `at`.
        """
        if not callable(metric):
            raise SettingError(
                f"The metric must be a function of logits, e.g. LogitDifference; got {metric!r}."
            )
        if anatomy.legend.head == "base":
            raise SettingError(
                "The metric reads logits, and this model has no head; load it with head='causal' "
                "or another."
            )
        changed, other = _inputs(base, "base"), _inputs(source, "source")
        shape, other_shape = (list(run["input_ids"].shape) for run in (changed, other))
        if shape != other_shape:
            raise SettingError(
                f"base is {shape} tokens and source {other_shape}; pairs are patched token by "
                "token and need the same shape. Pad both alike, or use texts of one length."
            )
        real = changed["attention_mask"].bool()
        if not torch.equal(real, other["attention_mask"].bool()):
            raise SettingError(
                "base and source attend different tokens; pairs are patched token by token and "
                "need the same attention_mask."
            )
        return cls(anatomy, changed, other, real, metric, _where(anatomy, real, at))

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return len(self.real)

    def run(self, which: str, copies: int = 1) -> Tensor:
        """Logits of the base or the source, `[copies * pair, ...]`, pairs innermost."""
        inputs = getattr(self, which)
        if copies > 1:
            inputs = {name: x.repeat(copies, 1) for name, x in inputs.items()}
        kept = {} if self._kept is None else {"logits_to_keep": self._kept}
        with capture(self.anatomy.model, "hook_logits", grad=torch.is_grad_enabled()) as acts:
            self.anatomy.model(**inputs, **kept, use_cache=False)
        return acts["hook_logits"]

    def measure(self, logits: Tensor) -> Float[Tensor, "copy pair"]:
        """The metric of each copy, from what `run` gave.

        Raises:
            ValueError: If it is not one number per pair.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = logits.unflatten(0, (-1, self.count))
        if self.where is not None:
            kept = self._kept
            column = self.where if kept is None else torch.searchsorted(kept, self.where)
            rows = torch.arange(self.count, device=logits.device)
            logits = logits[:, rows, column.to(logits.device)]
        # With a model on several devices logits need not be where the tokens are.
        return torch.stack([self._one(one) for one in logits]).to(self.real.device)

    def _one(self, logits: Tensor) -> Tensor:
        value = self.metric(logits)
        if not isinstance(value, Tensor) or value.shape != (self.count,):
            is_tensor = isinstance(value, Tensor)
            got = f"shape {list(value.shape)}" if is_tensor else type(value).__name__
            raise SettingError(
                f"The metric must give one number per pair, a tensor [{self.count}]; got {got} for "
                f"logits {list(logits.shape)}."
            )
        return value

    @property
    def _kept(self) -> Tensor | None:
        """The columns whose logits are computed; None: all, where a model knows no choice."""
        if self.where is None or self.anatomy.legend.head != "causal":
            return None
        return self.where.unique()


def _inputs(batch: Batch, what: str) -> dict[str, Tensor]:
    known = {"input_ids", "attention_mask"}
    if not isinstance(batch, Mapping) or "input_ids" not in batch or set(batch) - known:
        got = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise SettingError(f"{what} must hold input_ids, and may attention_mask; got {got}.")
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor | None):
        got = ", ".join(f"{name} {type(given).__name__}" for name, given in batch.items())
        raise SettingError(
            f"{what} must hold tensors; got {got}. Call the tokenizer with return_tensors='pt'."
        )
    mask = torch.ones_like(ids) if mask is None else mask
    if ids.ndim != 2 or mask.shape != ids.shape or not ids.numel():
        raise SettingError(
            f"{what} must be [pair, pos]; got input_ids {list(ids.shape)} and attention_mask "
            f"{list(mask.shape)}."
        )
    return {"input_ids": ids, "attention_mask": mask}


def _where(anatomy: Anatomy, real: Tensor, at: int | None) -> Tensor | None:
    if anatomy.legend.head == "sequence":
        if at != -1:
            raise SettingError(f"A sequence head has logits at the last token only; got at={at}.")
        return None
    if at is None:
        return None
    where, found = find_positions((at,), real)
    if not bool(found.all()):
        short = (~found[:, 0]).nonzero().flatten().tolist()
        raise SettingError(f"at={at}: the sequences {short[:4]} have no such attended token.")
    return where[:, 0].cpu()
