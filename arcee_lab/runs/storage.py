"""Files that are complete or absent, and folders that belong to one run."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from arcee_lab.errors import SYSTEM_ERROR, FileError, NotWritten, OtherRun, WrongType
from arcee_lab.runs.json_text import read_json

RUN_FILE = "run.json"
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # the name of a file while it is written
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has one slash of two; C:/ is a drive
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_DIFFERS = " differs"
_SHOWN = 90  # characters of a setting in an error
# What a file system without hard links says.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def require_local(path: str | Path) -> None:
    """Refuses a URL where a path is expected: written as one, it would make a folder of that name.

    Raises:
        WrongType: It is neither a text nor a path.
        FileError: The path begins like `s3://`, `http://` or `file:///`.
    """
    if not isinstance(path, str | os.PathLike):
        raise WrongType(f"{path!r} is no path; expected a text or a path of this machine.")
    if _URL.match(os.fspath(path)):
        raise FileError(
            f"{os.fspath(path)!r} is a URL; expected a path on this machine. Only `arcee-lab dump` "
            "and al.dump.write take URLs: write to a local folder, then copy it there."
        )


def write_atomic(path: str | Path, content: bytes | str | Callable[[Path], object]) -> Path:
    """Writes a file so that readers and crashes see the old one or the new one, never a part.

    Args:
        path: The file; its folder must exist.
        content: The bytes or text, or a function that writes them to a path.

    Returns:
        The path.

    Raises:
        NotWritten: The disk is full, or the folder is not writable; also an OSError.
    """
    require_local(path)
    path = Path(path)
    part = _part_of(path)
    with _cleaning_up(path, part):
        if callable(content):
            # A folder of its own: writers may create further files next to the one they are given.
            part.mkdir()
            whole = part / path.name
            content(whole)
        else:
            whole = part
            whole.write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(whole)
        os.replace(whole, path)
        _remove(part)
        _flush_folder(path.parent)  # the rename itself
    return path


def write_folder(folder: str | Path, fill: Callable[[Path], object]) -> list[Path]:
    """Writes several files, each of them as `write_atomic` does.

    They are written to a temporary folder and moved when all are complete. `config.json`, by which
    a checkpoint is recognised, comes last.

    Args:
        folder: Where the files are to be; it is created if it is missing.
        fill: Writes files into the folder that it is given, and into folders below it.

    Returns:
        The files.

    Raises:
        NotWritten: As for `write_atomic`.
    """
    folder = Path(folder)
    part = _part_of(folder)
    made = []
    with _cleaning_up(folder, part):
        part.mkdir(parents=True)
        fill(part)
        files = [path for path in part.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.name == "config.json", path)):
            _flush(path)
            target = folder / path.relative_to(part)
            make_folder(target.parent)
            os.replace(path, target)
            made.append(target)
        _remove(part)
        for parent in {path.parent for path in made}:
            _flush_folder(parent)
    return made


def remove_partial_files(folder: str | Path) -> None:
    """Removes the partial files of interrupted writers; nobody may be writing to the folder."""
    for part in list(Path(folder).rglob(".*.part")):
        if _is_partial(part):
            _remove(part)


def make_folder(path: str | Path) -> Path:
    """Creates a folder and its parents, such that they survive a power cut.

    Returns:
        The path.
    """
    require_local(path)
    path = Path(path)
    if path.is_dir():
        return path
    with _cleaning_up(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            _flush_folder(folder.parent)
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Writes indented JSON atomically; NaN is refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomic(path, text + "\n")


def as_json(value: Any) -> Any:
    """NumPy and torch numbers as plain ones, and NaN, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def claim(folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> Path:
    """Reserves a folder for one run, and refuses a folder of another run.

    The settings are written to `run.json` in the folder. A folder with equal settings belongs to
    the same run and may be written again.

    Args:
        folder: The folder; it is created if it does not exist.
        settings: What identifies the run, as JSON values.

    Returns:
        The folder.

    Raises:
        FileError: The folder is a file, cannot be written, holds another run, or holds files but
            no `run.json`.
    """
    folder = Path(folder)
    check_claim(folder, settings)
    make_folder(folder)
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    if not _write_once(folder / RUN_FILE, text):
        check_claim(folder, settings)
    return folder


def check_claim(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Raises what `claim` would, and changes nothing: for a check before inputs are read.

    Args:
        folder: The folder that is to be claimed.
        settings: What identifies the run, as JSON values.

    Raises:
        FileError: As for `claim`.
    """
    require_local(folder)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileError(f"output folder {folder} is a file; choose another name.")
    run_file = folder / RUN_FILE
    if not run_file.exists():
        if folder.exists() and not all(map(_is_partial, folder.iterdir())):
            raise FileError(f"output folder {folder} holds other files; choose a new one.")
        return
    check_same_run(folder, _read_run(run_file), settings)


def check_same_run(folder: str | Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Compares the settings in a folder with those of the run that is to write there.

    Raises:
        OtherRun: They differ; the first two differences are named.
    """
    ours = json.loads(json.dumps(ours))
    if theirs != ours:
        raise OtherRun(
            f"output folder {folder} holds another run ({_difference(theirs, ours)}); "
            "choose a new folder, or remove this one."
        )


def fresh_folder(parent: str | Path, name: str) -> Path:
    """Creates the first of `name-1`, `name-2`, ... that does not exist under `parent`."""
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
    run = read_json(run_file, do="it is damaged, so remove its folder, or choose another folder")
    return run if isinstance(run, dict) else {}


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    # Words say more than checksums, which only differ because something else does.
    found = sorted(_differences(theirs, ours), key=lambda said: said.endswith(_DIFFERS))
    return ", ".join(found[:2]) + (f", {len(found) - 2} more" if len(found) > 2 else "")


def _differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], inside: str = ""
) -> Iterator[str]:
    for key in {**theirs, **ours}:
        one, other = theirs.get(key), ours.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{inside}{key}.")
        elif one != other and (_is_checksum(one) or _is_checksum(other)):
            yield f"{inside}{key}{_DIFFERS}"
        elif one != other:
            yield f"{inside}{key} is {_short(one)}, not {_short(other)}"


def _is_checksum(value: Any) -> bool:
    if isinstance(value, list) and value:
        return all(map(_is_checksum, value))
    return isinstance(value, str) and _CHECKSUM.fullmatch(value) is not None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _write_once(path: Path, text: str) -> bool:
    """Writes a file that does not exist yet; of two processes that start at once, one gets True."""
    part = _part_of(path)
    with _cleaning_up(path, part):
        part.write_bytes(text.encode())
        _flush(part)
        try:
            os.link(part, path)  # unlike a rename it fails where the name is taken
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if path.exists():
                return False
            os.replace(part, path)
        finally:
            _remove(part)
        _flush_folder(path.parent)
    return True


def _part_of(path: Path) -> Path:
    """The name under which a file or folder is written before it gets its own."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _is_partial(path: Path) -> bool:
    return _PARTIAL.fullmatch(path.name) is not None


@contextmanager
def _cleaning_up(path: Path, part: Path | None = None) -> Iterator[None]:
    """Removes the partial file if anything fails, and names the file in the error."""
    try:
        yield
    except BaseException as error:
        if part is not None:
            _remove(part)
        failed = isinstance(error, OSError) or SYSTEM_ERROR.search(str(error))
        if isinstance(error, Exception) and failed and not isinstance(error, NotWritten):
            raise NotWritten(path, error) from error
        raise


def _remove(path: Path) -> None:
    """Removes a file or a folder; it may be gone, or the disk may fail once more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":
        _flush(folder)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
