"""The block in which every MLP keeps some of its neurons only, and how many those were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.sparsity.sampled.mlp_hooks import at_down
from arcee_lab.sparsity.sampled.mlps import Mlp
from arcee_lab.sparsity.sampled.sample import SampleBatch
from arcee_lab.sparsity.sampled.selection_rules import RULES, Layer


@contextmanager
def truncating(
    found: Sequence[Mlp],
    norms: Float[Tensor, "layer d_mlp"],
    rule: str,
    parameters: Sequence[float] | None,
    *,
    batch: SampleBatch,
    kept: Int[Tensor, " layer"],
    seed: int = 0,
) -> Iterator[None]:
    """Keeps at every token, BOS and padding too, the neurons that a rule chooses.

    Args:
        found: The MLPs.
        norms: ‖w_i‖ of each layer.
        rule: A name of `keeping.RULES`.
        parameters: The rule's parameter in each layer; None keeps everything.
        batch: What is read; of its counted tokens the neurons left are counted.
        kept: Gets, by layer, the neurons that are left and not zero, added.
        seed: Of the random rule.
    """
    draw = torch.Generator(device=batch.ids.device).manual_seed(seed)

    def change(layer: int, a: Tensor, u: Tensor) -> Tensor:
        if parameters is not None:
            chosen = RULES[rule](Layer(a, u, norms[layer], draw), parameters[layer])
            a = a.masked_fill(~chosen, 0.0)
        kept[layer] += ((a != 0) & batch.counted[..., None]).sum()  # indexing would wait here
        return a

    with at_down(found, change):
        yield
