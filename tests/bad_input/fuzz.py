"""Reads many mutated files in this process; one line of JSON per finding, and a summary.

    python tests/bad_input/fuzz.py [COUNT] [FIRST] [WORD]

COUNT mutations, numbered from FIRST, of the kinds of `file_kinds` whose names hold WORD. Each
number is a seed: `fuzz.py 1 17` repeats mutation 17 alone. A finding is an error that is none of
our tree, or anything that takes more than five seconds.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ARCEE_LAB_PROGRESS", "0")

from cases import Case, outcome
from file_kinds import KINDS, FileKind
from ground import Ground
from mutate import mutated


def main() -> None:
    """Runs the mutations and prints what was found."""
    words = sys.argv[1:] + ["100", "0", ""][len(sys.argv) - 1 :]
    count, first, word = int(words[0]), int(words[1]), words[2]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ground = Ground(Path(folder))
        ground.warm_up()
        kinds = [kind for kind in KINDS if word in kind.name for _ in range(kind.share)]
        began = time.perf_counter()
        tally = {"mutations": 0, "refused": 0, "read": 0, "findings": 0}
        slowest = ("", 0.0)
        for number in range(first, first + count):
            kind = random.Random(f"kind {number}").choice(kinds)
            name = f"{number} {kind.name}"
            found, seconds = one(ground, kind, number)
            tally["mutations"] += 1
            tally[found[0]] += 1
            slowest = max(slowest, (name, seconds), key=lambda pair: pair[1])
            if found[0] == "findings":
                say({"name": name, "wrong": found[1], "said": found[2], "seconds": seconds})
        seconds = round(time.perf_counter() - began, 1)
        say({"summary": tally | {"seconds": seconds, "slowest": slowest}})


def one(ground: Ground, kind: FileKind, number: int) -> tuple[tuple[str, ...], float]:
    """One mutation: what came of it, and how long it took."""
    rng = random.Random(f"{kind.name} {number}")
    folder = ground.copy(kind.folder(ground))
    file = rng.choice(sorted(folder.glob(kind.file)))
    content = file.read_bytes()
    forged = kind.kind.startswith("forged")
    changed = mutated(content, rng, "safetensors" if forged else kind.kind)
    file.unlink()
    file.write_bytes(changed)
    if forged:  # the checksum too, so that the reader gets as far as the numbers
        _forge(folder, file, changed, states="states" in kind.kind)
    case = Case(f"{number} {kind.name}", lambda g: kind.read(g, folder, file))
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        found = outcome(case, ground)
    shutil.rmtree(folder)
    if found.wrong == "it was accepted":
        return ("read",), found.seconds
    if not found.wrong:
        return ("refused",), found.seconds
    return ("findings", found.wrong, found.said), found.seconds


def _forge(folder: Path, file: Path, content: bytes, *, states: bool) -> None:
    about = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if states:
        (path,) = folder.glob("*.json")
        whole = json.loads(path.read_text())
        whole["states"] |= about
    else:
        path = folder / "manifest.json"
        whole = json.loads(path.read_text())
        for shard in whole["shards"]:
            for entry in (shard["tokens"], *shard["sites"].values()):
                if (folder / entry["path"]) == file:
                    entry |= about
    path.unlink()
    path.write_text(json.dumps(whole))


def say(value: dict[str, Any]) -> None:
    """Prints a line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
