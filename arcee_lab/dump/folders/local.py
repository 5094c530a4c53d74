"""A store's folder on this machine; every path is checked before a file is opened or changed."""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from arcee_lab.dump.folders import lock
from arcee_lab.dump.folders.folder import Content, Folder, Written, plain_path
from arcee_lab.errors import FileError, NotWritten
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import reason


def inside(root: Path, path: str) -> Path:
    """The local path of a file in a store; every access to a store goes through this check.

    No part of the path may be a symbolic link, so that the author of a store cannot decide which
    other file is read, replaced or removed. The root itself may be one.

    Raises:
        FileError: The path leads out of the root or through a link, or names something that is
            neither a file nor a folder.
    """
    _look(root, path)
    return root / path


def _look(root: Path, path: str) -> os.stat_result | None:
    """Checks a path as `inside` says; what the system knows of its last part, None without one."""
    target, found = os.fspath(root), None
    for part in plain_path(path).split("/"):
        target = f"{target}{os.sep}{part}"  # a Path for each part would take longer than lstat
        try:
            found = os.lstat(target)
        except (FileNotFoundError, NotADirectoryError):
            found = None
            continue
        except OSError as error:
            raise FileError(f"{target} cannot be looked at: {reason(error)}.") from error
        if stat.S_ISLNK(found.st_mode):
            raise FileError(
                f"{target} is a symbolic link, which may lead out of the store; expected plain "
                "files and folders. Copy the store with its links followed (cp -rL) if you trust "
                "who made it."
            )
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise FileError(
                f"{target} is a device, a pipe or a socket; expected a plain file. Do not use "
                "this store."
            )
    return found


class LocalFolder(Folder):
    """A folder of this machine's file systems, mounted network drives included."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.name = str(path)

    def write(self, path: str, content: Content) -> Written:
        """See `Folder`."""
        target = inside(self.path, path)
        try:
            storage.make_folder(target.parent)
            storage.write_atomic(target, content)
            return Written(target.stat().st_size, storage.sha256(target))
        except ValueError:  # NotWritten names the file itself
            raise
        except (OSError, SafetensorError) as error:
            raise NotWritten(target, error) from error

    def read(self, path: str) -> bytes:
        """See `Folder`."""
        _look(self.path, path)
        with open(os.path.join(self.path, path), "rb", buffering=0) as file:
            return file.read()

    def size(self, path: str) -> int | None:
        """See `Folder`."""
        found = _look(self.path, path)
        return found.st_size if found and stat.S_ISREG(found.st_mode) else None

    def local(self, path: str, written: Written | None = None) -> Path:
        """See `Folder`."""
        return inside(self.path, path)

    def remove(self, path: str) -> None:
        """See `Folder`."""
        target = inside(self.path, path)
        try:
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        except OSError as error:
            raise NotWritten(target, error) from error

    def exists(self) -> bool:
        """See `Folder`."""
        return self.path.is_dir()

    def claim(self, settings: Mapping[str, Any]) -> None:
        """See `Folder`."""
        inside(self.path, storage.RUN_FILE)
        storage.claim(self.path, settings)

    def check_claim(self, settings: Mapping[str, Any]) -> None:
        """Raises what `claim` would, and changes nothing."""
        inside(self.path, storage.RUN_FILE)
        storage.check_claim(self.path, settings)

    @contextmanager
    def exclusive(self, *, first: bool = True, ranks: int = 1) -> Iterator[None]:
        """See `Folder`."""
        run_file = inside(self.path, storage.RUN_FILE)
        with lock.held(run_file, first=first, ranks=ranks):
            if first:  # of an interrupted writer; nobody else writes now
                storage.remove_partial_files(self.path)
            yield

    def free_bytes(self) -> int | None:
        """See `Folder`."""
        place = self.path.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free
