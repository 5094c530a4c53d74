"""A device that computes on CPU memory, in Python, on torch's PrivateUse1; in a process of its own.

A tensor on it holds a CPU tensor that nothing outside of this file sees. Every operation is counted
that makes the host wait for a real device (`READS`), and every one that meets tensors of both
devices (`MIXED`): CUDA refuses most of these, and copies the index of the others.

Not seen: streams and races, pinned memory, graphs of CUDA, kernels of its own, limits of memory.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "computing"
_setup_privateuseone_for_python_backend(NAME)
# A generator without a state: what is drawn for this device is drawn on the CPU.
_module = torch.get_device_module(NAME)
_module.get_rng_state = lambda: torch.zeros(0, dtype=torch.uint8)
_module.set_rng_state = lambda state: None
DEVICE = torch.device(f"{NAME}:0")
getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
READS: Counter[str] = Counter()
MIXED: Counter[str] = Counter()

# The shape or the value of what they give depends on the data: the host waits for it.
_WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::equal",
    "aten::masked_select",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::_unique",
    "aten::_unique2",
    "aten::bincount",
}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_COPIES = {"aten::copy_", "aten::_to_copy", "aten::_copy_from", "aten::to"}


class OnDevice(Tensor):
    """A tensor of the device; `raw` is the CPU tensor that it holds."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=DEVICE,
            requires_grad=False,
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnDevice({self.raw!r})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def tolist(self) -> Any:
        READS["tolist"] += 1
        return self.raw.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {NAME} tensor to numpy; use .cpu() first")


def forget() -> None:
    """Sets both counts to nothing."""
    READS.clear()
    MIXED.clear()


def put(value: Any) -> Any:
    """A tensor, or the tensors of a mapping, on the device."""
    return tree_map(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, value)


def _on(x: object) -> bool:
    return isinstance(x, OnDevice)


def _count(name: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> None:
    if not any(map(_on, tensors)):
        return
    if name in _WAITS:
        READS[name] += 1
    if name in _INDEXING:
        wanted = [x for x in args[1] or () if isinstance(x, Tensor)]
        READS[f"{name} by bools"] += any(x.dtype in (torch.bool, torch.uint8) for x in wanted)
    target = kwargs.get("device")
    if target is not None and torch.device(target).type == "cpu":
        READS["copy to the CPU"] += 1
    if name == "aten::copy_" and not _on(args[0]):
        READS["copy to the CPU"] += 1
    # A CPU tensor without axes goes along as a number.
    strangers = [x for x in tensors if not _on(x) and x.dim() > 0]
    if strangers and name not in _COPIES:
        MIXED[name] += 1  # not raised: an exception inside a backward would end the process


def _plain(x: Any) -> Any:
    if _on(x):
        return x.raw
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x


def _dispatch(func: Any, args: tuple, kwargs: dict) -> Any:
    name = func._schema.name
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    _count(name, args, kwargs, tensors)
    target = kwargs.get("device")
    away = target is not None and torch.device(target).type != NAME
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    if plain_kwargs.get("pin_memory"):
        plain_kwargs["pin_memory"] = False
    result = func(*plain_args, **plain_kwargs)
    if away:
        return result
    if name == "aten::copy_":
        return args[0]
    # In-place and out= variants give the tensor back that they were given.
    same = {id(x.raw): x for x in tensors if _on(x)}  # type: ignore[attr-defined]

    def wrap(x: Any) -> Any:
        return (same.get(id(x)) or OnDevice(x)) if isinstance(x, Tensor) else x

    return tree_map(lambda x: same[id(x)] if id(x) in same else wrap(x), result)


_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda op, *args, **kwargs: _dispatch(op, args, kwargs), "PrivateUse1")


def wrap_constructors() -> None:
    """Has torch.tensor, as_tensor, asarray and Generator know the device, as they do a real one.

    After a model is loaded: stock transformers would read garbage frequencies of RoPE.
    """
    for name in ("tensor", "as_tensor", "asarray"):
        setattr(torch, name, _builds(getattr(torch, name)))
    torch.Generator = _Generator  # type: ignore[misc]


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        device = torch.device(device)
        return super().__new__(cls, device="cpu" if device.type == NAME else device)


def _builds(plain: Any) -> Any:
    def build(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is None or torch.device(device).type != NAME:
            return plain(*args, **kwargs)
        kwargs.pop("device")
        if _on(args[0]):
            return args[0] if not kwargs else args[0].to(**kwargs)
        grad = kwargs.pop("requires_grad", False)
        return OnDevice(plain(*args, **kwargs)).requires_grad_(grad)

    return build
