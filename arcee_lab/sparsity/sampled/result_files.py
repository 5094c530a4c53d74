"""Results of the analyses with forward passes of their own, on disk: one safetensors file.

Their arrays are its tensors; all else (names, numbers, which array goes where) is JSON in its
header, so that a report that is read again has the same frames and figures to the last bit.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import jaxtyped
from torch import Tensor

from arcee_lab.errors import SavedDamaged
from arcee_lab.results import Result
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import parse_json, reason
from arcee_lab.sparsity.sampled.cett_curves import CettCurves
from arcee_lab.sparsity.sampled.cett_perplexity import CettPerplexity
from arcee_lab.sparsity.sampled.truncation_curves import TruncationCurves

FILE = "further.safetensors"
_CLASSES = {made.__name__: made for made in (CettCurves, CettPerplexity, TruncationCurves)}


def save(results: Mapping[str, Result], folder: Path) -> Path:
    """Writes results, whole or not at all.

    Args:
        results: By name, as in `SparsityReport.further`.
        folder: A folder that exists.

    Returns:
        The file.
    """
    said, tensors = packed(results)
    content = safetensors.torch.save(tensors, metadata={"results": json.dumps(said)})
    return storage.write_atomic(folder / FILE, content)


def load(folder: Path) -> dict[str, Result]:
    """Reads what `save` wrote; nothing where there is no file.

    Args:
        folder: The folder of the report.

    Raises:
        ValueError: A damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = parse_json((file.metadata() or {})["results"], "its header")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return unpacked(said, tensors)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise SavedDamaged(f"{path} is damaged: {reason(error)}; measure again.") from error


def packed(results: Mapping[str, Result]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Results as JSON values, and their arrays as tensors."""
    tensors: dict[str, Tensor] = {}
    return {name: _taken_apart(result, name, tensors) for name, result in results.items()}, tensors


def unpacked(said: Any, tensors: Mapping[str, Tensor]) -> dict[str, Result]:
    """What `packed` packed.

    Raises:
        ValueError: Another class, field, type, shape or dtype than results have.
    """
    try:
        results = {name: _put_together(value, tensors) for name, value in said.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise SavedDamaged(f"{type(error).__name__} {error}") from error
    for name, result in results.items():
        if not isinstance(result, Result):
            raise SavedDamaged(f"{name} is no result")
        _check(result, name)
    return results


def _taken_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, its arrays moved to `tensors` under the path of their field."""
    if isinstance(value, Tensor | np.ndarray):
        tensors[path] = torch.as_tensor(value).contiguous()
        return {"array" if isinstance(value, np.ndarray) else "tensor": path}
    if is_dataclass(value):
        parts = {
            field.name: _taken_apart(getattr(value, field.name), f"{path}/{field.name}", tensors)
            for field in fields(value)
        }
        return {"class": type(value).__name__, "fields": parts}
    return list(value) if isinstance(value, tuple) else value


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_taken_apart` took apart. Only the classes named above are ever made."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "array" in value:
        return tensors[value["array"]].numpy()
    parts = {name: _put_together(part, tensors) for name, part in value["fields"].items()}
    return _CLASSES[value["class"]](**parts)


def _check(result: Any, name: str) -> None:
    """Compares every field with its type; lengths of one name in a class must be the same.

    Raises:
        ValueError: A field of another type, shape or dtype, or a negative count.
    """
    with jaxtyped("context"):  # so that "layer" is one length in all fields
        for part in fields(result):
            value = getattr(result, part.name)
            if not _is(value, part.type):
                raise SavedDamaged(f"{name}/{part.name} is {_told(value)}, expected {part.type}")
            counts = not isinstance(value, str | bool) and _is_whole(value)
            if counts and np.min(np.asarray(value), initial=0) < 0:
                raise SavedDamaged(f"{name}/{part.name} is negative")
    for part in fields(result):
        if is_dataclass(value := getattr(result, part.name)):
            _check(value, f"{name}/{part.name}")


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(one, get_args(kind)[0]) for one in value)
    if kind in (int, float):  # a bool is an int to Python; JSON writes 1.0 as it is
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, kind)


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point()
    return isinstance(value, int) or (
        isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.integer)
    )


def _told(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value)[:60] if shape is None else f"{list(shape)} of {value.dtype}"
