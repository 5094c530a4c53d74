"""One writer at a time; the system releases the lock of a writer that died."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arcee_lab.errors import FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def held(path: Path, *, first: bool = True, ranks: int = 1) -> Iterator[None]:
    """Holds the lock on a file inside the block.

    The first rank takes the lock exclusively and then shares it. The other ranks of its job can
    then enter, and another job cannot as long as any rank of this one runs.

    Args:
        path: The file; it must exist and not be replaced.
        first: Whether this is the first rank; the others come after it holds the lock.
        ranks: Processes of the job.

    Raises:
        FileError: Another job holds it, or the system has no file locks.
    """
    if fcntl is None:
        raise FileError(
            f"{path.parent} cannot be locked: this system has no POSIX file locks. Write to an "
            "fsspec target, or under Linux, macOS or WSL."
        )
    # Opened for writing, which a lock over NFS needs.
    descriptor = os.open(path, os.O_RDWR)
    try:
        try:
            if first:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if ranks > 1:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise busy(path.parent) from error
        yield
    finally:
        os.close(descriptor)  # which releases the lock


def busy(folder: object, details: str = "") -> FileError:
    """The error for a folder that another process writes to."""
    return FileError(
        f"another process is writing to {folder}{details}; expected to be the only one. Wait for "
        "it or stop it, then repeat the command."
    )
