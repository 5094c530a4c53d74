"""Progress bars: one rule for all long calls, and one bar for terminals and notebooks."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

SWITCH = "ARCEE_LAB_PROGRESS"


def shown(progress: bool | None) -> bool:
    """Whether a call shows a bar.

    Args:
        progress: The caller's argument. None shows a bar in notebooks and terminals and none
            elsewhere (logs, pipes, tests), unless the environment variable `ARCEE_LAB_PROGRESS`
            (0 or 1) decides.
    """
    if progress is not None:
        return progress
    switch = os.environ.get(SWITCH)
    if switch is not None:
        return switch not in ("", "0")
    return _in_notebook() or sys.stderr.isatty()


def progress_bar(
    iterable: Iterable[Any] | None = None, *, show: bool | None, **settings: Any
) -> Any:
    """A tqdm bar, a widget in JupyterLab; it prints nothing where it is not shown.

    Args:
        iterable: The items to count; without it the caller calls `update`.
        show: As for `shown`.
        settings: Arguments of tqdm.
    """
    return tqdm(iterable, disable=not shown(show), **settings)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"
