"""Directions as safetensors files, checked before anything in them is used."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from arcee_lab.directions.direction import (
    FORMAT,
    SAVED_COUNTS,
    SAVED_WORDS,
    VERSION,
    Check,
    Direction,
)
from arcee_lab.errors import FileError, SavedDamaged, SettingError, SiteError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.json_text import parse_json, reason

_LARGEST = 2**28  # bytes of a file: a rank of 100 at a width of 500,000
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@checked
def load(path: str | Path, model: nn.Module | None) -> Direction:
    """Reads a direction that `Direction.save` wrote, and trusts nothing in the file.

    Args:
        path: The file.
        model: The model that it is for, whose fingerprint must be the one in the file; None reads
            it without that check, such as to try it on a fine-tuned copy.

    Raises:
        FileError: There is no such file.
        SavedDamaged: It is no direction, or it is damaged.
        ModelError: It was found in another model.
        SiteError: The model has no such site, or one of another width.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> found = al.directions.neuron(model, 1, 17)
        >>> path = found.save("neuron.safetensors")  # doctest: +SKIP
        >>> al.directions.load("neuron.safetensors", model) == found  # doctest: +SKIP
        True
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path} is no file; expected a direction that Direction.save wrote.")
    try:
        found = _read(path)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        said = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else reason(error)
        said = said.rstrip(".").removesuffix("; get the file again")
        raise SavedDamaged(
            f"{path} cannot be used as a direction: {said}. Get the file again, or find the "
            "direction anew."
        ) from None
    if model is not None:
        found.require(model)
        require_site(found, model)
    return found


def require_site(direction: Direction, model: nn.Module) -> None:
    """Checks that a model has the site of a direction, with its width.

    Raises:
        SiteError: It does not.
    """
    anatomy = anatomy_of(model)
    (site,) = anatomy.resolve(direction.site)
    width = anatomy.size(anatomy.legend.sites()[site].axes[-1])
    if width != direction.width:
        raise SiteError(
            f"This direction of {direction.concept!r} has {direction.width} numbers, and {site} "
            f"has {width}; it belongs to another site or model."
        )


def _read(path: Path) -> Direction:
    size = path.stat().st_size
    if size > _LARGEST:
        raise SettingError(f"it has {size:,} bytes; expected at most {_LARGEST:,}")
    with safe_open(path, "pt") as file:
        described = _described(file.metadata())
        if set(file.keys()) != {"vectors", "scale"}:
            raise SettingError(f"it holds {', '.join(sorted(file.keys()))[:80] or 'no tensor'}")
        parts = {name: file.get_slice(name) for name in ("vectors", "scale")}
        shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
        kinds = {part.get_dtype() for part in parts.values()}
        if kinds != {"F32"} or len(shapes["vectors"]) != 2 or len(shapes["scale"]) != 1:
            raise SettingError(f"its tensors are {', '.join(kinds)} of the shapes {shapes}")
        vectors, scale = (file.get_tensor(name) for name in ("vectors", "scale"))
    checks = described.pop("checks")
    names = {field.name for field in fields(Check)}
    if not isinstance(checks, list) or not all(
        isinstance(c, Mapping) and set(c) == names for c in checks
    ):
        raise SettingError("its checks are not a list of numbers with names")
    return Direction(
        vectors=vectors,
        scale=scale.to(torch.float32),
        checks=tuple(_check(c) for c in checks),
        **described,
    )


def _described(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """What the header says, every value of its type."""
    if not metadata or FORMAT not in metadata:
        raise SettingError(f"its header has no {FORMAT}")
    values = parse_json(metadata[FORMAT], "its header", error=SettingError)
    if not isinstance(values, dict):
        raise SettingError("its header is no JSON object")
    known = {"format", "version", "threshold", "fingerprint", "checks", *SAVED_WORDS, *SAVED_COUNTS}
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION) or set(values) != known:
        raise SettingError(
            f"its header is not that of version {VERSION}: it has {', '.join(sorted(values))[:120]}"
        )
    threshold = values["threshold"]
    right = (
        all(isinstance(values[name], str) for name in SAVED_WORDS)
        and all(type(values[name]) is int and values[name] >= 0 for name in SAVED_COUNTS)
        and (threshold is None or type(threshold) in (int, float))
        and isinstance(values["fingerprint"], str)
        and _FINGERPRINT.fullmatch(values["fingerprint"])
    )
    if not right:
        raise SettingError("its header has values of another type")
    values["threshold"] = None if threshold is None else float(threshold)
    return {key: value for key, value in values.items() if key not in ("format", "version")}


def _check(values: Mapping[str, Any]) -> Check:
    numbers = {name: values[name] for name in ("value", "low", "high")}
    if not isinstance(values["name"], str) or any(
        not (x is None or type(x) in (int, float)) for x in numbers.values()
    ):
        raise SettingError("its checks have values of another type")
    if any(type(values[name]) is not int for name in ("n", "documents")):
        raise SettingError("its checks have values of another type")
    # NaN, which JSON lacks, is null.
    given = {name: float("nan") if x is None else float(x) for name, x in numbers.items()}
    return Check(values["name"], n=values["n"], documents=values["documents"], **given)
