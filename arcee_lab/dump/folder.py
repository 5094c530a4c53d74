"""The folder of a store: on this machine, or wherever fsspec reaches."""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arcee_lab import storage
from arcee_lab.dump import lock

Content = bytes | Callable[[Path], object]


@dataclass(frozen=True)
class Written:
    """What is known of a file that was written.

    Attributes:
        bytes: Its size.
        sha256: Its checksum.
    """

    bytes: int
    sha256: str


class Folder(ABC):
    """Files by their path from the folder, with forward slashes; each is whole or absent."""

    name: str

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def write(self, path: str, content: Content) -> Written:
        """Writes a file: bytes, or a function that writes them to the local path it is given."""

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

        Raises:
            ValueError: A link that leads out of the folder.
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
        """Makes the folder the home of one run; see `arcee_lab.storage.claim`."""

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
        target = self.path / path
        storage.make_folder(target.parent)
        storage.write_atomic(target, content)
        return Written(target.stat().st_size, storage.sha256(target))

    def read(self, path: str) -> bytes:
        """See `Folder`."""
        return self.local(path).read_bytes()

    def size(self, path: str) -> int | None:
        """See `Folder`."""
        target = self.path / path
        return target.stat().st_size if target.is_file() else None

    def local(self, path: str, written: Written | None = None) -> Path:
        """See `Folder`."""
        target = self.path / path
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{target} leads out of the store; expected a file inside {self.path}")
        return target

    def remove(self, path: str) -> None:
        """See `Folder`."""
        target = self.path / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def exists(self) -> bool:
        """See `Folder`."""
        return self.path.is_dir()

    def claim(self, settings: Mapping[str, Any]) -> None:
        """See `Folder`."""
        storage.claim(self.path, settings)

    def check_claim(self, settings: Mapping[str, Any]) -> None:
        """Raises what `claim` would and touches nothing."""
        storage.check_claim(self.path, settings)

    @contextmanager
    def alone(self, *, first: bool = True, ranks: int = 1) -> Iterator[None]:
        """See `Folder`."""
        with lock.held(self.path / storage.RUN_FILE, first=first, ranks=ranks):
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
    from arcee_lab.dump.remote import RemoteFolder

    return RemoteFolder(text)
