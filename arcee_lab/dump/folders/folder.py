"""What every folder of a store can do, local or remote."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arcee_lab.errors import FileError

Content = bytes | Callable[[Path], object]
_LONGEST = 1024  # characters of a path
_NO_PARTS = {"", ".", ".."}


@dataclass(frozen=True)
class Written:
    """Size and checksum of a file that was written.

    Attributes:
        bytes: Its size.
        sha256: Its checksum.
    """

    bytes: int
    sha256: str


def plain_path(path: str) -> str:
    """Checks by its text that a path names a file inside the store's folder.

    Raises:
        FileError: It is empty, absolute or too long, or holds `..`, NUL or a backslash.
    """
    parts = path.split("/")
    if (
        len(path) > _LONGEST
        or not _NO_PARTS.isdisjoint(parts)
        or "\0" in path
        or "\\" in path
        or ":" in parts[0]
    ):
        shown = path if len(path) <= 80 else path[:77] + "..."
        raise FileError(
            f"path {shown!r} leads out of the store; expected one from the store's own folder, "
            "with forward slashes and without '..'."
        )
    return path


class Folder(ABC):
    """Files by their path inside the folder, with forward slashes; each is complete or absent.

    Every call that takes a path raises a FileError if it leads out of the folder.
    """

    name: str

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def write(self, path: str, content: Content) -> Written:
        """Writes a file from bytes, or with a function that writes them to a local path.

        Raises:
            NotWritten: A full or failing disk.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """All bytes of a small file."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of a file; None if it is missing."""

    @abstractmethod
    def local(self, path: str, written: Written | None = None) -> Path:
        """A local path of the file; a remote file is copied first.

        Args:
            path: The file.
            written: Expected size and checksum; a copy that differs is not kept.
        """

    def release(self, path: str) -> None:
        """Removes the copy that `local` made of a remote file; local files stay."""
        return

    @abstractmethod
    def remove(self, path: str) -> None:
        """Removes a file, or a folder with its files; it may be missing."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether the folder itself is there."""

    @abstractmethod
    def claim(self, settings: Mapping[str, Any]) -> None:
        """Reserves the folder for one run; see `arcee_lab.runs.storage.claim`."""

    @abstractmethod
    def exclusive(self, *, first: bool = True, ranks: int = 1) -> AbstractContextManager[None]:
        """Excludes other jobs from the folder inside the block.

        Args:
            first: Whether this is the job's first rank; the others enter after it.
            ranks: Processes of the job.

        Raises:
            FileError: Another process is writing here.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space in bytes; None if it is unknown."""
