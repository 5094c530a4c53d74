"""Runs the table of bad inputs in this process: one line of JSON per case.

    python tests/bad_input/run_table.py [WORD]     only cases whose names hold the word

A process of its own, because the tests' import hook checks types before our own checks can.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ARCEE_LAB_PROGRESS", "0")

import call_cases
import cases
import config_cases
import flag_cases
import saved_cases
import text_cases
from ground import Ground

TABLES = (config_cases, text_cases, flag_cases, saved_cases, call_cases)


def table() -> list[cases.Case]:
    """Every case, in order."""
    found = [case for part in TABLES for case in part.cases()]
    names = [case.name for case in found]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"two cases of one name: {sorted(twice)[:3]}"
    return found


def main() -> None:
    """Runs and prints."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(folder))
        os.chdir(ground.folder)
        ground.warm_up()  # imports and files, which are no part of any case
        for case in table():
            if word in case.name:
                sys.stdout.write(json.dumps(cases.outcome(case, ground).record()) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
