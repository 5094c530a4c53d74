"""Mutated files end in an error of our tree, or are read: a short run, and a long one (slow)."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def fuzz(folder, count, *more):
    child = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), str(count), *map(str, more)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    rows = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    return rows[:-1], rows[-1]["summary"]


@pytest.mark.parametrize(
    "count", [200, pytest.param(5_000, marks=pytest.mark.slow)], ids=["200", "5000"]
)
def test_mutated_files_end_in_an_error_of_the_tree(tmp_path, count):
    found, summary = fuzz(tmp_path, count)
    assert not found, "\n".join(map(str, found[:20]))
    assert summary["mutations"] == count
    # Neither everything is refused before it is read, nor is everything taken as it is.
    assert summary["refused"] > count / 4
    assert summary["read"] > count / 20


def test_a_seed_gives_the_same_mutation():
    sys.path.insert(0, str(HERE))
    try:
        from mutate import mutated
    finally:
        sys.path.remove(str(HERE))
    content = b'{"a": [1, 2, {"b": "text"}], "c": 0.5}'
    for kind in ("json", "jsonl", "bytes"):
        drawn = [mutated(content, random.Random(f"{kind} {n}"), kind) for n in range(50)]
        assert drawn == [mutated(content, random.Random(f"{kind} {n}"), kind) for n in range(50)]
        assert sum(one != content for one in drawn) > 40
        assert len(set(drawn)) > 25
