"""Every error that a user can cause, as one tree.

    ArceeLabError (ValueError)
    ├── SettingError       an argument or a flag has a value that cannot be used
    │   ├── SameMeans      two classes have the same mean, so no direction separates them
    │   └── WrongType      ... because it is of another type (a TypeError too)
    ├── SiteError          a hook point, a cut or an intervention that does not fit the model
    ├── ModelError         the model does not fit the call: another head, no pattern, no gradient
    ├── CheckpointError    files of a model or tokenizer are missing, damaged, unsafe or foreign
    ├── DeviceError        a device, dtype or process group that cannot be used here
    ├── TextError          texts, rows, labels or tokens that cannot be read
    │   └── TooFewTokens   the texts hold fewer tokens than were requested
    ├── FileError          a file or folder that cannot be read
    │   ├── NotWritten     a file or folder cannot be written: a full disk (an OSError too)
    │   ├── StoreDamaged   an activation store does not match its manifest
    │   │   └── ShardDamaged   ... and one of its shards is why
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
from pathlib import Path
from typing import Any

__all__ = [
    "ArceeLabError",
    "CheckpointError",
    "DeviceError",
    "FileError",
    "Interrupted",
    "ModelError",
    "NotWritten",
    "OtherRun",
    "SameMeans",
    "SavedDamaged",
    "SettingError",
    "ShardDamaged",
    "SiteError",
    "StoreDamaged",
    "TaskError",
    "TaskFailed",
    "TextError",
    "TooFewTokens",
    "UnknownName",
    "WrongType",
]

FULL_TRACEBACK = "ARCEE_LAB_FULL_TRACEBACK"
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")  # in errors of libraries that are written in Rust
_LONG = re.compile(r"\S{600,}")
_CELL = re.compile("ipykernel_|<ipython-input-")  # files of cells, in notebooks and in terminals


def _shortened(message: str) -> str:
    return _LONG.sub(lambda found: f"{found[0][:200]}...{found[0][-100:]}", message)


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
    """Something that the caller can mend; the base of all errors of this package.

    A word of thousands of characters, as a damaged file may hold one, is shown by its ends.
    """

    def __init__(self, *args: Any):
        super().__init__(*(_shortened(one) if isinstance(one, str) else one for one in args))


class SettingError(ArceeLabError):
    """An argument or a flag has a value that cannot be used."""


class SameMeans(SettingError):
    """The two classes have the same mean, so no direction tells them apart."""


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


class TooFewTokens(TextError):
    """The texts hold fewer tokens than requested.

    Args:
        found: Tokens of the texts.
        tokens: Requested tokens.
        name: The setting that requests them.

    Attributes:
        found: Tokens of the texts.
    """

    def __init__(self, found: int, tokens: int, name: str):
        super().__init__(
            f"the texts hold {found:,} tokens; {name} asks for {tokens:,}. Give more text, or "
            f"leave {name} out to take what there is."
        )
        self.found = found


class FileError(ArceeLabError):
    """A file or folder cannot be read or written."""


class NotWritten(OSError, FileError):
    """A file or folder could not be written or removed; what it held before is unchanged.

    Args:
        path: The file or folder.
        error: The error of the system or of the library that wrote.

    Attributes:
        path: The file or folder.
        reason: Why, in the system's words.
    """

    def __init__(self, path: Path | str, error: Exception):
        number = SYSTEM_ERROR.search(str(error))
        reason = os.strerror(int(number[1])) if number else getattr(error, "strerror", None)
        self.reason = reason or " ".join(str(error).split()).rstrip(".")
        super().__init__(
            f"{path} cannot be written: {self.reason}. Make room or get permission there, then "
            "repeat the same call or command: what was finished before is kept."
        )
        self.path = path


class StoreDamaged(FileError):
    """An activation store does not match its manifest."""


class ShardDamaged(StoreDamaged):
    """A shard file of an activation store does not match the manifest.

    Args:
        path: The file.
        why: What is wrong with it.

    Attributes:
        why: What is wrong with it.
    """

    def __init__(self, path: object, why: str):
        why = why.rstrip(".")
        super().__init__(
            f"shard {path} is damaged: {why}. `arcee-lab verify` names every damaged shard of a "
            "store, and with --repair computes it again."
        )
        self.why = why


class SavedDamaged(FileError):
    """A saved report, statistic or resume state is damaged."""


class OtherRun(FileError):
    """A folder or a saved state belongs to another run."""


class TaskError(ArceeLabError):
    """Evaluation tasks cannot be found, read or compared."""


class TaskFailed(TaskError):
    """A task ended with an error while it ran; the results before it are kept.

    Attributes:
        result: The finished tasks of `al.evals.run`, or the finished levels of `al.evals.sweep`.
    """

    def __init__(self, message: str, result: Any):
        super().__init__(message)
        self.result = result


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
