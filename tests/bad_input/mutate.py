"""A seeded mutator of files: JSON, lines of JSON, safetensors, Parquet, and bytes of any kind.

`mutated(content, rng, kind)` changes one thing, or a few, as a careless program, a damaged disk or
an attacker might. The same seed gives the same mutation everywhere.
"""

import json
import random
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    -(10**30),
    0.5,
    1e300,
    -1e-300,
    "",
    "x",
    "0",
    "../../etc/passwd",
    "a\0b",
    "\ud800",
    "$\\frac$",
    "\n",
    "x" * 10_000,
    [],
    [[]],
    [None] * 100,
    {},
    {"a": {}},
)


def mutated(content: bytes, rng: random.Random, kind: str) -> bytes:
    """A changed copy of a file.

    Args:
        content: The file.
        rng: What decides.
        kind: "json", "jsonl", "safetensors", or anything else, which is changed byte by byte.
    """
    how = _KINDS.get(kind)
    if how is None or rng.random() < 0.25:
        return _bytes(content, rng)
    return how(content, rng)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        what = rng.randrange(6)
        if what == 0:
            del changed[at:]
        elif what == 1:
            del changed[at : at + rng.randrange(1, 64)]
        elif what == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif what == 3 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif what == 4:
            changed[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
        else:
            changed[at:at] = rng.choice(
                (b"[" * 5_000, b"9" * 5_000, b"NaN", b'"', b"}", b"\\ud800")
            )
    return bytes(changed)


def _json(content: bytes, rng: random.Random) -> bytes:
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _value(value, rng)
    return json.dumps(value).encode()


def _value(value: Any, rng: random.Random) -> Any:
    """A value in which one place, chosen by walking down at random, is another."""
    inside: list[Any] = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        inside = list(range(len(value)))
    if not inside or rng.random() < 0.05:
        return rng.choice(ODD)
    at = rng.choice(inside)
    what = rng.randrange(10)
    copy = dict(value) if isinstance(value, dict) else list(value)
    if what == 0:
        del copy[at]
    elif what == 1 and isinstance(copy, dict):
        copy[rng.choice(("x", "", "a\0b", "version", "shape"))] = rng.choice(ODD)
    elif what == 2 and isinstance(copy, list):
        copy.append(copy[at])
    elif what == 3 and isinstance(copy[at], int) and not isinstance(copy[at], bool):
        copy[at] += rng.choice((-1, 1, 1000))
    elif (what < 6 and not isinstance(copy[at], dict | list)) or what == 6:
        copy[at] = rng.choice(ODD)
    else:
        copy[at] = _value(copy[at], rng)
    return copy


def _jsonl(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = _json(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    """The header as JSON, also that which it holds as text; or a tensor with odd numbers."""
    from safetensors import deserialize

    if rng.random() < 0.5:
        return _tensors(content, rng)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about = header.get("__metadata__", {})
    texts = [key for key, text in about.items() if text[:1] in "{["]
    if texts and rng.random() < 0.7:
        key = rng.choice(texts)
        about[key] = json.dumps(_value(json.loads(about[key]), rng))
        whole = json.dumps(header).encode()
        deserialize(len(whole).to_bytes(8, "little") + whole + content[8 + length :])
    else:
        whole = json.dumps(_value(header, rng)).encode()
    return len(whole).to_bytes(8, "little") + whole + content[8 + length :]


def _tensors(content: bytes, rng: random.Random) -> bytes:
    import torch
    from safetensors.torch import load, save

    length = int.from_bytes(content[:8], "little")
    about = json.loads(content[8 : 8 + length]).get("__metadata__")
    tensors = load(content)
    name = rng.choice(sorted(tensors))
    x = tensors[name].clone()
    what = rng.randrange(7)
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[name + "x"] = x
    elif what == 2:
        tensors[name] = x.to(rng.choice((torch.float64, torch.int64, torch.bool, torch.uint8)))
    elif what == 3:
        tensors[name] = x.reshape(-1)[: rng.randrange(x.numel() + 1)].clone()
    elif what == 4:
        tensors[name] = x[None].clone()
    elif x.numel():
        numbers = (-1, 0, 2**31 - 1) if not x.is_floating_point() else (torch.nan, torch.inf, -1e30)
        if x.dtype == torch.int64:
            numbers = (*numbers, 2**62, -(2**63))
        least, most = (0, 1) if x.dtype == torch.bool else _range(x.dtype)
        number = rng.choice(numbers)
        flat = x.reshape(-1)
        at = slice(None) if rng.random() < 0.2 else rng.randrange(len(flat))
        flat[at] = number if x.is_floating_point() else min(max(number, least), most)
        tensors[name] = flat.reshape(x.shape).clone()
    return save(tensors, about)


def _range(dtype: Any) -> tuple[int, int]:
    import torch

    if dtype.is_floating_point:
        return 0, 0
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max


_KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": _json,
    "jsonl": _jsonl,
    "safetensors": _safetensors,
}
