"""The committed price of a dump keeps to its targets."""

import re
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"


def test_what_a_dump_costs():
    sections = re.split(r"^## ", RESULTS.read_text(), flags=re.M)
    (price,) = [part for part in sections if part.startswith("What a dump costs")]
    rows = re.findall(r"^\| (.*): main thread \| ([\d.]+) \| <= ([\d.]+) \| (\w+) \|$", price, re.M)
    assert [row[0] for row in rows] == ["the demo", "one AFM layer, bfloat16"]
    assert all(float(got) <= float(most) and word == "pass" for _, got, most, word in rows)
