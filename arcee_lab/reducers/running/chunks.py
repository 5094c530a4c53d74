"""Tokens in pieces that fit a cache, so that what an update makes on the way stays small."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Elements of a piece. On a CPU one that stays in its second-level cache is read there again; on a
# GPU a piece has only to be small compared with the activation, and few launches are better.
_CPU, _OTHER = 2**17, 2**24
MOST_TOKENS = 2**24  # fp32 counts ones exactly up to here


def piece_length(x: Float[Tensor, "token width"]) -> int:
    """Tokens of a piece."""
    elements = _CPU if x.device.type == "cpu" else _OTHER
    return min(MOST_TOKENS, max(1, elements // max(1, x.shape[1])))


def pieces(
    x: Float[Tensor, "batch pos *features"],
    token_masks: Bool[Tensor, "*group batch pos"],
    *,
    least: int = 1,
) -> Iterator[tuple[Float[Tensor, "token width"], Bool[Tensor, "*group token"]]]:
    """Cuts activations and their masks along the tokens; features become one axis.

    Args:
        x: The activations.
        token_masks: One mask, or several.
        least: Tokens that a piece has at least, where it costs something by itself.
    """
    flat = x.flatten(0, 1).flatten(1)
    length = max(least, piece_length(flat))
    masks = token_masks.flatten(-2)
    yield from zip(flat.split(length), masks.split(length, dim=-1), strict=True)


def fires(
    x: Float[Tensor, "token width"], out: Float[Tensor, "most width"] | None = None
) -> Float[Tensor, "token width"]:
    """1.0 where a unit is above 0, else 0.0, in fp32; NaN gives 0.

    Args:
        x: Activations.
        out: Room for the answer, of at least as many tokens: one for all pieces stays in the cache.
    """
    # Straight into floats: to compare into booleans and convert takes four times as long.
    if out is None:
        out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    return torch.gt(x, 0, out=out[: len(x)])


def add_ones(
    counts: Int[Tensor, "row bin"], index: Int[Tensor, "token width"], mask: Bool[Tensor, " token"]
) -> None:
    """Counts each value in its bin, in place: a row of counts a unit, or one row for all units."""
    rows, bins = counts.shape
    if rows > 1:
        index = index + bins * torch.arange(rows, device=index.device)
    ones = mask.long()[:, None].expand_as(index).flatten()
    counts.view(-1).scatter_add_(0, index.flatten(), ones)


def wide(device: torch.device) -> torch.dtype:
    """The dtype of sums: fp64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
