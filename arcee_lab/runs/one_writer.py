"""One process at a time for the folder of a run; two would remove each other's unfinished files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from arcee_lab.errors import FileError
from arcee_lab.runs.storage import make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def only_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other processes from writing the same run at the same time.

    The folder itself is locked, which leaves no file behind and ends with the process. Where a
    system cannot lock folders, nothing is checked.

    Args:
        folder: The folder; it is created if it is missing, and removed if it stays empty.

    Raises:
        FileError: Another process is writing to it.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    make_folder(folder)
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None and descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_new = False
                raise FileError(
                    f"another process is writing to {folder}; expected to be the only one. Wait "
                    "for it or stop it, then repeat the same call or command."
                ) from None
            except OSError:  # a file system without locks
                pass
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)  # which releases the lock
        if is_new:
            with suppress(OSError):
                folder.rmdir()
