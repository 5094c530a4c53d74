"""Prompts as a batch, and a metric of the logits at the last token of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.errors import ModelError, SettingError
from arcee_lab.model.anatomy import Anatomy

Metric = Callable[..., Any]


@dataclass(frozen=True)
class Prompts:
    """A batch and what is asked of it.

    Attributes:
        batch: `input_ids` and `attention_mask`, both `[prompt, pos]`.
        metric: Logits `[prompt, vocab]` -> one number per prompt.
    """

    batch: dict[str, Tensor]
    metric: Metric

    @classmethod
    def read(cls, batch: Mapping[str, Any], metric: Any, anatomy: Anatomy) -> "Prompts":
        """Checks a batch and a metric.

        Raises:
            ModelError: The model is no language model.
            SettingError: The batch has other fields or shapes, or the metric is no function.
        """
        if anatomy.legend.head != "causal":
            raise ModelError(
                f"the metric reads next-token logits, and {type(anatomy.model).__name__} has none; "
                "load it with head='causal'."
            )
        if not callable(metric):
            raise SettingError(
                "metric must be a function of logits [prompt, vocab], such as "
                f"al.patching.LogitDifference(right, wrong); got {metric!r:.80}."
            )
        return cls(inputs_of(batch, anatomy.model.device), metric)

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    @property
    def attended(self) -> Tensor:
        """Which tokens are real, `[prompt, pos]`."""
        return self.batch["attention_mask"].bool()

    def measure(self, anatomy: Anatomy) -> Float[Tensor, " prompt"]:
        """The metric of each prompt, fp32 or wider; only the last tokens' logits are computed.

        Raises:
            SettingError: The metric does not give one number per prompt.
        """
        device = anatomy.model.device
        inputs = {name: x.to(device) for name, x in self.batch.items()}
        mask = inputs["attention_mask"]
        last = mask.shape[1] - 1 - mask.long().flip(1).argmax(1)
        columns, place = last.unique(return_inverse=True)
        output: Any = anatomy.model(**inputs, logits_to_keep=columns, use_cache=False)
        logits = output.logits[torch.arange(len(place), device=device), place.to(device)]
        value = self.metric(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        if not isinstance(value, Tensor) or value.shape != (len(self),):
            got = (
                f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            )
            raise SettingError(
                f"metric must give one number per prompt, a tensor [{len(self)}]; got {got} for "
                f"logits {list(logits.shape)}."
            )
        return value


def inputs_of(batch: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of a batch, on a device.

    Raises:
        SettingError: Other fields, no tensors, other shapes, or a row without a token.
    """
    known = {"input_ids", "attention_mask"}
    if not isinstance(batch, Mapping) or "input_ids" not in batch or set(batch) - known:
        got = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise SettingError(f"batch must hold input_ids, and may attention_mask; got {got}.")
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor | None):
        raise SettingError(
            "batch must hold tensors; call the tokenizer with return_tensors='pt', padding=True."
        )
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise SettingError(f"batch holds input_ids of {ids.dtype}; expected token ids.")
    mask = torch.ones_like(ids) if mask is None else mask
    if ids.ndim != 2 or mask.shape != ids.shape or not ids.numel():
        raise SettingError(
            f"batch must be [prompt, pos]; got input_ids {list(ids.shape)} and attention_mask "
            f"{list(mask.shape)}."
        )
    if not bool(mask.bool().any(1).all()):
        raise SettingError("batch has a row without an attended token; leave that row out.")
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
