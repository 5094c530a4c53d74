"""Every bad input of the table ends in one clear line; and the judge of that can tell."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LEAST = 300  # cases; and of each part of the package a fair share


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    # A process of its own: the import hook of the tests checks types before our own checks can.
    child = subprocess.run(
        [sys.executable, str(HERE / "run_table.py")],
        cwd=tmp_path_factory.mktemp("bad"),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]


def test_every_outcome_is_one_clear_line(outcomes):
    wrong = [f"{row['name']}: {row['wrong']} ({row['said'][:200]})" for row in outcomes]
    wrong = [line for line, row in zip(wrong, outcomes, strict=True) if row["wrong"]]
    assert not wrong, "\n".join(wrong)


def test_the_table_is_large_and_fast(outcomes):
    groups = Counter(row["name"].split()[0].rstrip(":") for row in outcomes)
    assert len(outcomes) >= LEAST
    for group in ("info", "load", "cli", "report", "manifest", "sparsity", "dump", "evals"):
        assert groups[group] >= 30, groups
    assert sum(row["seconds"] for row in outcomes) < 60  # on one core; imports come on top


@pytest.fixture(scope="module")
def judge():
    spec = importlib.util.spec_from_file_location("bad_input_cases", HERE / "cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def _raises(error):
    def run(ground):
        raise error

    return run


def test_the_judge_takes_errors_of_the_tree(judge):
    from arcee_lab.errors import SettingError

    found = judge.outcome(judge.Case("a", _raises(SettingError("x is 5; expected 6."))), None)
    assert (found.wrong, found.said) == ("", "x is 5; expected 6.")
    missing = judge.outcome(judge.Case("a", _raises(SettingError("x is 5.")), ("file",)), None)
    assert missing.wrong == "the message lacks 'file'"


@pytest.mark.parametrize(
    ("run", "wrong"),
    [
        (lambda ground: 5, "it was accepted"),
        (_raises(TypeError("no")), "builtins.TypeError"),
        (_raises(ValueError("no")), "builtins.ValueError"),
    ],
)
def test_the_judge_refuses_what_is_no_error_of_the_tree(judge, run, wrong):
    assert judge.outcome(judge.Case("a", run), None).wrong == wrong


def test_the_judge_refuses_messages_that_are_no_sentence(judge):
    from arcee_lab.errors import TextError

    for said, wrong in (
        ("one\ntwo.", "several lines in the message"),
        ("no stop", "the message does not end with a full stop"),
        ("long " * 999 + ".", "4996 characters in the message"),
    ):
        assert judge.outcome(judge.Case("a", _raises(TextError(said))), None).wrong == wrong


def test_the_judge_reads_commands(judge):
    assert judge.outcome(judge.Case("a", judge.command("world", "nonsense")), None).wrong == ""
    good = judge.Case("a", judge.command("world", "story", "--n", "1"))
    assert judge.outcome(good, None).wrong == "exit code 0"
