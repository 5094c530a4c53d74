"""The GPU proof without a GPU: a dry run of all of it, its exit codes, and its own test runner."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
CORE = [
    *(
        f"parity, {dtype}, {attn}"
        for dtype in ("fp32", "bf16", "fp16")
        for attn in ("sdpa", "eager")
    ),
    "parity, SDPA against eager",
    "capture of all neurons",
    *(
        f"reducer {name}"
        for name in (
            "FiringRate",
            "Moments",
            "ActiveCount",
            "Histogram",
            "Quantile",
            "TopK",
            "CoActivation",
            "Grouped",
            "MeanCovariance",
        )
    ),
]


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "proof"
    command = [sys.executable, str(ROOT / "run.py"), "gpu", "--dry-run", "--out", str(folder)]
    child = subprocess.run(
        command, cwd=folder.parent, capture_output=True, text=True, timeout=600, check=False
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return folder, json.loads((folder / "proof.json").read_text(encoding="utf-8"))


@pytest.fixture
def gpu(monkeypatch):
    """The command's module; `rows` of `_prove` are replaced by those that a test gives."""
    monkeypatch.syspath_prepend(str(ROOT))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    from benchmarks.gpu import __main__ as module
    from benchmarks.gpu import answering, cost, longer, marked, neuron_rows, parity

    for owner, name in (
        (parity, "rows"),
        (cost, "rows"),
        (neuron_rows, "rows"),
        (answering, "rows"),
        (longer, "rows"),
        (longer, "smaller_rows"),
        (marked, "rows"),
    ):
        monkeypatch.setattr(owner, name, lambda *given: [])
    monkeypatch.setattr(cost, "trace", lambda large, path: None)
    return module


def test_every_row_passes_or_says_why_not(proof):
    _, content = proof
    assert content["facts"]["dry run"] is True
    rows = {row["name"]: row for row in content["rows"]}
    assert [name for name, row in rows.items() if row["core"]] == CORE
    for name, row in rows.items():
        assert row["state"] in ("passed", "skipped"), f"{name}: {row['reason']}"
        if row["state"] == "skipped":
            assert not row["core"]
            assert row["reason"]
        else:
            assert row["found"]["aim"], f"{name} has no aim"
            assert row["found"]["measured"] or name == "sparse_decode", f"{name} shows nothing"
    assert {"dump", "patch_attribution", "pattern of all heads", "compiled generate"} <= set(rows)
    assert {"packed evaluation", "compiled recorder", "4-bit weights", "gpu-marked tests"} <= set(
        rows
    )


def test_table_and_trace_are_there(proof):
    folder, content = proof
    table = (folder / "proof.md").read_text(encoding="utf-8")
    assert all(f"| {row['name']} |" in table for row in content["rows"])
    assert f"torch: {torch.__version__}" in table
    events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert any("aten::" in str(event.get("name")) for event in events)


def test_without_pytest_the_same_tests_are_found(proof, run_clean):
    _, content = proof
    (said,) = [row for row in content["rows"] if row["name"] == "gpu-marked tests"]
    theirs = int(said["found"]["measured"]["pytest"].split("/")[0])
    ours = run_clean(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import torch
        from benchmarks.gpu import marked
        from benchmarks.gpu.place import Place
        from benchmarks.gpu.rows import Found
        found = Found()
        marked._without_pytest(Place(torch.device("cpu"), True, "", 1.0, 1.0), found)
        assert not found.measured["not read"], found.measured
        print(found.measured["passed"])
        """
    )
    assert 10 < int(ours) <= theirs  # what is skipped for a missing package is not counted
    assert theirs - int(ours) <= 2


def test_what_is_missing_is_named(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "CORE", ("torch", "no_such_package", "nor_this"))
    assert gpu.main(["--dry-run"]) == 1
    assert "lacks no_such_package, nor_this; install them there." in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(gpu, "version", lambda name: "2.8.1")
    assert gpu.main(["--dry-run"]) == 1
    assert "torch is 2.8.1; expected 2.9 or newer." in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_it_says_so(gpu, capsys):
    assert gpu.main([]) == 3
    assert "sees no CUDA device; --dry-run" in capsys.readouterr().err


def test_another_run_is_not_overwritten(gpu, tmp_path, capsys):
    (tmp_path / "proof.json").write_text("{}")
    assert gpu.main(["--dry-run", "--out", str(tmp_path)]) == 2
    assert "is not an empty folder; choose a new one." in capsys.readouterr().err


def test_a_core_row_decides(gpu, monkeypatch, tmp_path, capsys):
    from benchmarks.gpu import parity
    from benchmarks.gpu.rows import Row, Skipped

    def fails(place, found):
        found.measured["seen"] = 3
        raise AssertionError("logits differ")

    def skips(place, found):
        raise Skipped("no such kernel")

    def misses(place, found):
        found.want(False, "1.30 x the forward")

    def outcome(*rows):
        monkeypatch.setattr(parity, "rows", lambda: list(rows))
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        code = gpu.main(["--dry-run", "--out", str(folder)])
        return code, json.loads((folder / "proof.json").read_text())["rows"]

    code, (row,) = outcome(Row("a", fails, core=True))
    assert (code, row["state"], row["found"]["measured"]) == (1, "failed", {"seen": 3})
    assert "logits differ" in row["reason"]
    assert "not shown: a." in capsys.readouterr().err
    assert outcome(Row("a", fails))[0] == 0
    assert outcome(Row("a", skips, core=True))[0] == 1
    code, (row,) = outcome(Row("a", misses, core=True))
    assert (code, row["state"], row["reason"]) == (0, "missed", "1.30 x the forward")
    code, (row,) = outcome(Row("a", misses, core=True, packages=("no_such_package",)))
    assert (code, row["reason"]) == (1, "needs no_such_package, not installed")


def test_a_row_is_ended_when_the_time_is_up(gpu):
    from benchmarks.gpu.place import Place
    from benchmarks.gpu.rows import Row, run

    place = Place(torch.device("cpu"), True, "", 1.0, 1.0)
    row = Row("long", lambda place, found: time.sleep(30))
    now = time.monotonic()
    outcome = run(row, place, ends=now + 1, hard_end=now + 0.2)
    assert outcome.state == "failed"
    assert "the time of the proof is used up" in outcome.reason
    assert outcome.seconds < 10
    late = run(row, place, ends=now - 1, hard_end=now + 60)
    assert (late.state, late.reason) == ("skipped", "the time of the proof is used up")


def test_nothing_is_filled_in_under_the_release_that_we_need(gpu):
    from transformers import masking_utils

    from benchmarks.gpu import older

    before = masking_utils.create_causal_mask
    assert not older.is_older()
    older.fill_in()
    assert masking_utils.create_causal_mask is before
