"""The parts of a decoder layer that are not attention: hook point, norm, RoPE, ReLU² MLP."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from arcee_lab.errors import ModelError
from arcee_lab.model.config import ArceeConfig


class HookPoint(nn.Module):
    """Returns its input. One activation is one hook point: torch hooks and nnsight see its name.

    It has no parameters and no buffers, so checkpoints do not know of it and `torch.compile`
    removes it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` itself, not a copy."""
        return x


class Hooked(nn.Module):
    """A module with hook points, which are plain attributes of it too.

    nn.Module finds a child by a Python function that looks through three dictionaries. For a hook
    point that takes as long as the call itself, and a forward makes some 18 such calls a layer.
    """

    def __setattr__(self, name: str, value: object) -> None:
        """Sets an attribute; nn.Module itself drops the plain one when a child is replaced."""
        super().__setattr__(name, value)  # type: ignore[arg-type]
        if isinstance(value, HookPoint):
            self.__dict__[name] = value


class ArceeRMSNorm(Hooked):
    """RMSNorm with fp32 statistics: `weight * (x * scale)`, `scale = rsqrt(mean(x²) + eps)`.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(
        self, hidden_states: Float[Tensor, "*pos d_model"]
    ) -> Float[Tensor, "*pos d_model"]:
        """Normalises the last axis; returns the dtype of the weight and the input combined."""
        x = hidden_states.to(torch.float32)
        scale = self.hook_scale(
            torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )
        return self.hook_normalized(self.weight * (x * scale).to(hidden_states.dtype))

    def extra_repr(self) -> str:
        """Width and epsilon, as torch's own norms print them."""
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class ArceeRotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position embedding, one table for all layers.

    Source: Su et al., "RoFormer", arXiv:2104.09864; the scaled kinds (linear, dynamic, yarn,
    longrope, llama3) are transformers' own functions.
    """

    inv_freq: Tensor

    def __init__(self, config: ArceeConfig):
        super().__init__()
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.config = config
        rope: dict[str, Any] = dict(config.rope_parameters or {})
        self.rope_type: str = rope["rope_type"]
        if self.rope_type not in ("default", *ROPE_INIT_FUNCTIONS):
            kinds = ", ".join(["default", *sorted(ROPE_INIT_FUNCTIONS)])
            raise ModelError(f"rope_type={self.rope_type!r}; expected one of {kinds}.")
        compute: Callable = (
            self.compute_default_rope_parameters
            if self.rope_type == "default"
            else ROPE_INIT_FUNCTIONS[self.rope_type]
        )
        inv_freq, self.attention_scaling = compute(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    # transformers calls this by name when it initialises or re-materialises the buffers.
    @staticmethod
    def compute_default_rope_parameters(
        config: ArceeConfig, **kwargs
    ) -> tuple[Float[Tensor, " half_d_head"], float]:
        """Returns the unscaled inverse frequencies `theta**(-2i/d_head)` and a scaling of 1."""
        rope: dict[str, Any] = dict(config.rope_parameters or {})
        theta, dim = rope["rope_theta"], config.head_dim
        assert dim is not None  # the config fills it
        exponent = torch.arange(0, dim, 2, dtype=torch.float) / dim
        return 1.0 / (theta**exponent), 1.0

    @dynamic_rope_update
    def forward(
        self, x: Float[Tensor, "batch pos d_model"], position_ids: Int[Tensor, "_ pos"]
    ) -> tuple[Float[Tensor, "_ pos d_head"], Float[Tensor, "_ pos d_head"]]:
        """Returns (cos, sin) in the dtype of `x` for integer positions."""
        freqs = position_ids[..., None].float() * self.inv_freq.to(
            device=x.device, dtype=torch.float
        )
        angles = torch.cat((freqs, freqs), dim=-1)
        cos = angles.cos() * self.attention_scaling
        sin = angles.sin() * self.attention_scaling
        return cos.to(dtype=x.dtype), sin.to(dtype=x.dtype)


class ArceeMLP(Hooked):
    """The ungated ReLU² MLP: `down_proj(relu(up_proj(x))²)`, exact zeros in the middle.

    Source of the activation: So et al., "Primer", arXiv:2109.08668.
    """

    def __init__(self, config: ArceeConfig):
        super().__init__()
        if config.hidden_act != "relu2":
            raise ModelError(
                f"hidden_act={config.hidden_act!r}: arcee_lab's MLP is ReLU² and expects "
                "hidden_act='relu2'. For another activation use transformers' own class."
            )
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(
            config.intermediate_size, config.hidden_size, bias=config.mlp_bias
        )
        self.hook_pre = HookPoint()
        self.hook_relu = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, x: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_model"]:
        """Maps the residual width to itself through d_mlp neurons."""
        pre = self.hook_pre(self.up_proj(x))
        relu = self.hook_relu(torch.relu(pre))
        post = self.hook_post(torch.square(relu))
        return self.down_proj(post)
