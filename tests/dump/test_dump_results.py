"""The committed price and size of a dump keep to their targets."""

import ast
import re
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"


def test_what_a_dump_costs():
    sections = re.split(r"^## ", RESULTS.read_text(), flags=re.M)
    (price,) = [part for part in sections if part.startswith("What a dump costs")]
    rows = re.findall(r"^\| (.*): main thread \| ([\d.]+) \| <= ([\d.]+) \| (\w+) \|$", price, re.M)
    assert [row[0] for row in rows] == ["the demo", "one AFM layer, bfloat16"]
    assert all(float(got) <= float(most) and word == "pass" for _, got, most, word in rows)


def test_what_a_shard_takes():
    sections = re.split(r"^## ", RESULTS.read_text(), flags=re.M)
    (disk,) = [part for part in sections if part.startswith("Activations on disk")]
    words = re.findall(r"\| [<>]= [\d.]+ ?[A-Za-z/]* \| (\w+) \|$", disk, re.M)
    assert len(words) == 8
    assert set(words) == {"pass"}


def test_a_dump_and_a_query_load_no_pandas():
    """It takes .3 s of CPU time and 40 MB, which only a table is worth."""
    package = Path(__file__).parents[2] / "arcee_lab" / "dump"
    files = [path for path in package.rglob("*.py") if path.parent.name != "exports"]
    assert len(files) > 30
    for path in files:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pandas", "pyarrow"}, path
