"""The version of saved reports and resume states, and the release that wrote another one."""

from typing import Any

VERSION = 5
_LAST_OF_RELEASE = {"0.1": 4}  # release -> the last version that it wrote


def written_by_another(version: Any) -> str | None:
    """Says which release wrote a version other than ours; None for ours.

    Args:
        version: As the file states it; None where it states none, as resume states of 0.1 do.
    """
    if type(version) is int and version == VERSION:
        return None
    if version is None:
        version = 0
    if type(version) is not int or version < 0:
        return f"states the version {version!r}, which no release wrote"
    for release, last in _LAST_OF_RELEASE.items():
        if version <= last:
            return f"was written by arcee_lab {release}"
    return "was written by a later release of arcee_lab"
