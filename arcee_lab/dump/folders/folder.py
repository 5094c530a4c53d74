"""The folder of a store: on this machine, or wherever fsspec reaches."""

import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from arcee_lab.dump.folders import lock
from arcee_lab.runs import storage

Content = bytes | Callable[[Path], object]
_LONGEST = 1024  # characters of a path


@dataclass(frozen=True)
class Written:
    """What is known of a file that was written.

    Attributes:
        bytes: Its size.
        sha256: Its checksum.
    """

    bytes: int
    sha256: str


class WriteFailed(ValueError):
    """A file of a store could not be written or removed.

    Args:
        path: The file.
        error: What the system said.
    """

    def __init__(self, path: object, error: Exception):
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        super().__init__(
            f"{path} cannot be written: {reason}. What was finished before is kept; make room or "
            "repair the disk, then repeat the same command to continue."
        )


def plain_path(path: str) -> str:
    """Checks that a path names a file below a folder, by its words alone.

    Raises:
        ValueError: It is empty, absolute or too long, or holds `..`, NUL or a backslash.
    """
    parts = path.split("/")
    if (
        len(path) > _LONGEST
        or any(part in ("", ".", "..") for part in parts)
        or any(mark in path for mark in ("\0", "\\"))
        or ":" in parts[0]
    ):
        shown = path if len(path) <= 80 else path[:77] + "..."
        raise ValueError(
            f"path {shown!r} leads out of the store; expected one from the store's own folder, "
            "with forward slashes and without '..'."
        )
    return path


def inside(root: Path, path: str) -> Path:
    """Where a path of a store is on this machine; nothing of a store is touched without this check.

    No part of the path may be a symbolic link, so nobody who wrote the store decides which other
    file is read, replaced or removed; the root itself may be one.

    Raises:
        ValueError: The path leads out of the root or through a link, or names something that is
            neither a file nor a folder.
    """
    target = root
    for part in plain_path(path).split("/"):
        target = target / part
        try:
            mode = target.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ValueError(f"{target} cannot be looked at: {error.strerror}.") from error
        if stat.S_ISLNK(mode):
            raise ValueError(
                f"{target} is a symbolic link, which may lead out of the store; expected plain "
                "files and folders. Copy the store with its links followed (cp -rL) if you trust "
                "who made it."
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(
                f"{target} is a device, a pipe or a socket; expected a plain file. Do not trust "
                "this store."
            )
    return root / path


class Folder(ABC):
    """Files by their path from the folder, with forward slashes; each is whole or absent.

    Every call that takes a path raises ValueError where it leads out of the folder.
    """

    name: str

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def write(self, path: str, content: Content) -> Written:
        """Writes a file: bytes, or a function that writes them to the local path it is given.

        Raises:
            WriteFailed: A full or failing disk.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """All bytes of a small file."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of a file; None where it is missing."""

    @abstractmethod
    def local(self, path: str, written: Written | None = None) -> Path:
        """A path under which the file can be opened; of a remote one, a copy.

        Args:
            path: The file.
            written: What a remote file has to be; another one is not kept.
        """

    def let_go(self, path: str) -> None:
        """Removes the copy that `local` made of a remote file; nothing happens to others."""
        return

    @abstractmethod
    def remove(self, path: str) -> None:
        """Removes a file or a folder with its files; nothing happens where it is missing."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether the folder itself is there."""

    @abstractmethod
    def claim(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder the home of one run; see `arcee_lab.runs.storage.claim`."""

    @abstractmethod
    def alone(self, *, first: bool = True, ranks: int = 1) -> AbstractContextManager[None]:
        """Keeps other jobs out for the block.

        Args:
            first: Whether this is the job's first rank; the others come when it is inside.
            ranks: Processes of the job.

        Raises:
            ValueError: Another process is writing here.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Bytes that still fit; None where nobody can say."""


class LocalFolder(Folder):
    """A folder of this machine's file system, or of a network's that is mounted."""

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
        except ValueError:  # it names the file itself
            raise
        except (OSError, SafetensorError) as error:
            raise WriteFailed(target, error) from error

    def read(self, path: str) -> bytes:
        """See `Folder`."""
        return inside(self.path, path).read_bytes()

    def size(self, path: str) -> int | None:
        """See `Folder`."""
        target = inside(self.path, path)
        return target.stat().st_size if target.is_file() else None

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
            raise WriteFailed(target, error) from error

    def exists(self) -> bool:
        """See `Folder`."""
        return self.path.is_dir()

    def claim(self, settings: Mapping[str, Any]) -> None:
        """See `Folder`."""
        inside(self.path, storage.RUN_FILE)
        storage.claim(self.path, settings)

    def check_claim(self, settings: Mapping[str, Any]) -> None:
        """Raises what `claim` would and touches nothing."""
        inside(self.path, storage.RUN_FILE)
        storage.check_claim(self.path, settings)

    @contextmanager
    def alone(self, *, first: bool = True, ranks: int = 1) -> Iterator[None]:
        """See `Folder`."""
        run_file = inside(self.path, storage.RUN_FILE)
        with lock.held(run_file, first=first, ranks=ranks):
            if first:  # of a writer that was killed; nobody else writes now
                storage.remove_beginnings(self.path)
            yield

    def free_bytes(self) -> int | None:
        """See `Folder`."""
        place = self.path.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


def folder_of(target: "str | os.PathLike[str] | Folder") -> Folder:
    """The folder of a path or of an fsspec URL such as `s3://bucket/store`.

    Raises:
        ValueError: A protocol that fsspec does not know, or whose package is not installed.
    """
    if isinstance(target, Folder):
        return target
    text = os.fspath(target)
    if "://" not in text:
        return LocalFolder(text)
    if text.startswith(("file://", "local://")):
        return LocalFolder(text.split("://", 1)[1])
    from arcee_lab.dump.folders.remote import RemoteFolder

    return RemoteFolder(text)
