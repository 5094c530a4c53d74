"""Whether lm-eval can have a task of some name, without the slow index of its files."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import lm_eval.tasks

from arcee_lab.errors import TaskError

# A name in a task file: `task: NAME`, `group: "NAME"`, also as an item of a list.
_NAMED = re.compile(rb"^[ \t-]*[\"']?(?:task|group|tag)[\"']?\s*:\s*[\"']?([\w.+-]+)", re.M)
_PATTERN = set("*?[")


def require_known(name: str, ours: Iterable[str]) -> None:
    """Refuses a name that no task file of lm-eval holds, in about a second.

    The index that lm-eval makes of its 14,000 files takes ten seconds to a minute, which is long
    for a typing error. A name that some file holds anywhere still goes to the index.

    Args:
        name: A name, or a pattern, which the index decides about.
        ours: Names that are known already, for the hint.

    Raises:
        TaskError: There is no such task; the nearest names are given.
    """
    if _PATTERN & set(name):
        return
    text, names = _library()
    if name.encode(errors="replace") not in text:
        raise unknown_task(name, [*ours, *names])


def unknown_task(name: str, known: Iterable[str]) -> TaskError:
    """The error for a name that no task has."""
    near = get_close_matches(name[:100], list(known), n=4, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    shown = name if len(name) <= 100 else f"{name[:97]}..."
    return TaskError(
        f"There is no task, group or tag {shown!r}{hint}. `lm-eval ls tasks` lists lm-eval's own; "
        "a task file of yours is named by its path."
    )


@cache
def _library() -> tuple[bytes, list[str]]:
    """The text of all of lm-eval's task files, some megabytes, and the names in it."""
    kept: list[bytes] = []
    names: set[str] = set()
    for folder, _, files in os.walk(Path(lm_eval.tasks.__file__).parent):
        for file in files:
            if file.endswith((".yaml", ".yml")):
                with open(os.path.join(folder, file), "rb") as opened:
                    text = opened.read()
                kept.append(text)
                names.update(one.decode(errors="replace") for one in _NAMED.findall(text))
    return b"\n".join(kept), sorted(names)
