"""Every error that a user can cause, as one tree.

    ArceeLabError (ValueError)
    ├── SettingError       an argument or a flag has a value that cannot be used
    │   └── WrongType      ... because it is of another type (a TypeError too)
    ├── SiteError          a hook point, a cut or an intervention that does not fit the model
    ├── ModelError         the model does not fit the call: another head, no pattern, no gradient
    ├── CheckpointError    files of a model or tokenizer are missing, damaged, unsafe or foreign
    ├── DeviceError        a device, dtype or process group that cannot be used here
    ├── TextError          texts, rows, labels or tokens that cannot be read
    ├── FileError          a file or folder that cannot be read or written
    │   ├── StoreDamaged   an activation store does not match its manifest
    │   ├── SavedDamaged   a saved report, statistic or resume state is damaged
    │   └── OtherRun       a folder or saved state belongs to another run
    ├── TaskError          evaluation tasks that cannot be found, read or compared
    │   └── TaskFailed     a task ended with an error while it ran; what was done is kept
    └── UnknownName        a key that a mapping of ours does not hold (a KeyError too)

    Interrupted (KeyboardInterrupt)    Ctrl-C in a long call; `.partial` holds what is done

Messages are one sentence each and end with a full stop: what is wrong, what was given, what was
expected, what to do.
"""

import os
import re
from typing import Any

__all__ = [
    "ArceeLabError",
    "CheckpointError",
    "DeviceError",
    "FileError",
    "Interrupted",
    "ModelError",
    "OtherRun",
    "SavedDamaged",
    "SettingError",
    "SiteError",
    "StoreDamaged",
    "TaskError",
    "TextError",
    "UnknownName",
    "WrongType",
]

FULL_TRACEBACK = "ARCEE_LAB_FULL_TRACEBACK"
_CELL = re.compile("ipykernel_|<ipython-input-")  # files of cells, in notebooks and in terminals


class _Short(BaseException):
    """In notebooks, errors show the line of the cell and the message, not our own frames.

    The environment variable `ARCEE_LAB_FULL_TRACEBACK=1` shows everything.
    """

    def _render_traceback_(self) -> list[str]:
        import traceback

        if os.environ.get(FULL_TRACEBACK, "0") not in ("", "0"):
            return traceback.format_exception(self)
        frames = traceback.extract_tb(self.__traceback__)
        cell = next((frame for frame in frames if _CELL.search(frame.filename)), None)
        where = [] if cell is None else [f"line {cell.lineno}: {cell.line}"]
        return [f"{type(self).__name__}: {self}", *where]


class ArceeLabError(ValueError, _Short):
    """Something that the caller can mend; the base of all errors of this package."""


class SettingError(ArceeLabError):
    """An argument or a flag has a value that cannot be used."""


class WrongType(SettingError, TypeError):
    """An argument is of a type that cannot be used."""


class SiteError(ArceeLabError):
    """A hook point, a cut or an intervention does not fit the model."""


class ModelError(ArceeLabError):
    """The model does not fit the call."""


class CheckpointError(ArceeLabError):
    """Files of a model or a tokenizer are missing, damaged, unsafe or of another kind."""


class DeviceError(ArceeLabError):
    """A device, a dtype or a process group cannot be used here."""


class TextError(ArceeLabError):
    """Texts, rows, labels or tokens cannot be read."""


class FileError(ArceeLabError):
    """A file or folder cannot be read or written."""


class StoreDamaged(FileError):
    """An activation store does not match its manifest."""


class SavedDamaged(FileError):
    """A saved report, statistic or resume state is damaged."""


class OtherRun(FileError):
    """A folder or a saved state belongs to another run."""


class TaskError(ArceeLabError):
    """Evaluation tasks cannot be found, read or compared."""


class UnknownName(ArceeLabError, KeyError):
    """A mapping of ours does not hold this key."""

    __str__ = ValueError.__str__  # KeyError would show the message in quotes


class Interrupted(KeyboardInterrupt, _Short):
    """A long call was interrupted (Ctrl-C).

    Attributes:
        partial: What is done so far: a result over the finished part, or None.
    """

    def __init__(self, message: str, *, partial: Any = None):
        super().__init__(message)
        self.partial = partial


def __dir__() -> list[str]:
    return sorted(__all__)
