"""Runs a script as `torchrun` does, in processes without the shape checks of conftest.py."""

import subprocess
import sys
import textwrap
from pathlib import Path

TESTS = Path(__file__).parent.parent
PRELUDE = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import torch
torch.set_num_threads(1)
"""


def torchrun(code: str, folder: Path, *, processes: int = 2) -> str:
    """Runs `code` once per rank and returns what they printed; a failing rank fails the test."""
    script = folder / "ranks_of_a_test.py"
    script.write_text(PRELUDE + textwrap.dedent(code))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    child = subprocess.run(
        [*command, "--nproc-per-node", str(processes), str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = [line for line in child.stderr.splitlines() if line.startswith("[rank")]
    assert child.returncode == 0, "\n".join([child.stdout, *said[-40:]]) or child.stderr
    return child.stdout
