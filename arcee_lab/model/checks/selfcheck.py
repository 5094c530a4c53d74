"""Four tokens, computed twice: by the model, and by arithmetic written from its weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from arcee_lab.errors import ModelError
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.config import ArceeConfig
from arcee_lab.model.layers import ArceeMLP, ArceeRMSNorm
from arcee_lab.model.modeling import ArceeDecoderLayer, ArceeForCausalLM
from arcee_lab.results import Result

if TYPE_CHECKING:
    import pandas as pd

# Largest relative error (norm of the difference by norm of the value) that rounding explains.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.float16: 3e-2, torch.bfloat16: 1.5e-1}


@dataclass(frozen=True, repr=False)
class SelfCheck(Result):
    """Relative errors between the model and plain arithmetic, each a ratio of norms.

    Attributes:
        output: Logits of the LM head, or the final norm's output where there is another head.
        residual: Last `hook_resid_post` against embeddings plus everything the blocks added.
        mlp: Worst layer's `hook_mlp_out` against `down_proj(relu(up_proj(x))²)`.
        tolerance: What rounding in the model's dtype explains.
    """

    output: float
    residual: float
    mlp: float
    tolerance: float

    @property
    def headline(self) -> str:
        """Passed or failed, with the errors and what rounding explains."""
        errors = f"output {self.output:.2g}, residual {self.residual:.2g}, mlp {self.mlp:.2g}"
        verdict = "passed" if self.passed else "failed"
        return f"{verdict}: relative errors {errors}; tolerance {self.tolerance:.2g}"

    def frame(self) -> "pd.DataFrame":
        """One row per comparison: what, error, tolerance."""
        import pandas as pd

        errors = {"output": self.output, "residual": self.residual, "mlp": self.mlp}
        rows = [(what, error, self.tolerance) for what, error in errors.items()]
        return pd.DataFrame(rows, columns=["what", "error", "tolerance"])

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance (a NaN does not)."""
        return all(e <= self.tolerance for e in (self.output, self.residual, self.mlp))


def self_check(model: nn.Module) -> SelfCheck | None:
    """Runs four tokens through the model and through arithmetic written from its weights.

    The arithmetic is functional and in float32: it calls no module of the model, so a wrong
    module, a wrong mask or a wrong rotation shows.

    Args:
        model: One of arcee_lab's models, with weights.

    Returns:
        The errors; `None` where weights cannot be read as plain tensors (quantised linears,
        offloaded or sharded parameters, the meta device).

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.model.checks.selfcheck import self_check
        >>> self_check(al.load("demo")[0]).passed
        True
    """
    anatomy = anatomy_of(model)
    if not _is_plain(anatomy):
        return None
    with torch.no_grad(), torch.autocast(anatomy.model.device.type, enabled=False):
        return _compare(anatomy)


def require_self_check(model: nn.Module) -> SelfCheck | None:
    """Runs the self-check and raises if it fails.

    Returns:
        What `self_check` gives.

    Raises:
        ValueError: With the errors that were found.
    """
    result = self_check(model)
    if result is not None and not result.passed:
        raise ModelError(
            f"The model does not compute what its weights say: {result}. Please report it "
            "with your versions; al.load(..., check=False) loads the model all the same."
        )
    return result


def _is_plain(anatomy: Anatomy) -> bool:
    linears = [
        projection
        for layer in _layers(anatomy)
        for projection in (
            *(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            *(layer.self_attn.o_proj, layer.mlp.up_proj, layer.mlp.down_proj),
        )
    ]
    return all(type(linear) is nn.Linear for linear in linears) and all(
        type(p) in (nn.Parameter, Tensor)
        and type(p.data) is Tensor
        and p.is_floating_point()
        and not p.is_meta
        for p in anatomy.model.parameters()
    )


def _compare(anatomy: Anatomy) -> SelfCheck:
    model, backbone = anatomy.model, anatomy.backbone
    device = backbone.embed_tokens.weight.device
    ids = torch.linspace(3, model.config.vocab_size - 1, 4, device=device).long()[None]
    final = "hook_logits" if anatomy.legend.head == "causal" else "norm.hook_normalized"
    names = anatomy.resolve(
        [
            "hook_embed",
            "*.hook_attn_out",
            "*.hook_mlp_out",
            "*.hook_resid_post",
            "layers.*.post_attention_layernorm.hook_normalized",
            final,
        ]
    )
    seen: dict[str, Tensor] = {}
    handles = [
        anatomy.hook_point(n).register_forward_hook(lambda m, a, out, n=n: seen.update({n: out}))
        for n in names
    ]
    training = model.training
    model.eval()
    try:
        # A backbone call suffices for a classification head: its scores are one linear map further.
        (model if anatomy.legend.head == "causal" else backbone)(input_ids=ids, use_cache=False)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    seen = {name: x.float().to(device) for name, x in seen.items()}
    added = [x for name, x in seen.items() if name.endswith(("hook_attn_out", "hook_mlp_out"))]
    last = seen[f"layers.{len(backbone.layers) - 1}.hook_resid_post"]
    mlp = max(
        _error(
            seen[f"layers.{i}.hook_mlp_out"],
            _mlp(layer.mlp, seen[f"layers.{i}.post_attention_layernorm.hook_normalized"]),
        )
        for i, layer in enumerate(_layers(anatomy))
    )
    return SelfCheck(
        output=_error(seen[final], _forward(anatomy, ids)),
        residual=_error(last, seen["hook_embed"] + sum(added)),
        mlp=mlp,
        tolerance=TOLERANCE.get(model.dtype, 1e-4),
    )


def _error(got: Tensor, expected: Tensor) -> float:
    scale = expected.norm().clamp_min(1e-30)
    return float((got - expected).norm() / scale)


def _linear(x: Tensor, module: nn.Linear) -> Tensor:
    weight, bias = module.weight.float().to(x.device), module.bias
    y = torch.einsum("...i,oi->...o", x, weight)
    return y if bias is None else y + bias.float().to(x.device)


def _mlp(module: ArceeMLP, x: Float[Tensor, "batch pos d_model"]) -> Tensor:
    return _linear(_linear(x, module.up_proj).clamp_min(0) ** 2, module.down_proj)


def _norm(x: Tensor, module: ArceeRMSNorm) -> Tensor:
    mean_square = (x * x).mean(dim=-1, keepdim=True)
    return x / (mean_square + module.variance_epsilon).sqrt() * module.weight.float().to(x.device)


def _rotation(config: ArceeConfig, length: int, device: torch.device) -> tuple[Tensor, float]:
    """Angles `[pos, d_head / 2]` and the scale of the rotated vectors."""
    rope: dict[str, Any] = dict(config.rope_parameters or {})
    head_dim = config.head_dim
    assert head_dim is not None  # the config fills it
    scale = 1.0
    if rope["rope_type"] == "default":
        half = torch.arange(head_dim // 2, device=device, dtype=torch.float32)
        frequency = rope["rope_theta"] ** (-2 * half / head_dim)
    else:
        frequency, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, device, seq_len=length)
    positions = torch.arange(length, device=device, dtype=torch.float32)
    return positions[:, None] * frequency.float()[None, :], scale


def _rotate(x: Float[Tensor, "batch pos n d_head"], angles: Tensor, scale: float) -> Tensor:
    """Turns each pair (i, i + d_head/2) as a complex number."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half], x[..., half:])
    turned = pairs * torch.polar(torch.full_like(angles, scale), angles)[None, :, None, :]
    return torch.cat([turned.real, turned.imag], dim=-1)


def _forward(anatomy: Anatomy, ids: Int[Tensor, "batch pos"]) -> Tensor:
    """The whole model as arithmetic on its weights, in float32."""
    backbone, config = anatomy.backbone, anatomy.model.config
    head_dim, kv_heads = config.head_dim, config.num_key_value_heads
    assert head_dim is not None  # the config fills both
    assert kv_heads is not None
    x = backbone.embed_tokens.weight[ids].float()
    length, groups = ids.shape[1], config.num_attention_heads // kv_heads
    angles, scale = _rotation(config, length, x.device)
    future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    for layer in _layers(anatomy):
        attention = layer.self_attn
        normed = _norm(x, layer.input_layernorm)
        q, k, v = (
            _linear(normed, p).unflatten(-1, (-1, head_dim))
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q = _rotate(q, angles, scale).unflatten(2, (-1, groups))  # batch pos kv_head group d_head
        k = _rotate(k, angles, scale)
        scores = torch.einsum("bqkgd,bskd->bkgqs", q, k) / head_dim**0.5
        pattern = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        z = torch.einsum("bkgqs,bskd->bqkgd", pattern, v).flatten(2)
        x = x + _linear(z, attention.o_proj)
        x = x + _mlp(layer.mlp, _norm(x, layer.post_attention_layernorm))
    x = _norm(x, backbone.norm)
    return _linear(x, anatomy.model.lm_head) if isinstance(anatomy.model, ArceeForCausalLM) else x


def _layers(anatomy: Anatomy) -> list[ArceeDecoderLayer]:
    return list(anatomy.backbone.layers)  # type: ignore[arg-type]
