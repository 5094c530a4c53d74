"""How much each neuron of a layer adds along a direction of the residual stream."""

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.errors import SettingError


def attribute_neurons(
    post: Float[Tensor, "*any neuron"],
    down: Float[Tensor, "d_model d_mlp"],
    direction: Float[Tensor, "*some dimension"],
) -> Float[Tensor, "*any neuron"]:
    """What each neuron adds to the residual stream along a direction: `post · (direction @ down)`.

    The MLP's output is `down @ post`, so over neurons these add up to `direction · mlp_out`, and a
    neuron that is off adds exactly 0: only active neurons take part. Sums are in fp32, or fp64
    where an argument is.

    For direct logit attribution the direction is a row of the unembedding times the final norm's
    weight and its scale at that token; `al.neurons.logit_attribution` does so for a text.

    Args:
        post: `relu(u)²` of a layer, `hook_post`.
        down: The layer's `down_proj` weight, adapters included.
        direction: One direction for all tokens, `[d_model]`, or one per token, `[... d_model]`.

    Returns:
        The parts, in the shape of `post`.

    Raises:
        SettingError: Shapes that do not fit together.

    Example:
        >>> import torch
        >>> from arcee_lab.neurons import attribute_neurons
        >>> down = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> attribute_neurons(torch.tensor([[3.0, 1.0]]), down, torch.tensor([1.0, 1.0]))
        tensor([[3., 2.]])
    """
    d_model, d_mlp = down.shape
    if post.shape[-1] != d_mlp or direction.shape[-1] != d_model:
        raise SettingError(
            f"post has {post.shape[-1]} neurons, direction {direction.shape[-1]} dimensions and "
            f"down the shape {list(down.shape)}; expected down to be [d_model, d_mlp] of both."
        )
    tokens, wanted = tuple(post.shape[:-1]), tuple(direction.shape[:-1])
    try:
        fits = torch.broadcast_shapes(tokens, wanted) == tokens
    except RuntimeError:
        fits = False
    if not fits:
        raise SettingError(
            f"direction has the shape {list(direction.shape)} and post {list(post.shape)}; "
            "expected one direction for all tokens, or one per token."
        )
    dtype = torch.promote_types(torch.promote_types(post.dtype, down.dtype), direction.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    with torch.autocast(post.device.type, enabled=False):
        return post.to(dtype) * (direction.to(dtype) @ down.to(dtype))
