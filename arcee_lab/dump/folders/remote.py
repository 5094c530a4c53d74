"""A store in a bucket or on any other file system that fsspec supports."""

import json
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError

from arcee_lab.dump.folders import lock
from arcee_lab.dump.folders.folder import Content, Folder, Written, plain_path
from arcee_lab.errors import FileError, NotWritten, StoreDamaged
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import parse_json

# An object appears when its upload ends, so it needs no temporary name.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "r2", "memory"}
_LOCK = "lock.json"
_BEAT = 20.0  # seconds between two heartbeats of a writer
_DEAD = 6 * _BEAT  # without one, the writer counts as dead


class RemoteFolder(Folder):
    """A folder at a URL.

    Files that are read are copied to a temporary folder one by one and stay there until the process
    ends. Such file systems have no lock that a dead writer loses, so a writer sends heartbeats.

    Args:
        url: E.g. `s3://bucket/store`; credentials come from fsspec's own configuration.
    """

    def __init__(self, url: str):
        from fsspec.core import url_to_fs

        protocol = url.split("://", 1)[0]
        try:
            self._fs, root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise FileError(
                f"{protocol}:// cannot be opened: {error}. Install the package of that file "
                "system (s3fs for s3, gcsfs for gs), or choose a local folder."
            ) from error
        self._root = root.rstrip("/")
        # Only the path: a URL may hold credentials, and names appear in messages.
        self.name = f"{protocol}://{self._root.lstrip('/')}"
        self._appears_whole = protocol in _OBJECT_STORES
        self._copies: Path | None = None

    def write(self, path: str, content: Content) -> Written:
        """See `Folder`."""
        target = self._at(path)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                local = Path(scratch) / "content"
                content(local) if callable(content) else local.write_bytes(content)
                written = Written(local.stat().st_size, storage.sha256(local))
                self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                if self._appears_whole:
                    self._fs.put_file(str(local), target)
                else:
                    part = f"{target}.{uuid4().hex[:8]}.part"
                    self._fs.put_file(str(local), part)
                    self._fs.mv(part, target)
        except (OSError, SafetensorError) as error:
            raise NotWritten(f"{self.name}/{path}", error) from error
        return written

    def read(self, path: str) -> bytes:
        """See `Folder`."""
        return self._fs.cat_file(self._at(path))

    def size(self, path: str) -> int | None:
        """See `Folder`."""
        self._fs.invalidate_cache()
        try:
            return int(self._fs.info(self._at(path))["size"])
        except FileNotFoundError:
            return None

    def local(self, path: str, written: Written | None = None) -> Path:
        """See `Folder`."""
        if self._copies is None:
            self._copies = Path(tempfile.mkdtemp(prefix="arcee_lab-"))
            weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        copy = self._copies / plain_path(path)
        if not copy.exists() and self.size(path) is not None:
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_name(copy.name + ".part")
            if written is not None and self.size(path) != written.bytes:
                raise StoreDamaged(f"it has {self.size(path)} bytes; expected {written.bytes}")
            self._fs.get_file(self._at(path), str(part))
            if written is not None and storage.sha256(part) != written.sha256:
                raise StoreDamaged("its checksum is not the manifest's")
            os.replace(part, copy)
        return copy

    def release(self, path: str) -> None:
        """See `Folder`."""
        if self._copies is not None:
            (self._copies / plain_path(path)).unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        """See `Folder`."""
        target = self._at(path)
        self._fs.invalidate_cache()
        try:
            if self._fs.exists(target):
                self._fs.rm(target, recursive=True)
        except OSError as error:
            raise NotWritten(f"{self.name}/{path}", error) from error

    def exists(self) -> bool:
        """See `Folder`."""
        self._fs.invalidate_cache()
        return self._fs.isdir(self._root)

    def claim(self, settings: Mapping[str, Any]) -> None:
        """See `Folder`."""
        if self.size(storage.RUN_FILE) is not None:
            theirs = self._object(storage.RUN_FILE)
            storage.check_same_run(self.name, theirs, settings)
            return
        if self.exists() and self._fs.ls(self._root, detail=False):
            raise FileError(f"output folder {self.name} holds other files; choose a new one.")
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        self.write(storage.RUN_FILE, text.encode())

    def _object(self, path: str) -> dict[str, Any]:
        """An object in a JSON file, which somebody else may have written."""
        where = f"{self.name}/{path}"
        value = parse_json(self.read(path), where, error=FileError, do="remove the folder")
        if not isinstance(value, dict):
            raise FileError(f"{where} holds no object; remove the folder, or choose another.")
        return value

    @contextmanager
    def exclusive(self, *, first: bool = True, ranks: int = 1) -> Iterator[None]:
        """See `Folder`."""
        if not first:
            yield  # the first rank sends the heartbeats
            return
        if self.size(_LOCK) is not None:
            beat = self._object(_LOCK)
            age = time.time() - float(beat.get("time") or 0)
            if age < _DEAD:
                heartbeat = f"last heartbeat {age:.0f} s ago; after {_DEAD:.0f} s it counts as dead"
                raise lock.busy(self.name, f" ({heartbeat})")
        me, over = uuid4().hex, threading.Event()

        def beat_on() -> None:
            while not over.wait(_BEAT):
                self._beat(me)

        self._beat(me)
        if self._object(_LOCK).get("writer") != me:
            raise lock.busy(self.name)
        thread = threading.Thread(target=beat_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.remove(_LOCK)

    def free_bytes(self) -> int | None:
        """See `Folder`."""
        return None

    def _beat(self, writer: str) -> None:
        self.write(_LOCK, json.dumps({"writer": writer, "time": time.time()}).encode())

    def _at(self, path: str) -> str:
        return f"{self._root}/{plain_path(path)}"
