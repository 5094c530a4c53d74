"""What a proof leaves: a table in Markdown and the same as JSON."""

import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Outcome

_PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "safetensors",
    "jaxtyping",
    "accelerate",
    "pandas",
    "lm-eval",
    "flash-attn",
    "bitsandbytes",
    "pytest",
)


def facts(place: Place) -> dict[str, Any]:
    """Where it ran, with what."""
    found: dict[str, Any] = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "card": place.name,
        "dry run": place.dry,
        "copy, bytes/s": place.bandwidth,
        "bf16 product, FLOP/s": place.flops,
    }
    return found | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write(folder: Path, place: Place, outcomes: Sequence[Outcome]) -> str:
    """Writes both files; called after every row, so that a lost machine leaves what was shown.

    Returns:
        The table.
    """
    known = facts(place)
    content = {"facts": known, "rows": [one.plain() for one in outcomes]}
    table = _table(known, outcomes)
    (folder / "proof.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "proof.md").write_text(table, encoding="utf-8")
    return table


def _table(known: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    lines = ["# GPU proof", ""]
    lines += [f"- {name}: {_number(value)}" for name, value in known.items()]
    lines += [
        "",
        "| row | core | state | s | measured | limit | aim |",
        "|---|---|---|---:|---|---|---|",
    ]
    for one in outcomes:
        found = one.found
        measured = "; ".join(f"{name} {_number(value)}" for name, value in found.measured.items())
        said = f"{one.state}: {one.reason}" if one.reason else one.state
        cells = [one.name, "yes" if one.core else "", said, f"{one.seconds:.1f}"]
        cells += [measured, found.limit, found.aim]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())[:600]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
