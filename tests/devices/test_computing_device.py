"""Every public call on a device that computes: the CPU's values, and no host read that is new.

`device_reads.json` says for each call how often the host waits for the device, and which operations
meet tensors of both devices. Fewer is welcome: `python tests/devices/device_run.py --write`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from arcee_lab.reducers.running.files import known_reducers

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "device_reads.json").read_text(encoding="utf-8"))
UNIT = 2**-24  # what fp32 rounds off
# Elsewhere values are equal bit for bit. On the CPU SDPA takes a fused kernel, that this device
# lacks; a demo layer adds in 6 places up to 896 products, and there are 4 of them.
BOUNDS = dict.fromkeys(["forward under sdpa", "capture under sdpa"], 4 * 6 * 896 * UNIT)
# A predictor is scored by sums over 896 neurons that the CPU takes in another order.
BOUNDS["sparsity in the pass"] = 896 * UNIT
FREE = re.compile(r"capture|reduce with|head statistics|compiled recorder|forward$")


def ran(*words):
    child = subprocess.run(
        [sys.executable, str(HERE / "device_run.py"), *words],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
    )
    assert child.returncode == 0, child.stderr
    return [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def rows():
    return {row["call"]: row for row in ran()}


def test_every_call_of_the_table_ran(rows):
    assert set(rows) == set(TABLE)
    assert {f"reduce with {name}" for name in known_reducers()} <= set(TABLE)


@pytest.mark.parametrize("call", TABLE)
def test_a_call_computes_and_waits_as_before(rows, call):
    row = rows[call]
    assert "error" not in row, row["error"]
    assert row["differs"] <= BOUNDS.get(call, 0)
    for what in ("reads", "mixed"):
        more = {k: n for k, n in row[what].items() if n > TABLE[call][what].get(k, 0)}
        assert not more, f"{call}: more {what} than {TABLE[call][what]}"


def test_captures_and_reducers_never_wait():
    """Copies that were asked for aside, and what transformers does in generate."""
    free = {call: row for call, row in TABLE.items() if FREE.match(call)}
    assert len(free) > 15
    asked = free.pop("capture onto the cpu")
    assert asked == {"mixed": {}, "reads": {"copy to the CPU": 4}}  # one per layer
    assert all(row == {"mixed": {}, "reads": {}} for row in free.values())
    assert not any(row["mixed"] for row in TABLE.values())


def test_the_self_check_refuses_frequencies_that_were_never_filled_in():
    """A backend that wraps torch.tensor too early; transformers itself says nothing."""
    (found,) = ran("constructors")
    assert found["stock"], "transformers fills them in; then the wrapper may come first"
    assert len(found["ours"]) == 2
    assert all(said.startswith("The model does not compute what") for said in found["ours"])


@pytest.mark.slow
def test_the_gpu_proof_mixes_no_devices():
    """Its rows, which CI otherwise runs on the CPU alone, where nothing can be mixed."""
    rows = ran("proof")
    assert len(rows) > 20
    for row in rows:
        assert row["state"] in ("passed", "skipped"), f"{row['name']}: {row['reason']}"
        assert not row["mixed"], f"{row['name']}: {row['mixed']}"
    assert [row["name"] for row in rows if row["state"] == "skipped"] == [
        "parity, FlashAttention 2"
    ]
