"""Latencies of the explorer in a real JupyterLab, as medians over 30.

    python3 run.py bench explorer

From a key to shown values and from a click to the next-token table on the demo; a page of a table
of 663,552 neurons and the drawing of 36 x 20 heads on 24 tokens on generated arrays. The browser
tests measure, in the browser's own time; this file runs them and reads what they recorded.
"""

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from results import RESULTS, write_section
from targets import Verdicts

ROOT = Path(__file__).parents[1]
BOUNDS = {"typed": 100, "pressed": 250, "page": 100, "attention": 150}  # milliseconds
WHAT = {
    "typed": "keystroke to shown values, demo",
    "pressed": "ablation to the new table, demo",
    "page": "a page of 663,552 neurons",
    "attention": "attention of 36 x 20 heads on 24 tokens, drawn",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the two tests that measure, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="Latencies of the explorer.")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("tests/browser/test_explorer.py", "-k", "latencies or size_of_afm"),
            *(f"--junitxml={report}", "-o", "junit_family=xunit1"),
        ]
        code = subprocess.run(words, cwd=ROOT, check=False, timeout=900).returncode
        found = milliseconds(report)
    if set(found) != set(BOUNDS):
        print(f"bench: the browser tests measured {sorted(found)} of {sorted(BOUNDS)}")
        return code or 1
    verdicts = Verdicts()
    lines = ["| median of 30 | measured | target | |", "|---|---:|---|---|"]
    lines += [verdicts.row(WHAT[name], found[name], BOUNDS[name], unit=" ms") for name in BOUNDS]
    print("\n".join(lines), flush=True)
    write_section(
        "How fast the explorer answers",
        ["\n".join(lines)],
        command="python3 run.py bench explorer",
        method="JupyterLab with a kernel of one thread, in Debian's chromium without a window; "
        "wall time in the browser, from the key or click to the drawn answer, so that what else "
        "the machine does counts.",
        packages=("torch", "anywidget", "jupyterlab", "playwright"),
        path=args.out,
    )
    return int(verdicts.missed or code != 0)


def milliseconds(report: Path) -> dict[str, int]:
    """The medians that the tests recorded as properties of theirs."""
    found: dict[str, int] = {}
    for one in ElementTree.parse(report).iter("property"):
        if one.get("name") == "milliseconds":
            pairs = (pair.split(": ") for pair in str(one.get("value")).strip("{}").split(", "))
            found |= {name.strip("'"): int(value) for name, value in pairs}
    return found


if __name__ == "__main__":
    sys.exit(main())
