"""Runs one benchmark, or all: `python3 run.py bench [NAME [--times N] [ITS FLAGS]]`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_ONE = {"__main__", "paired", "repeated", "results", "targets"}


def main(words: list[str]) -> int:
    """Runs `words[0]` with the other words as its flags; without a name every benchmark in turn."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_ONE)
    if words and words[0] not in names:
        print(f"bench: no benchmark {words[0]!r}; expected one of {', '.join(names)}")
        return 2
    if words[1:2] == ["--times"]:
        from repeated import repeat

        if not words[2:] or not words[2].isdecimal() or int(words[2]) < 1:
            print("bench: --times takes how often to run, 1 or more, such as --times 3")
            return 2
        return repeat(HERE / f"{words[0]}.py", words[3:], times=int(words[2]))
    chosen = [words[0]] if words else names
    codes = [
        subprocess.run([sys.executable, HERE / f"{name}.py", *words[1:]], check=False).returncode
        for name in chosen
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
