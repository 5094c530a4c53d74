"""Models of fp64 that take norms, rotary angles and softmax in fp64 too, not in fp32."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FP32 = ("ArceeRMSNorm", "ArceeRotaryEmbedding", "ArceeAttention")


class _Wide(TorchFunctionMode):
    """Gives fp64 where fp32 is asked for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        func = torch.Tensor.double if func is torch.Tensor.float else func
        kwargs = {name: _wide(x) for name, x in (kwargs or {}).items()}
        return func(*map(_wide, args), **kwargs)


def _wide(x: Any) -> Any:
    return torch.float64 if x is torch.float32 else x


def widen(model: Any) -> None:
    """Changes a model of ours or transformers' Arcee, in place."""
    changed = [module for module in model.modules() if type(module).__name__ in _FP32]
    assert {type(module).__name__ for module in changed} == set(_FP32)
    for module in changed:

        def forward(*args: Any, _narrow: Any = module.forward, **kwargs: Any) -> Any:
            with _Wide():
                return _narrow(*args, **kwargs)

        module.forward = forward
