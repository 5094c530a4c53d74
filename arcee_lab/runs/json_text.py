"""The one place where JSON from outside is read: bounded, and every fault is one clear error.

Python's reader ends in a RecursionError for lists in lists in lists, refuses numbers of more than
4,300 digits in words about Python, and takes NaN, which is no JSON.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any

from arcee_lab.errors import ArceeLabError, SavedDamaged

_LONGEST_REASON = 300  # characters
LONGEST = 2**28  # bytes; the index of a large model has a few million


def read_json(
    path: str | os.PathLike[str],
    *,
    error: type[ArceeLabError] = SavedDamaged,
    do: str = "get the file again",
    nan: bool = False,
) -> Any:
    """The value in a JSON file.

    Args:
        path: The file.
        error: The class of the error.
        do: What the user can do about a bad file, for the error.
        nan: As for `parse_json`.

    Raises:
        ArceeLabError: Of the given class: the file is no plain file, cannot be read, is too long,
            or holds no JSON.
    """
    path = Path(path)
    try:
        found = path.stat()
        if not S_ISREG(found.st_mode):
            raise error(f"{path} is no plain file; {do}.")
        if found.st_size > LONGEST:
            raise error(
                f"{path} is {found.st_size:,} bytes long; expected at most {LONGEST:,}; {do}."
            )
        raw = path.read_bytes()
    except (OSError, ValueError) as failed:
        if isinstance(failed, ArceeLabError):
            raise
        raise error(f"{path} cannot be read ({reason(failed)}); {do}.") from failed
    return parse_json(raw, path, error=error, do=do, nan=nan)


def read_object(
    path: str | os.PathLike[str],
    *,
    error: type[ArceeLabError] = SavedDamaged,
    do: str = "get the file again",
    nan: bool = False,
) -> dict[str, Any]:
    """The object in a JSON file; as `read_json`, and another value is an error."""
    value = read_json(path, error=error, do=do, nan=nan)
    if not isinstance(value, dict):
        raise error(f"{path} holds {kind_of(value)}; expected a JSON object; {do}.")
    return value


def parse_json(
    text: str | bytes,
    where: object,
    *,
    error: type[ArceeLabError] = SavedDamaged,
    do: str = "get the file again",
    nan: bool = False,
) -> Any:
    """The value of JSON text.

    Args:
        text: The text, in UTF-8 if bytes.
        where: What it is, for the error.
        error: The class of the error.
        do: What the user can do about a bad text, for the error.
        nan: Whether NaN and Infinity are numbers, as in texts that other programs wrote.

    Raises:
        ArceeLabError: Of the given class.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(text) if nan else json.loads(text, parse_constant=_refuse)
    except RecursionError:
        said = "its lists and objects are nested too deep"
    except UnicodeDecodeError as failed:
        said = f"it is not UTF-8 at byte {failed.start}"
    except json.JSONDecodeError as failed:
        said = f"{failed.msg} at line {failed.lineno}, column {failed.colno}"
    except ValueError as failed:  # a number of too many digits, or NaN
        said = str(failed) if isinstance(failed, _NoNumber) else "a number has too many digits"
    raise error(f"{where} is not JSON: {said}; {do}.")


def kind_of(value: Any) -> str:
    """What kind of JSON value it is, with an article."""
    if isinstance(value, Mapping):
        return "an object"
    kinds = ((type(None), "null"), (bool, "true or false"), (int | float, "a number"))
    names = (*kinds, (str, "a text"), (list, "a list"))
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def reason(error: BaseException) -> str:
    """Why the system or a library failed: one short line, without a number of the system."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")
    said = said or type(error).__name__
    return said if len(said) <= _LONGEST_REASON else f"{said[: _LONGEST_REASON - 3]}..."


class _NoNumber(ValueError):
    pass


def _refuse(word: str) -> None:
    raise _NoNumber(f"{word} is no number of JSON")
