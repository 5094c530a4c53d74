"""Whether what was read can be of a measurement: version, names, shapes, bounds, and sums.

Each check gives a few words on what is wrong, or None; who reads a file turns them into an error.
"""

import math
from collections.abc import Mapping
from typing import Any

from arcee_lab.sparsity.core.state import State

VERSION = 5  # of saved reports and resume states
_LAST_OF_RELEASE = {"0.1": 4}  # release -> the last version that it wrote


def written_by_another(version: Any) -> str | None:
    """Says which release wrote a version other than ours; None for ours.

    Args:
        version: As the file states it; None where it states none, as resume states of 0.1 do.
    """
    if type(version) is int and version == VERSION:
        return None
    if version is None:
        version = 0
    if type(version) is not int or version < 0:
        return f"states the version {version!r}, which no release wrote"
    for release, last in _LAST_OF_RELEASE.items():
        if version <= last:
            return f"was written by arcee_lab {release}"
    return "was written by a later release of arcee_lab"


def wrong_tensors(found: State, wanted: State, kept: Mapping[str, int] | None = None) -> str | None:
    """Compares names, shapes and dtypes.

    Args:
        found: What was read.
        wanted: What an analysis makes; its values are not looked at.
        kept: Of tensors whose rows were cut, the most there may be, by name.
    """
    kept = kept or {}
    for name in [*wanted, *found]:
        if name not in found or name not in wanted:
            return f"{name} is {'missing' if name not in found else 'unknown'}"
        here, right = found[name], wanted[name]
        size, expected = list(here.shape), list(right.shape)
        if name in kept and size and size[0] <= kept[name]:
            expected[0] = size[0]
        if (size, here.dtype) != (expected, right.dtype):
            return f"{name} is {size} of {here.dtype}, expected {expected} of {right.dtype}"
    return None


def wrong_means(state: State, windows: int) -> str | None:
    """Looks at the sums of means (`window_means`) over at most a number of windows."""
    for name, x in state.items():
        if name.endswith(("_n", "_nn", "_ss", "_windows")) and bool((x < 0).any()):
            return f"{name} is negative"
        if "drawn_" in name:
            continue  # those of single tokens, checksums among them
        if name.endswith("_windows") and bool((x > windows).any()):
            return f"{name} counts more than {windows} windows"
    return None


def wrong_costs(costs: Any, names: set[str]) -> str | None:
    """Looks at seconds by name."""
    if not isinstance(costs, Mapping) or set(costs) != names:
        return f"its costs are not those of {', '.join(sorted(names))}"
    wrong = [name for name, seconds in costs.items() if not is_real(seconds)]
    return f"its cost of {wrong[0]} is {costs[wrong[0]]!r}" if wrong else None


def is_real(value: Any) -> bool:
    """Whether a value is a finite number that is not negative."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return right and math.isfinite(value) and value >= 0


def is_count(value: Any, least: int) -> bool:
    """Whether a value is a whole number from `least` on."""
    return type(value) is int and value >= least
