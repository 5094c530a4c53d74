"""The demo on the CPU and on the computing device, and what two results differ by."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import computing
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import arcee_lab as al

TEXTS = ["The lamp above the doors finds the red king.", "The horses sleep."]


@cache
def loaded(head: str, attn: str) -> tuple[nn.Module, Any]:
    return al.load("demo", head=head, attn=attn)


@cache
def moved(head: str, attn: str) -> nn.Module:
    model = copy.deepcopy(loaded(head, attn)[0]).to(computing.NAME)
    model.tie_weights()  # a wrapper cannot take a parameter's place, as a tensor of CUDA does
    return model


@dataclass
class Lab:
    """One of the two devices, and a folder of its own."""

    device: str
    folder: Path

    def model(self, head: str = "causal", attn: str = "eager") -> Any:
        there = self.device != "cpu"
        return moved(head, attn) if there else loaded(head, attn)[0]

    @property
    def tokenizer(self) -> Any:
        return loaded("causal", "eager")[1]

    def put(self, value: Any) -> Any:
        return computing.put(value) if self.device != "cpu" else value

    def batch(self, texts: list[str] = TEXTS) -> dict[str, Tensor]:
        return self.put(dict(self.tokenizer(texts, return_tensors="pt", padding=True)))


Read = Callable[[], Any]  # gives the values, after the counts were taken


def leaves(value: Any) -> list[Any]:
    """The numbers, texts and tensors of a nested value, in order."""
    if isinstance(value, computing.OnDevice):
        return [value.raw.detach()]
    if isinstance(value, Tensor):
        return [value.detach()]
    if isinstance(value, np.ndarray):
        numbers = value.dtype.kind in "fiub"
        return [torch.from_numpy(value.copy())] if numbers else leaves(value.tolist())
    if isinstance(value, pd.DataFrame):
        return leaves({str(name): value[name].to_numpy() for name in value})
    if isinstance(value, Mapping):
        return [leaf for key in value for leaf in [str(key), *leaves(value[key])]]
    if isinstance(value, list | tuple):
        return [leaf for one in value for leaf in leaves(one)]
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name))]
    return [torch.tensor(value)] if isinstance(value, bool | int | float) else [value]


def difference(got: list[Any], want: list[Any]) -> float:
    """Largest norm of a difference, relative to the norm of what is expected; NaN equals NaN."""
    assert len(got) == len(want), f"{len(got)} values; expected {len(want)}"
    worst = 0.0
    for mine, theirs in zip(got, want, strict=True):
        if not isinstance(theirs, Tensor):
            assert mine == theirs, f"{mine!r}; expected {theirs!r}"
            continue
        assert mine.shape == theirs.shape, f"{mine.shape}; expected {theirs.shape}"
        assert mine.dtype == theirs.dtype, f"{mine.dtype}; expected {theirs.dtype}"
        a, b = mine.double(), theirs.double()
        same = (a == b) | (a.isnan() & b.isnan())
        if not bool(same.all()):
            gap = float((a - b)[~same].norm() / b[~b.isnan()].norm().clamp_min(1e-30))
            worst = max(worst, gap if gap == gap else float("inf"))
    return worst
