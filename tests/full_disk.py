"""A disk that is full at one write below a folder; and what a run's files have to be equal to.

Every way in which bytes reach a disk here goes through one of the calls that `full_disk` replaces:
files that Python opens, safetensors, tokenizers, and the system's fsync, replace, link and mkdir. A
write that fails leaves the half of its bytes, as a full disk does.
"""

import builtins
import errno
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

TIMES = {
    "seconds",
    "costs",
    "tokens_per_second",
    "date",
    "total_evaluation_time_seconds",
}  # keys of times


class Disk:
    """Counts the writes below a folder and fails at one of them.

    Args:
        folder: The folder.
        at: The write that fails, counted from 1; None for the first that is not `known`.
        known: Writes, as `seen` has them, that do not fail again.

    Attributes:
        seen: File and kind of each write, in order.
        fired: Whether it has failed.
    """

    def __init__(self, folder: Path, at: int | None, known: Collection[tuple[str, str]] = ()):
        self.folder, self.at, self.known = str(folder), at, known
        self.seen: list[tuple[str, str]] = []
        self.fired = False

    def full(self, path: Any, kind: str) -> bool:
        """Counts a write; whether it is the one that fails."""
        path = os.fspath(path)
        if not path.startswith(self.folder) or self.fired:
            return False
        # The names of beginnings are drawn.
        write = (re.sub(r"[0-9a-f]{8}\.part", "part", path[len(self.folder) :]), kind)
        self.seen.append(write)
        number = len(self.seen)
        self.fired = write not in self.known if self.at is None else number == self.at
        return self.fired


class _File:
    """An open file whose writes are counted."""

    def __init__(self, file: Any, path: Any, disk: Disk):
        self._file, self._path, self._disk = file, path, disk

    def write(self, data: Any) -> int:
        if self._disk.full(self._path, "write"):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise _no_space(self._path)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def _no_space(path: Any) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))


@contextmanager
def full_disk(
    folder: Path, at: int | None, known: Collection[tuple[str, str]] = ()
) -> Iterator[Disk]:
    """Within the block, one write below the folder finds the disk full; see `Disk`."""
    disk = Disk(folder, at, known)
    told = f"{os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})"

    def opening(real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            if isinstance(path, int) or not set(mode) & set("wxa+"):
                return real(path, mode, *args, **more)
            return _File(real(path, mode, *args, **more), path, disk)

        return opened

    def failing(real: Callable[..., Any], *, of: int = 0) -> Callable[..., Any]:
        def called(*args: Any, **more: Any) -> Any:
            path = args[of]
            path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path
            if disk.full(path, real.__name__):
                raise _no_space(path)
            return real(*args, **more)

        return called

    def making(path: Any, *args: Any, **more: Any) -> None:
        if not os.path.exists(path) and disk.full(path, "mkdir"):
            raise _no_space(path)
        mkdir(path, *args, **more)

    mkdir, serialize = os.mkdir, safetensors.torch.serialize_file
    vocabulary = PreTrainedTokenizerFast._save_pretrained

    def serialized(tensors: Any, filename: Any, metadata: Any = None) -> None:
        if disk.full(filename, "safetensors"):
            Path(filename).with_name(".tmpBEGUN").write_bytes(b"x")
            raise SafetensorError(f"Error while serializing: I/O error: {told}")
        serialize(tensors, filename, metadata=metadata)

    def saved(self: Any, save_directory: Any, *args: Any, **more: Any) -> Any:
        if disk.full(save_directory, "tokenizers"):
            raise Exception(told)  # the very class that tokenizers raises
        return vocabulary(self, save_directory, *args, **more)

    with (
        mock.patch.object(builtins, "open", opening(builtins.open)),
        mock.patch.object(io, "open", opening(io.open)),
        mock.patch.object(os, "fsync", failing(os.fsync)),
        mock.patch.object(os, "replace", failing(os.replace, of=1)),
        mock.patch.object(os, "link", failing(os.link, of=1)),
        mock.patch.object(os, "mkdir", making),
        mock.patch.object(safetensors.torch, "serialize_file", serialized),
        mock.patch.object(PreTrainedTokenizerFast, "_save_pretrained", saved),
    ):
        yield disk


def fill_at_every_write(folder: Path, run: Callable[[], object]) -> set[tuple[str, str]]:
    """Runs the same thing again and again, each time failing at a further write, until none does.

    A run resumes from the files of the one before. So the last is the many-times repeated command,
    and every file has failed at each of its steps once.

    Args:
        folder: Where it writes.
        run: The same call or command; it raises the error, or exits with it.

    Returns:
        The writes that failed.
    """
    failed: set[tuple[str, str]] = set()
    while True:
        with full_disk(folder, None, failed) as disk:
            if not _failed(disk, run):
                assert failed.issuperset(disk.seen)
                return failed
        failed.add(disk.seen[-1])
        left = [str(path) for path in folder.rglob(".tmp*")]
        assert not left, f"a failed write leaves {left}"


def _failed(disk: Disk, run: Callable[[], object]) -> bool:
    """Whether a run ended as it shall where a write failed; without one it must not end early."""
    try:
        run()
    except ValueError as error:
        said = " ".join(str(error).split())
        assert disk.fired, f"it failed by itself: {said}"
        for part in (disk.folder, "cannot be written: No space left on device", "repeat the same"):
            assert part in said, f"{disk.seen[-1]}: {said}"
        assert said.count("cannot be written") == 1, said
        return True
    assert not disk.fired, f"{disk.seen[-1]} failed and nobody noticed"
    return False


def files_of(folder: Path) -> dict[str, Any]:
    """Every file of a folder by its path: bytes, or JSON without the fields that are times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content: Any = path.read_bytes()
            if path.suffix == ".json":
                content = _timeless(json.loads(content))
            found[str(path.relative_to(folder))] = content
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
