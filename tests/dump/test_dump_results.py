"""The committed price and size of a dump keep to their targets."""

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
