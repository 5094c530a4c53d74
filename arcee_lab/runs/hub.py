"""Which names may be looked up on the Hub: never one that is or looks like a path."""

import os
import re

_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
# A file's suffix; that of a version, as in AFM-4.5B, begins with a digit.
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]*")


def is_hub_id(name: str) -> bool:
    """Whether a name is a Hub id, `name` or `owner/name`, and cannot be a path.

    A name counts as a path if a file or folder has it, or if it has a suffix such as `.conll`,
    `./`, `/`, `~`, a backslash or a second slash.

    Example:
        >>> from arcee_lab.runs.hub import is_hub_id
        >>> is_hub_id("arcee-ai/AFM-4.5B"), is_hub_id("data/train.conll"), is_hub_id("./AFM-4.5B")
        (True, False, False)
    """
    if not _ID.fullmatch(name) or os.path.lexists(name):
        return False
    return _SUFFIX.fullmatch(os.path.splitext(name)[1]) is None
