"""The folder that a path or a URL names."""

import os

from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.folders.remote import RemoteFolder


def folder_of(target: str | os.PathLike[str] | Folder) -> Folder:
    """The folder of a path or of an fsspec URL such as `s3://bucket/store`.

    Raises:
        FileError: A protocol that fsspec does not know, or whose package is not installed.
    """
    if isinstance(target, Folder):
        return target
    text = os.fspath(target)
    if "://" not in text:
        return LocalFolder(text)
    if text.startswith(("file://", "local://")):
        return LocalFolder(text.split("://", 1)[1])
    return RemoteFolder(text)
