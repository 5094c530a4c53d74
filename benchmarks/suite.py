"""How long the tests take, by part, in the two processes of `python3 run.py test`.

    python3 run.py bench suite [--read FILE] [--out FILE]

Runs the fast suite, or reads the JUnit file of a run (`python3 run.py test --junitxml FILE`). The
time of a part is the time of its tests and fixtures, halved, since two processes share them.
"""

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from results import RESULTS, write_section
from targets import Verdicts

ROOT = Path(__file__).parent.parent
# Minutes on two cores that nothing else uses; each part's aim is of its own.
AIMS = {
    "notebooks": 6.0,
    "browser": 4.0,
    "devices": 3.0,
    "GPU proof": 2.0,
    "documentation": 1.0,
    "bad input": 1.0,
    "neurons": 1.5,
    "lens, attention": 1.5,
    "directions": 1.5,
    "lesson": 1.5,
    "explorer": 1.5,
    "all others": 9.0,
}
# `.ci/run` on the same type of machine, as the log of that run says.
BEFORE = (
    "Before: `.ci/run` took 1,305 s, set-up of 2 minutes included, for about 4,900 tests in one "
    "process, with the shape checks of jaxtyping around every function of every module."
)
PREFIXES = {
    "notebooks": ("test_notebooks", "test_notebooks_elsewhere"),
    "browser": ("browser",),
    "devices": ("devices",),
    "GPU proof": ("test_gpu_proof",),
    "documentation": ("test_docs", "test_site", "test_readme", "test_generated_docs"),
    "bad input": ("bad_input",),
    "neurons": ("neurons",),
    "lens, attention": ("lens", "attention"),
    "directions": ("directions",),
    "lesson": ("lesson",),
    "explorer": ("explorer",),
}


def part_of(name: str) -> str:
    """The part of a test's class name, such as `tests.neurons.test_find`."""
    first = name.removeprefix("tests.").split(".")[0]
    return next((part for part, heads in PREFIXES.items() if first in heads), "all others")


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a part is over its aim."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="How long the tests take.")
    parser.add_argument("--read", type=Path, metavar="FILE", help="a JUnit file, instead of a run")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        file = args.read or Path(folder) / "junit.xml"
        if args.read is None:
            command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile"]
            command += ["-m", "not slow", "-q", f"--junitxml={file}"]
            subprocess.run(command, cwd=ROOT, check=False)
        suite = next(ElementTree.parse(file).iter("testsuite"))  # a file that we wrote
    seconds, tests = Counter(), Counter()
    for case in suite.iter("testcase"):
        part = part_of(case.get("classname", ""))
        seconds[part] += float(case.get("time", 0)) / 2
        tests[part] += 1
    verdicts = Verdicts()
    lines = ["| part | tests | minutes | aim | |", "|---|---:|---:|---|---|"]
    for part, aim in AIMS.items():
        row = verdicts.row(part, seconds[part] / 60, aim, unit=" min")
        lines.append(row.replace(f"| {part} |", f"| {part} | {tests[part]} |", 1))
    whole = float(suite.get("time", 0))
    lines.append(verdicts.row("all, as a clock shows it", whole / 60, 30, unit=" min"))
    lines[-1] = lines[-1].replace("shows it |", f"shows it | {sum(tests.values())} |", 1)
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    print("\n".join(lines), f"\nfailed: {failed}", flush=True)
    write_section(
        "How long the tests take",
        ["\n".join(lines), BEFORE],
        command="python3 run.py bench suite",
        method="The fast suite in two processes; minutes of a part are those of its tests and "
        "fixtures, halved. The rest of the clock's time is collection, and one process that waits "
        "for the other.",
        packages=("pytest", "pytest-xdist"),
        path=args.out,
    )
    return int(verdicts.missed or failed > 0)


if __name__ == "__main__":
    sys.exit(main())
