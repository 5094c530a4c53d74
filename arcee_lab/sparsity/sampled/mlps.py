"""Any ungated ReLU or ReLU² MLP as (up, act, down), no matter who built it and how it is named.

    a = act(up(x))        y = down(a)        act(u) = relu(u)² or relu(u)

Our Arcee is one; of transformers' models Nemotron, NanoChat, Jais2, Persimmon and OPT are others. A
gated MLP (such as SwiGLU) multiplies two projections, so a zero of its activation means something
else: it is refused. So is a mixture of experts: a routed expert sees some tokens only, and what it
does at the others is no zero.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ReLUSquaredActivation

from arcee_lab.errors import ModelError
from arcee_lab.model.layers import ArceeMLP
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.runs.arguments import checked


@dataclass(frozen=True, eq=False)
class Mlp:
    """One MLP.

    Attributes:
        layer: Its number among the MLPs of the model, from 0.
        name: Its path in the model.
        up: The projection to the neurons; a hook on it sees x, the MLP's input.
        down: The projection back; a hook on it sees a, the activations that flow on, and y.
        squared: Whether the activation is relu(u)² (else relu(u)).
    """

    layer: int
    name: str
    up: Any
    down: Any
    squared: bool

    def act(self, u: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The activation function."""
        r = torch.relu(u)
        return torch.square(r) if self.squared else r

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.up.in_features

    @property
    def d_mlp(self) -> int:
        """Neurons."""
        return self.up.out_features

    def up_weight(self) -> Float[Tensor, "d_mlp d_model"]:
        """What each neuron reads, with its adapters, dequantised where need be."""
        return effective_weight(self.up)

    def down_weight(self) -> Float[Tensor, "d_model d_mlp"]:
        """What each neuron writes: column i is w_i. With adapters, dequantised where need be."""
        return effective_weight(self.down)

    def write_norms(self) -> Float[Tensor, " d_mlp"]:
        """‖w_i‖, in fp32: a neuron's share of the output is a_i w_i."""
        weight = self.down_weight().detach()
        # vector_norm accumulates in the dtype asked for and copies nothing, but narrows nothing.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.linalg.vector_norm(weight, dim=0, dtype=dtype).float()


@checked
def mlps(model: nn.Module) -> list[Mlp]:
    """The MLPs of a model, from the first layer to the last.

    An MLP is a module with two linear children, one to the neurons and one back, and a ReLU or
    ReLU² between them.

    Args:
        model: Any torch model, also a wrapped one.

    Raises:
        ValueError: An MLP is gated or a routed expert, its activation is another, the widths
            differ, or there is none.

    Example:
        >>> import arcee_lab as al
        >>> model, _ = al.load("demo")
        >>> [(mlp.layer, mlp.name) for mlp in al.sparsity.mlps(model)][0]
        (0, 'model.layers.0.mlp')
    """
    model = unwrap(model)
    found = []
    for name, module in model.named_modules():
        _refuse_experts(name, module)
        parts = _parts(name, module)
        if parts is not None:
            up, down, squared = parts
            found.append(Mlp(len(found), name, up, down, squared))
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no ungated ReLU or ReLU² MLP; expected modules with two "
            "linear layers and relu or relu2 between them."
        )
    widths = sorted({mlp.d_mlp for mlp in found})
    if len(widths) > 1:
        raise ModelError(
            f"the MLPs of {type(model).__name__} have {widths} neurons; expected one width."
        )
    return found


def _refuse_experts(name: str, module: nn.Module) -> None:
    """Refuses routed experts, stacked in parameters `[expert, out, in]` or listed as modules."""
    stacked = [p for p in module.parameters(recurse=False) if p.ndim == 3]
    is_list = isinstance(module, nn.ModuleList) and len(module) > 1
    listed = is_list and name.rsplit(".", 1)[-1] == "experts"
    if len(stacked) >= 2 or listed:
        raise ModelError(
            f"{name} ({type(module).__name__}) holds routed experts, each of which sees some "
            "tokens only; expected MLPs that every token goes through. Measure a dense model."
        )


def _parts(name: str, module: nn.Module) -> tuple[Any, Any, bool] | None:
    """(up, down, squared) where the module is an MLP, else None."""
    if isinstance(module, ArceeMLP):
        return module.up_proj, module.down_proj, True
    children = [child for _, child in module.named_children()]
    linear: list[Any] = [child for child in children if _is_linear(child)]
    acts = [child for child in children if _is_activation(child)]
    if len(acts) != 1 or len(linear) < 2:
        return None
    kind = type(acts[0]).__name__
    if len(linear) > 2:
        raise ModelError(
            f"{name} ({type(module).__name__}) has {len(linear)} linear layers around its {kind}: "
            "it is gated. Expected an ungated relu or relu2 MLP, down(act(up(x)))."
        )
    if not isinstance(acts[0], nn.ReLU | ReLUSquaredActivation):
        raise ModelError(
            f"{name} ({type(module).__name__}) has the activation {kind}, which gives no exact "
            "zeros; expected relu or relu2."
        )
    up, down = linear
    if (up.out_features, up.in_features) != (down.in_features, down.out_features):
        return None
    return up, down, isinstance(acts[0], ReLUSquaredActivation)


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def _is_activation(module: nn.Module) -> bool:
    home = type(module).__module__
    return home in ("transformers.activations", "torch.nn.modules.activation") and not hasattr(
        module, "in_proj_weight"
    )
