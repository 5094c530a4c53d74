"""A pass in which activations are reduced while the model runs, and none is kept."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from arcee_lab.hooks.watch import Watch
from arcee_lab.lens.prompts import Prompts
from arcee_lab.model.anatomy import Anatomy

Take = Callable[[Tensor], None]


class _Pass(Watch):
    """Hands every activation to the function of its site."""

    _opened_by = "al.lens"

    def __init__(self, anatomy: Anatomy, takers: Mapping[str, Take], stop: str):
        super().__init__(anatomy, list(takers), stop=stop)
        self._takers = takers

    def _on_activation(self, name: str, x: Tensor) -> None:
        self._takers[name](x.detach())


def run(anatomy: Anatomy, prompts: Prompts, takers: Mapping[str, Take]) -> None:
    """Runs the model once, up to the last site that is taken; interventions around it act.

    Args:
        anatomy: Of the model.
        prompts: What it reads.
        takers: Canonical names -> what to do with the activation there.
    """
    order = [name for name in anatomy.legend.sites() if name in takers]
    with torch.no_grad(), _Pass(anatomy, {name: takers[name] for name in order}, order[-1]):
        anatomy.model(**prompts.inputs, use_cache=False)


def each(names: list[str], take: Callable[[int, Tensor], None]) -> dict[str, Take]:
    """Takers that are told which of the names they are called for."""
    return {name: partial(take, number) for number, name in enumerate(names)}
