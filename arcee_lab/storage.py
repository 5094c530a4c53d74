"""Files that are whole or absent, and folders that belong to one run."""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

RUN_FILE = "run.json"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has one slash of two; C:/ is a drive
_SHOWN = 90  # characters of a setting in an error


def require_local(path: str | Path) -> None:
    """Refuses a URL where a path is expected: written as one, it would make a folder of that name.

    Raises:
        ValueError: The path begins like `s3://`, `http://` or `file:///`.
    """
    if _URL.match(os.fspath(path)):
        raise ValueError(
            f"{os.fspath(path)!r} is a URL; expected a path of this machine. Only `arcee-lab dump` "
            "and al.dump.write take URLs: write to a local folder, then copy it there."
        )


def write_atomic(path: str | Path, content: bytes | str | Callable[[Path], object]) -> Path:
    """Writes a file so that a reader, or a crash, sees the old one or the new one, never a part.

    Args:
        path: Where the file shall lie; its folder must exist.
        content: The bytes or text, or a function that writes them to the path it is given.

    Returns:
        The path.
    """
    require_local(path)
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        if callable(content):
            content(part)
        else:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _flush(path.parent)  # the rename itself
    return path


def make_folder(path: str | Path) -> Path:
    """Makes a folder, and those it lies in, such that they outlive a power cut.

    Returns:
        The path.
    """
    require_local(path)
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    if os.name == "posix":
        for folder in missing:
            _flush(folder.parent)
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Writes JSON, atomically, for eyes and for diffs: indented, NaN refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomic(path, text + "\n")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def claim(folder: str | Path, settings: Mapping[str, Any]) -> Path:
    """Makes a folder the home of one run, and refuses one that is not this run's.

    The settings are written to `run.json` in the folder. A folder that holds the very same settings
    is the same run and may be written again.

    Args:
        folder: The folder; it is made where it does not exist.
        settings: What makes the run this run, as JSON values.

    Returns:
        The folder.

    Raises:
        ValueError: The folder is a file, cannot be written, holds another run, or holds files but
            no run.
    """
    folder = Path(folder)
    check_claim(folder, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Mode x: of two runs that start at once, one makes the file and the other reads it.
        with (folder / RUN_FILE).open("x", encoding="utf-8") as file:
            file.write(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        check_claim(folder, settings)
    except OSError as error:
        raise ValueError(f"output folder {folder} cannot be written: {error.strerror}") from error
    return folder


def check_claim(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Raises what `claim` would, and touches nothing: for the time before inputs are read.

    Args:
        folder: The folder that is to be claimed.
        settings: What makes the run this run, as JSON values.

    Raises:
        ValueError: As `claim` has it.
    """
    require_local(folder)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output folder {folder} is a file; choose another name")
    run_file = folder / RUN_FILE
    if not run_file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"output folder {folder} holds other files; choose a new one")
        return
    check_same_run(folder, _read_run(run_file), settings)


def check_same_run(folder: str | Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Compares the settings that a folder holds with those of the run that wants it.

    Raises:
        ValueError: They differ; the first two differences are named.
    """
    ours = json.loads(json.dumps(ours))
    if theirs != ours:
        raise ValueError(
            f"output folder {folder} holds another run ({_difference(theirs, ours)}); "
            "choose a new folder, or remove this one"
        )


def fresh_folder(parent: str | Path, name: str) -> Path:
    """Makes the first of `name-1`, `name-2`, ... that does not exist under `parent`."""
    require_local(parent)
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            folder = parent / f"{name}-{number}"
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _read_run(run_file: Path) -> dict[str, Any]:
    try:
        run = json.loads(run_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{run_file} is damaged; remove its folder or choose another") from error
    return run if isinstance(run, dict) else {}


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    found = list(_differences(theirs, ours))
    return ", ".join(found[:2]) + (f", {len(found) - 2} more" if len(found) > 2 else "")


def _differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], inside: str = ""
) -> Iterator[str]:
    for key in {**theirs, **ours}:
        one, other = theirs.get(key), ours.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{inside}{key}.")
        elif one != other:
            yield f"{inside}{key} is {_short(one)}, not {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
