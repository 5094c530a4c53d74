"""What the folder of a store can do, wherever it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arcee_lab.errors import FileError

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


class WriteFailed(FileError):
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
        raise FileError(
            f"path {shown!r} leads out of the store; expected one from the store's own folder, "
            "with forward slashes and without '..'."
        )
    return path


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

    def release(self, path: str) -> None:
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
    def exclusive(self, *, first: bool = True, ranks: int = 1) -> AbstractContextManager[None]:
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
