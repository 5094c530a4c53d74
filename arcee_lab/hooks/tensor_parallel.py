"""Tensor parallel: a site of which each rank computes a part, made whole and cut up again.

Under transformers' plan the ranks split the neurons of every MLP and the heads of every attention.
All else, the residual stream and the logits too, is on every rank as it is in one process.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.checks.fsdp import refuse_model_in_4_bit

# The axes that transformers' plan splits; a site has one of them at most.
_SPLIT_AXES = ("d_mlp", "head", "kv_head")


class Shards:
    """How the ranks of one tensor-parallel group split a model's activations.

    A site that is split needs all ranks at once: every rank of the group has to make the same
    calls in the same order, else they wait for each other.

    Args:
        anatomy: Of the model.
        group: The ranks that share it.
    """

    def __init__(self, anatomy: Anatomy, group: dist.ProcessGroup):
        # Lengths, and not the model: what a block kept must not keep that alive.
        self._full = {axis: anatomy.size(axis) for axis in _SPLIT_AXES}
        self._group = group
        self._size = dist.get_world_size(group)
        self._rank = dist.get_rank(group)
        self._sites = anatomy.legend.sites()

    def whole(self, name: str, x: Tensor) -> Tensor:
        """The site's activation as one process computes it; `x` itself where it is not split.

        Gradients flow: what any rank makes of the whole counts for the parts of all.

        Args:
            name: Canonical name of the site.
            x: What this rank computed there, or its gradient.
        """
        axis = next((i for i, a in enumerate(self._sites[name].axes) if a in _SPLIT_AXES), None)
        if axis is None:
            return x
        full = self._full[self._sites[name].axes[axis]]
        if x.shape[axis] == full:
            return x  # another plan than transformers' own may leave it whole
        return _Gather.apply(x, axis, full, self._group)  # type: ignore[return-value]

    def change(self, name: str, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Changes the whole activation and gives this rank's part of it, which has to flow on.

        Args:
            name: Canonical name of the site.
            x: What this rank computed there.
            change: Maps the whole activation to one of the same shape.
        """
        whole = self.whole(name, x)
        changed = change(whole)
        if whole is x:
            return changed
        axis = next(i for i, size in enumerate(x.shape) if size != whole.shape[i])
        return _part(changed, axis, whole.shape[axis], self._size, self._rank)


def shards_of(anatomy: Anatomy) -> Shards | None:
    """How a model's activations are split, or None for a model that one process holds.

    Raises:
        ValueError: For 4-bit weights under FSDP2; see `arcee_lab.model.checks.fsdp`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    refuse_model_in_4_bit(anatomy.model)
    mesh: Any = getattr(anatomy.model, "_device_mesh", None)
    if mesh is None:  # a backbone taken out of its model has only its weights to tell
        weight = anatomy.backbone.get_parameter("layers.0.mlp.up_proj.weight")
        mesh = getattr(weight, "device_mesh", None)
    if mesh is None or "tp" not in (mesh.mesh_dim_names or ()) or mesh["tp"].size() == 1:
        return None
    return Shards(anatomy, mesh.get_group("tp"))


def _chunk(full: int, size: int) -> int:
    """Length of a part, but for the last ones: what torch.chunk and the plan's DTensors take."""
    return -(-full // size)


def _part(whole: Tensor, axis: int, full: int, size: int, rank: int) -> Tensor:
    chunk = _chunk(full, size)
    start = min(rank * chunk, full)
    return whole.narrow(axis, start, min(chunk, full - start)).contiguous()


class _Gather(torch.autograd.Function):
    """Concatenates the parts of all ranks; backward sums what each rank says of the whole."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, full: int, group: dist.ProcessGroup) -> Tensor:
        ctx.split, ctx.group = (axis, full), group
        size = dist.get_world_size(group)
        chunk = _chunk(full, size)
        mine = x.contiguous()
        if x.shape[axis] < chunk:  # the collective wants equal parts
            rest = list(x.shape)
            rest[axis] = chunk - x.shape[axis]
            mine = torch.cat([mine, x.new_zeros(rest)], dim=axis)
        parts = [torch.empty_like(mine) for _ in range(size)]
        dist.all_gather(parts, mine, group=group)
        return torch.cat(parts, dim=axis).narrow(axis, 0, full)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)
        size, rank = dist.get_world_size(ctx.group), dist.get_rank(ctx.group)
        axis, full = ctx.split
        return _part(grad, axis, full, size, rank), None, None, None
