"""Several runs of one benchmark, so that an aim is met every time and not by luck.

    python3 run.py bench NAME --times N [ITS FLAGS]

Each run is a process of its own. The section of the last run is kept; below it stands what each
run measured in every row that has a target.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from results import RESULTS, put_section, sections

MEASURED = ("ratio, median", "measured", "minutes", "ms")  # the columns that a target is about
TARGET = re.compile(r"^(<=|>=) ([\d.]+)")


def judged(section: str) -> Iterator[tuple[str, str, float, str]]:
    """The rows with a target: their table, their name, what was measured, and the target."""
    title, header = "", []
    for line in section.splitlines():
        if line.startswith("### "):
            title = line.removeprefix("### ").split(":")[0]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif "target" in header and TARGET.match(target := cells[header.index("target")]):
            column = next(header.index(name) for name in MEASURED if name in header)
            number = float(cells[column].split()[0])
            yield title, cells[0], number, target


def table(runs: Sequence[str]) -> str:
    """What each run measured, by row; a row passes where every run met its target."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for run in runs:
        for title, name, number, target in judged(run):
            found.setdefault((title, name, target), []).append(number)
    lines = ["| table | row | each run | target | |", "|---|---|---|---:|---|"]
    for (title, name, target), numbers in found.items():
        sign, limit = TARGET.match(target).groups()  # type: ignore[union-attr]
        met = [x <= float(limit) if sign == "<=" else x >= float(limit) for x in numbers]
        shown = ", ".join(f"{x:g}" for x in numbers)
        verdict = f"{sum(met)} of {len(met)}"
        lines.append(f"| {title} | {name} | {shown} | {target} | {verdict} |")
    return "\n".join(lines)


def repeat(script: Path, flags: Sequence[str], *, times: int, out: Path = RESULTS) -> int:
    """Runs a benchmark several times and writes its section with the table of all runs."""
    runs, codes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(times):
            path = Path(folder) / f"{number}.md"
            command = [sys.executable, str(script), "--out", str(path), *flags]
            codes.append(subprocess.run(command, check=False).returncode)
            runs.append(sections(path.read_text(encoding="utf-8"))[-1])
    body = f"{runs[-1]}\n\n### Each of {times} runs\n\n{table(runs)}"
    put_section(re.sub(r"^(- Command: `[^`]*)`", rf"\1 --times {times}`", body, flags=re.M), out)
    return max(codes)
