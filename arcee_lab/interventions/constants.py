"""Tensors as values: compared and hashed by content, written as text without a bit lost."""

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.model.attention import edits_of
from arcee_lab.sites import Legend

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.bool,
    )
}
_MOST_AXES = 8  # of a tensor in a text


class Constant:
    """A tensor that stays as it is: equal and hashed by dtype, shape and content.

    The tensor is kept where it is and not copied, but one that is changed in place later is
    refused. Only comparing, hashing and writing read its numbers.

    Args:
        tensor: Without a gradient.

    Raises:
        ValueError: For a tensor that requires a gradient, since a value has none to give, and for
            complex numbers.
    """

    def __init__(self, tensor: Tensor):
        if tensor.is_complex():
            raise SettingError(f"An intervention holds real numbers; got {tensor.dtype}.")
        if tensor.requires_grad:
            raise SettingError(
                "An intervention holds constants; got a tensor that requires a gradient. detach() "
                "it, or train through it with al.Replace(site, function)."
            )
        if tensor.is_inference():
            with torch.inference_mode(False):
                tensor = tensor.clone()  # such a tensor does not count its edits
        self._tensor = tensor
        self._edits = edits_of(self._tensor)
        self._digest: str | None = None

    @property
    def tensor(self) -> Tensor:
        """The tensor.

        Raises:
            ValueError: If it was changed in place since.
        """
        if edits_of(self._tensor) != self._edits:
            raise SettingError(
                "A tensor given to an intervention was changed in place since; give a clone() of "
                "it, or make the intervention anew."
            )
        return self._tensor

    @property
    def digest(self) -> str:
        """SHA-256 of dtype, shape and content."""
        if self._digest is None:
            tensor = self.tensor
            head = f"{tensor.dtype} {list(tensor.shape)} ".encode()
            self._digest = hashlib.sha256(head + _bytes(tensor)).hexdigest()
        return self._digest

    def require(self, *, what: str, infinite: bool = False) -> "Constant":
        """Returns itself if its numbers are numbers.

        Raises:
            ValueError: For NaN, and for infinities unless they are allowed.
        """
        tensor = self.tensor
        if tensor.is_meta or not tensor.is_floating_point():
            return self
        bad = tensor.isnan() if infinite else ~tensor.isfinite()
        if bool(bad.any()):
            raise SettingError(
                f"{what} holds {int(bad.sum())} values that are NaN"
                f"{'' if infinite else ' or infinite'}; expected numbers only."
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """JSON values that `Constant.from_json` reads back bit for bit."""
        tensor = self.tensor
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in _DTYPES:
            raise SettingError(
                f"A {kind} tensor cannot be written; expected one of {list(_DTYPES)}."
            )
        data = base64.b64encode(_bytes(tensor)).decode()
        return {"dtype": kind, "shape": list(tensor.shape), "data": data}

    @classmethod
    def from_json(cls, values: Any) -> "Constant":
        """Reads what `to_json` wrote; checks sizes before anything is allocated.

        Raises:
            ValueError: If it is anything else.
        """
        try:
            dtype, shape = _DTYPES[values["dtype"]], values["shape"]
            data = base64.b64decode(values["data"], validate=True)
            sizes_known = len(shape) <= _MOST_AXES and all(
                type(n) is int and 0 <= n < 2**31 for n in shape
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SettingError(
                f"A tensor needs dtype, shape and data (base64): {error}."
            ) from error
        if not sizes_known or math.prod(shape) * dtype.itemsize != len(data):
            raise SettingError(
                f"A tensor of {values['dtype']} {str(shape)[:80]} does not take {len(data)} bytes."
            )
        if not data:
            return cls(torch.empty(shape, dtype=dtype))
        return cls(torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and (
            self._tensor is other._tensor or self.digest == other.digest
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        kind = str(self._tensor.dtype).removeprefix("torch.")
        return f"{kind}{list(self._tensor.shape)}"


@dataclass(frozen=True, repr=False)
class BySite:
    """One number or tensor per site.

    Attributes:
        entries: Pairs of site name, in any spelling, and value.
    """

    entries: tuple[tuple[str, "float | Constant"], ...]

    def at(self, name: str, legend: Legend, *, what: str) -> "float | Constant":
        """The value of a canonical site.

        Raises:
            ValueError: If there is none.
        """
        for spelling, value in self.entries:
            if spelling == name or legend.canonical(spelling) == name:
                return value
        have = ", ".join(spelling for spelling, _ in self.entries[:4])
        raise SettingError(f"{what} has nothing for {name}; it has {have or 'no site at all'}.")

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {value!r}" for name, value in self.entries) + "}"


def as_mask(given: object, *, what: str) -> Constant:
    """Reads bools over sequences and columns.

    Raises:
        ValueError: For anything else.
    """
    if not isinstance(given, Tensor | Constant):
        raise SettingError(
            f"{what} must be a tensor of bools [batch or 1, columns]; got {type(given).__name__}."
        )
    mask = given if isinstance(given, Constant) else Constant(given)
    kind, shape = mask.tensor.dtype, mask.tensor.shape
    if kind != torch.bool or len(shape) != 2 or 0 in shape:
        raise SettingError(f"{what} must be bools [batch or 1, columns]; got {kind} {list(shape)}.")
    return mask


Value = float | Constant | BySite


def as_value(given: Any, *, what: str, names: tuple[str, ...] = ()) -> Value:
    """Reads a number, a tensor, a result with a tensor `mean`, or a mapping site -> one of these.

    Args:
        given: What the caller gave.
        what: Its name in errors.
        names: Sites that are wanted. If a mapping knows all of them, the others are not kept.

    Raises:
        ValueError: For anything else, and for NaN and infinite numbers.
    """
    if isinstance(given, BySite):
        return given
    if isinstance(given, Mapping):
        wanted = names if names and all(name in given for name in names) else tuple(given)
        entries = [(name, _one(given[name], what=f"{what} of {name}")) for name in wanted]
        return BySite(tuple(entries))
    return _one(given, what=what)


def _one(given: Any, *, what: str) -> float | Constant:
    if isinstance(given, bool):
        raise SettingError(f"{what} must be a number or a tensor; got {given}.")
    if isinstance(given, int | float):
        if not math.isfinite(given):
            raise SettingError(f"{what} must be finite; got {given}.")
        return float(given)
    if isinstance(given, Constant):
        return given
    if isinstance(given, Tensor):
        return Constant(given)
    if isinstance(getattr(given, "mean", None), Tensor):
        return Constant(given.mean)
    if isinstance(given, list) and all(isinstance(one, Tensor) for one in given):
        raise SettingError(
            f"{what} holds a list, as a capture of {len(given)} forwards does; give the tensor "
            "of one forward."
        )
    raise SettingError(
        f"{what} must be a number, a tensor, or a mapping site -> one of these; got "
        f"{type(given).__name__}."
    )


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
