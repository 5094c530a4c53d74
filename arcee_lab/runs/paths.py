"""What is at a path, in words: a file that is not there is not the same as a pipe."""

import os
import stat
from pathlib import Path

from arcee_lab.runs.json_text import reason


def no_file(path: str | os.PathLike[str]) -> str | None:
    """Why a path is no plain file, such as "missing" or "a pipe"; None if it is one.

    Example:
        >>> from arcee_lab.runs.paths import no_file
        >>> no_file("/dev/null"), no_file("no/such/file")
        ('a device', 'missing')
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except ValueError:
        return "no path (it holds a null byte)"
    except OSError as error:
        return f"out of reach ({reason(error)})"
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
