"""How far the pre-activations of a forward in fp64 throughout may be from exact arithmetic.

Every operation enters with its number of roundings, and goes on with the norms of what follows it.
All bounds of vectors are Euclidean, per token. `SAFE` is for the squares of errors.
"""

from typing import Any

import torch
from torch import Tensor

U = 2.0**-53  # a rounding in fp64, as part of the number
SAFE = 1.01  # the errors here are below 1e-4 of what they are errors of


def bounded(reference: Any, ids: Tensor, *, longest: int) -> list[tuple[Tensor, Tensor]]:
    """Per layer (u, bound) of one window, both `[pos, unit]`; u itself is within the bound.

    Args:
        reference: transformers' model, in fp64.
        ids: The window.
        longest: Positions of the longest batch: padding on the left shifts the window in it.
    """
    model, found = reference.model, []
    with torch.no_grad():
        x = model.embed_tokens(ids)
        error = x.new_zeros(len(ids))
        for layer in model.layers:
            y, below = _norm(layer.input_layernorm, x, error)
            written, more = _attention(reference, layer.self_attn, y, below, longest)
            x, error = _sum(x, written, error, more)
            y, below = _norm(layer.post_attention_layernorm, x, error)
            up, down = layer.mlp.up_proj, layer.mlp.down_proj
            u = up(y)
            rounded = _dot(up.in_features) * y.norm(dim=1)
            bound = (below + rounded)[:, None] * up.weight.norm(dim=1)
            found.append((u, bound))
            post = u.relu().square()
            more = of_post(u, bound, U).norm(dim=1)
            x, error = _sum(x, down(post), error, _product(down, post.norm(dim=1), more))
    return found


def of_post(u: Tensor, bound: Tensor, kept: float) -> Tensor:
    """How far relu(u)² may be off, kept with a rounding of `kept`."""
    return 2 * u.relu() * bound + bound.square() + SAFE * (kept + U) * u.relu().square()


def _dot(n: int) -> float:
    """Of a sum of n products in any order, as part of the product of both norms."""
    return SAFE * n * U


def _product(linear: Any, size: Tensor, error: Tensor) -> Tensor:
    """Of `linear(y)`, where y has these norms and errors."""
    weight = linear.weight
    spectral = torch.linalg.matrix_norm(weight, 2)
    return SAFE * (spectral * error + _dot(weight.shape[1]) * weight.norm() * size)


def _sum(x: Tensor, written: Tensor, error: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    total = x + written
    return total, error + more + SAFE * U * total.norm(dim=-1)


def _norm(norm: Any, x: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """x over its root mean square, times the weight.

    The mean of n squares has n + 1 roundings and epsilon one more, of which the inverse root halves
    the effect; that root has 2 of its own, and 2 products follow.
    """
    n = x.shape[-1]
    scale = (x.square().mean(-1) + norm.variance_epsilon).rsqrt()
    y = norm.weight * x * scale[:, None]
    # The derivative of x / rms(x) is at most the scale.
    moved = norm.weight.abs().max() * scale * error
    return y, SAFE * (moved + ((n + 2) / 2 + 4) * U * y.norm(dim=-1))


def _attention(
    reference: Any, attention: Any, y: Tensor, below: Tensor, longest: int
) -> tuple[Tensor, Tensor]:
    """What attention writes, and its bound."""
    size, length = attention.head_dim, len(y)
    causal = torch.ones(length, length, dtype=torch.bool).tril()

    def heads(proj: Any) -> tuple[Tensor, Tensor]:
        """`[head, pos, d_head]` and the bound of each row."""
        states = proj(y).unflatten(-1, (-1, size)).transpose(0, 1)
        weight = proj.weight.unflatten(0, (-1, size))
        spectral = torch.linalg.matrix_norm(weight, 2)[:, None]
        rounded = _dot(weight.shape[-1]) * weight.flatten(1).norm(dim=1)[:, None]
        bound = SAFE * (spectral * below + rounded * y.norm(dim=-1))
        repeats = reference.config.num_attention_heads // len(states)
        return states.repeat_interleave(repeats, 0), bound.repeat_interleave(repeats, 0)

    def rotated(states: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """An angle is a position times at most 1; cosine and sine have 2 U more, the sum 2."""
        angles = torch.arange(length)[:, None] * reference.model.rotary_emb.inv_freq.double()
        cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
        one, two = states.chunk(2, -1)
        turned = states * cos + torch.cat([-two, one], -1) * sin
        return turned, SAFE * (bound + 2 * (longest + 4) * U * states.norm(dim=-1))

    (q, of_q), (k, of_k) = rotated(*heads(attention.q_proj)), rotated(*heads(attention.k_proj))
    v, of_v = heads(attention.v_proj)
    sizes = q.norm(dim=-1)[..., None], k.norm(dim=-1)[:, None]
    off = of_q[..., None] * sizes[1] + sizes[0] * of_k[:, None] + _dot(size) * sizes[0] * sizes[1]
    scores = (q @ k.mT * size**-0.5).masked_fill(~causal, 0)
    # Scaling, the mask's sum, and the difference to the largest, which is at most twice as large.
    off = SAFE * (off.masked_fill(~causal, 0).amax(-1) * size**-0.5)
    off = off + 4 * U * scores.abs().amax(-1)
    pattern = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    # A probability has errors above and below the line: of the scores, and 4 U of an exponential.
    # Its sum, the division and the sum of values follow, all of positive parts of norms.
    part = torch.expm1(2 * off) + (2 * longest + 10) * U
    mixed = pattern @ of_v[..., None] + part[..., None] * (pattern @ v.norm(dim=-1)[..., None])
    error = SAFE * mixed[..., 0].norm(dim=0)
    z = (pattern @ v).transpose(0, 1).flatten(1)
    return attention.o_proj(z), _product(attention.o_proj, z.norm(dim=-1), error)
