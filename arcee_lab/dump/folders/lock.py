"""One writer at a time, also after a writer was killed: the system lets go of a dead one's lock."""

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
    """Holds the lock on a file for the block.

    Of several ranks the first takes it alone and then shares it, so that the others of its job get
    in, and another job does not as long as any rank of this one lives.

    Args:
        path: The file; it must exist and not be replaced.
        first: Whether this is the first rank; the others come when it holds the lock.
        ranks: Processes of the job.

    Raises:
        ValueError: Somebody else holds it.
    """
    if fcntl is None:
        raise FileError(
            f"{path.parent} cannot be locked: this system has no POSIX file locks. Write to an "
            "fsspec target, or under Linux, macOS or WSL"
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
        os.close(descriptor)  # which lets go


def busy(folder: object) -> ValueError:
    """The error for a folder that another process writes to."""
    return ValueError(
        f"another process is writing to {folder}; expected to be the only one. Wait for it or stop "
        "it, then repeat the command"
    )
