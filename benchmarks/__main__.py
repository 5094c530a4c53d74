"""Runs one benchmark, or all: `python3 run.py bench [NAME [ITS FLAGS]]`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_ONE = {"__main__", "paired", "results", "targets"}


def main(words: list[str]) -> int:
    """Runs `words[0]` with the other words as its flags; without a name every benchmark in turn."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_ONE)
    if words and words[0] not in names:
        print(f"bench: no benchmark {words[0]!r}; expected one of {', '.join(names)}")
        return 2
    chosen = [words[0]] if words else names
    codes = [
        subprocess.run([sys.executable, HERE / f"{name}.py", *words[1:]], check=False).returncode
        for name in chosen
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
