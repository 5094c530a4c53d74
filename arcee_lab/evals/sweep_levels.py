"""Levels of a sweep: how many MLP neurons are kept, and by which rule."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from arcee_lab.errors import SettingError
from arcee_lab.interventions import Ablate, Cett, Intervention, TopK
from arcee_lab.model.anatomy import anatomy_of

POST = "layers.*.mlp.hook_post"


@dataclass(frozen=True)
class Level:
    """Interventions under which a sweep runs the tasks once.

    Attributes:
        family: Name shared by the levels of one curve.
        name: Name of this level.
        interventions: The interventions that act; none for the clean run.
    """

    family: str
    name: str
    interventions: tuple[Intervention, ...] = ()


def top_k(model: nn.Module, ks: Iterable[int] | None = None) -> list[Level]:
    """Keeps the k largest neurons of each token, in every layer.

    Args:
        model: An Arcee model.
        ks: Numbers of neurons; by default the width, which loses nothing, halved down to 1/128.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> [level.name for level in top_k(model)][:3]
        ['k=896', 'k=448', 'k=224']
    """
    width = anatomy_of(model).size("d_mlp")
    chosen = [max(1, width >> half) for half in range(8)] if ks is None else ks
    return [Level("top-k", f"k={k}", (TopK(POST, k),)) for k in dict.fromkeys(chosen)]


def cett(model: nn.Module, eps: Iterable[float]) -> list[Level]:
    """Keeps neurons that add at least eps to the residual stream, in every layer; see `al.Cett`.

    Args:
        model: An Arcee model.
        eps: Thresholds, one per level.
    """
    anatomy_of(model)
    return [Level("CETT", f"eps={one:g}", (Cett(POST, one),)) for one in eps]


def by_layer(model: nn.Module, k: int = 1) -> list[Level]:
    """Keeps the k largest neurons of each token, in one layer at a time.

    Args:
        model: An Arcee model.
        k: Neurons to keep.
    """
    layers = len(anatomy_of(model).backbone.layers)
    return [
        Level("one layer", f"layer {n}, k={k}", (TopK(f"layers.{n}.mlp.hook_post", k),))
        for n in range(layers)
    ]


def random_control(
    model: nn.Module, shares: Sequence[float] = (0.5, 0.25, 0.125, 0.0625), *, seed: int = 0
) -> list[Level]:
    """Keeps a random fraction of each layer's neurons, drawn once, regardless of activations.

    The baseline for `top_k` at the same measured active fraction.

    Args:
        model: An Arcee model.
        shares: Fractions of neurons to keep, above 0 and below 1.
        seed: Random seed; smaller fractions keep a subset of what larger ones keep.

    Raises:
        SettingError: A fraction is outside of (0, 1).
    """
    anatomy = anatomy_of(model)
    width, layers = anatomy.size("d_mlp"), len(anatomy.backbone.layers)
    source = random.Random(seed)
    orders = [source.sample(range(width), width) for _ in range(layers)]
    levels = []
    for share in shares:
        if not 0 < share < 1:
            raise SettingError(f"shares has {share}; expected numbers between 0 and 1.")
        keep = max(1, round(share * width))
        cut = tuple(
            Ablate(f"layers.{n}.mlp.hook_post", units=sorted(order[keep:]))
            for n, order in enumerate(orders)
        )
        levels.append(Level("random neurons", f"{share:.2%} kept", cut))
    return levels
