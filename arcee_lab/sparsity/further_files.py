"""Results of the analyses with forwards of their own, on disk: one safetensors file.

Their arrays are its tensors; all else (names, numbers, which array goes where) is JSON in its
header, so that a report that is read again has the same frames and figures to the last bit.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from arcee_lab import storage
from arcee_lab.sparsity.analysis import Result
from arcee_lab.sparsity.cett_curves import CettCurves
from arcee_lab.sparsity.cett_ppl import CettPerplexity
from arcee_lab.sparsity.truncation_curves import TruncationCurves

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
    tensors: dict[str, Tensor] = {}
    said = {name: _taken_apart(result, name, tensors) for name, result in results.items()}
    content = safetensors.torch.save(tensors, metadata={"results": json.dumps(said)})
    return storage.write_atomic(folder / FILE, content)


def load(folder: Path) -> dict[str, Result]:
    """Reads what `save` wrote; nothing where there is no file.

    Args:
        folder: Where the report lies.

    Raises:
        ValueError: A damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})["results"])
            return {name: _put_together(value, file) for name, value in said.items()}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        safetensors.SafetensorError,
    ) as error:
        raise ValueError(f"{path} is damaged: {error}; measure again") from error


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


def _put_together(value: Any, file: Any) -> Any:
    """What `_taken_apart` took apart. Only the classes named above are ever made."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return file.get_tensor(value["tensor"])
    if "array" in value:
        return file.get_tensor(value["array"]).numpy()
    parts = {name: _put_together(part, file) for name, part in value["fields"].items()}
    return _CLASSES[value["class"]](**parts)
