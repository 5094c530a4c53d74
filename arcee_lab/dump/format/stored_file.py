"""The record of a file in a manifest: checked one by one, or all records of a manifest at once."""

import re
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from arcee_lab.dump.format.json_fields import MOST, Fields, short
from arcee_lab.errors import StoreDamaged

LONGEST_PATH = 255
PATH = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*(/[A-Za-z0-9_\-][A-Za-z0-9_.\-]*)*")
_PARTS = re.compile(r"(?:[A-Za-z0-9_\-][A-Za-z0-9_.\-]*+[/\n])*+")  # of many paths, a line each
_ENDING = ".safetensors"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGITS = re.compile(r"[0-9a-f]*")
_FIELDS = itemgetter("path", "bytes", "sha256")


class StoredFile(NamedTuple):
    """One file of a store.

    Attributes:
        path: Relative to the store's folder, with forward slashes.
        bytes: Its size.
        sha256: Its checksum.
        nonzeros: Values that are not zero; None for tokens and if the layout does not count them.
    """

    path: str
    bytes: int
    sha256: str
    nonzeros: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; `read_file` is the inverse."""
        value = {"path": self.path, "bytes": self.bytes, "sha256": self.sha256}
        return value if self.nonzeros is None else value | {"nonzeros": self.nonzeros}


_NEW = partial(tuple.__new__, StoredFile)  # `StoredFile._make` in half the time


def read_file(value: Any, where: str, *, most: int | None = None) -> StoredFile:
    """Checks a record field by field, so that the error names the field that is wrong.

    Args:
        value: The record as JSON values.
        where: Its name in errors.
        most: Most nonzeros; None if the record does not state their number.

    Raises:
        StoreDamaged: A field is missing, unknown or out of range.
    """
    fields = Fields(value, where)
    path, sha256 = fields.text("path"), fields.text("sha256")
    if len(path) > LONGEST_PATH or not PATH.fullmatch(path) or not path.endswith(_ENDING):
        raise StoreDamaged(f"{where}: path {short(path)} is not a .safetensors file.")
    if not _SHA256.fullmatch(sha256):
        raise StoreDamaged(f"{where}: sha256 is {short(sha256)}; expected 64 hexadecimal digits.")
    nonzeros = None if most is None else fields.number("nonzeros", most)
    size = fields.number("bytes")
    fields.done()
    return StoredFile(path, size, sha256, nonzeros)


def read_files(plain: Sequence[Any], counted: Sequence[Any]) -> list[StoredFile] | None:
    """Checks many records at once, in a tenth of the time: a store has thousands of files.

    Args:
        plain: Records without a number of nonzeros.
        counted: Records with one, of which only the sign is checked.

    Returns:
        The files, the plain ones first; None if `read_file` would refuse one of them.
    """
    records = [*plain, *counted]
    if not records:
        return []
    try:
        if [*map(len, records)] != [3] * len(plain) + [4] * len(counted):
            return None
        paths, sizes, checksums = zip(*map(_FIELDS, records), strict=True)
        counts = [record["nonzeros"] for record in counted]
    except (KeyError, TypeError):
        return None
    if {*map(type, paths), *map(type, checksums)} != {str}:
        return None
    if {*map(type, sizes), *map(type, counts)} != {int}:
        return None
    lines = "\n".join(paths) + "\n"
    sound = (
        lines.count(f"{_ENDING}\n") == lines.count("\n") == len(paths)  # none holds a line break
        and max(map(len, paths)) <= LONGEST_PATH
        and _PARTS.fullmatch(lines)
        and {*map(len, checksums)} == {64}
        and _DIGITS.fullmatch("".join(checksums))
        and min(sizes) >= 0
        and max(sizes) <= MOST
        and min(counts, default=0) >= 0
    )
    if not sound:
        return None
    nonzeros = [None] * len(plain) + counts
    return [*map(_NEW, zip(paths, sizes, checksums, nonzeros, strict=True))]
