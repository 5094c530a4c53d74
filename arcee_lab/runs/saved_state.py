"""The state of a long run on disk: saved whole, and checked before a run resumes from it.

The header says of which run it is and holds a checksum of all the rest, so that a changed byte is
found.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from arcee_lab.errors import OtherRun, SavedDamaged
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import parse_json


def write(
    path: Path, run: Mapping[str, Any], about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Path:
    """Saves a state, whole or not at all.

    Args:
        path: Where to.
        run: What makes the run this run, as JSON values.
        about: What else the state has to say, as JSON values.
        tensors: By name, on any device.
    """
    plain = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    text = json.dumps({"run": run, **about})
    header = {"about": text, "sha256": _checksum(text, plain)}
    return storage.write_atomic(path, safetensors.torch.save(plain, header))


def read(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Reads what `write` saved; None where there is no file.

    Args:
        path: The file.
        run: As for `write`.

    Raises:
        SavedDamaged: A damaged file.
        OtherRun: Another run saved it.
    """
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = parse_json(header["about"], "its header")
        theirs = about.pop("run")
        whole = header.get("sha256") == _checksum(header["about"], tensors)
        other = [name for name, value in run.items() if theirs.get(name) != value]
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError),
        safetensors.SafetensorError,
    ) as error:
        raise damaged(path, "it cannot be read") from error
    if not whole:
        raise damaged(path, "its checksum is another")
    if other:
        name = other[0]
        raise OtherRun(
            f"{path} was saved by another run: its {name} is {theirs.get(name)!r}, not "
            f"{run[name]!r}. Start it as before, or remove the file and start anew."
        )
    return about, tensors


def damaged(path: Path, why: str) -> SavedDamaged:
    """The error of a state that no run can go on from."""
    return SavedDamaged(f"{path} is damaged; remove it and the run starts again ({why}).")


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"\n{name} {x.dtype} {list(x.shape)} ".encode())
        digest.update(x.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
