"""run.py: the tasks, what they run, and what a newcomer is told when something is missing."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TASKS = ["tour", "setup", "test", "lab", "check", "docs", "notebooks", "bench", "gpu", "lock"]


def copy_inputs(folder):
    """The files that decide whether an environment is set up again."""
    (folder / "arcee_lab").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "arcee_lab/__init__.py"):
        shutil.copy(ROOT / name, folder / name)


@pytest.fixture
def run():
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def calls(run, monkeypatch):
    """The command lines and folders that a task would have run; `codes` are their exit codes."""
    seen = []
    monkeypatch.setattr(run, "environment", lambda name, extras: f"{name}[{extras}]")
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)

    def call(command, cwd=None):
        seen.append(([str(word) for word in command], cwd))
        return calls.codes.pop(0) if calls.codes else 0

    calls = type("Calls", (), {"seen": seen, "codes": []})
    monkeypatch.setattr(run.subprocess, "call", call)
    return calls


def test_is_short_and_plain():
    source = (ROOT / "run.py").read_text()
    assert len(source.splitlines()) < 105
    lines = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert {line.split()[1].partition(".")[0] for line in lines} <= sys.stdlib_module_names


def test_tasks(run):
    assert list(run.TASKS) == TASKS
    for task in TASKS:
        assert f"\n  {task} " in run.__doc__


def test_unknown_task_lists_the_choices(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(["tests"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("run.py: there is no task 'tests'")
    assert all(task in error for task in TASKS)


def test_help(run, capsys):
    assert run.main(["--help"]) == 0
    assert "usage: python3 run.py" in capsys.readouterr().out


def test_old_python_is_told_so(run, capsys, monkeypatch):
    class Old(tuple):
        pass

    monkeypatch.setattr(run.sys, "version_info", Old((3, 10, 9)))
    with pytest.raises(SystemExit) as stop:
        run.main([])
    assert stop.value.code == 1
    assert "needs Python 3.11 or newer" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_missing_venv_module_is_named(run, capsys, monkeypatch, tmp_path, missing):
    copy_inputs(tmp_path)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(
        run.importlib.util, "find_spec", lambda name: None if name == missing else 1
    )
    with pytest.raises(SystemExit) as stop:
        run.main(["setup"])
    assert stop.value.code == 1
    assert f"no `{missing}` module" in capsys.readouterr().err
    assert not (tmp_path / ".venv").exists()


def test_arguments_pass_through(run, calls):
    run.main(["test", "tests/test_run.py", "-k", "help"])
    run.main(["test", "--all", "-x"])
    run.main(["notebooks", "01_first_look"])
    run.main(["bench", "idle", "--rounds", "3"])
    run.main([])
    words = [command for command, _ in calls.seen]
    pytest_ = ["-m", "pytest", "-n", "2", "--dist", "loadfile"]
    assert words[0][1:] == [*pytest_, "-m", "not slow", "tests/test_run.py", "-k", "help"]
    assert words[1][1:] == [*pytest_, "-x"]
    assert words[2][1:] == [str(ROOT / "notebooks/build.py"), "01_first_look"]
    assert words[3] == [".venv-bench[dev,bench]", str(ROOT / "benchmarks"), "idle", "--rounds", "3"]
    assert words[4][1:] == ["-P", "-m", "arcee_lab", "tour", "--out", str(ROOT / "out")]
    assert words[4][0] == ".venv[dev]"


def test_paths_of_the_user_keep_their_folder(run, calls):
    for task in TASKS:
        run.main([task])
    stay = [command for command, cwd in calls.seen if cwd is None]
    named = {command[4] if len(command) > 4 else Path(command[1]).name for command in stay}
    assert named == {"tour", "lab", "gpu"}
    assert all(cwd in (None, ROOT) for _, cwd in calls.seen)


@pytest.mark.parametrize(("codes", "expected"), [([0], 0), ([5], 5), ([-2], 130), ([-11], 139)])
def test_exit_code_is_the_childs(run, calls, codes, expected):
    calls.codes = list(codes)
    assert run.main(["test"]) == expected


def test_gpu_takes_the_python_that_runs_it_and_installs_nothing(run, calls, monkeypatch):
    monkeypatch.setattr(run, "environment", lambda *names: pytest.fail("it would install"))
    calls.codes = [3]
    assert run.main(["gpu", "--dry-run"]) == 3
    assert calls.seen == [([sys.executable, str(ROOT / "benchmarks" / "gpu"), "--dry-run"], None)]


def test_check_runs_all_and_fails_for_any(run, calls):
    calls.codes = [0, 1, 0, 0]
    assert run.main(["check"]) == 1
    assert len(calls.seen) == 4


def test_threads_are_quiet_unless_set(run, calls, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    run.main(["setup"])
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_installs_once_and_again_on_change(run, monkeypatch, tmp_path):
    copy_inputs(tmp_path)
    installs = []

    class Pip:
        def __init__(self, command, **_):
            installs.append([str(word) for word in command])
            self.stderr, self.returncode = [], 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def venv(command):
        (tmp_path / ".venv/bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv/bin/python").touch()
        return 0

    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run.subprocess, "Popen", Pip)
    monkeypatch.setattr(run.subprocess, "call", venv)
    for _ in range(2):
        run.environment(".venv", "dev")
    assert len(installs) == 1
    # Without pep517 an old pip builds what comes as source with packages that do not fit.
    expected = "-mpip install --use-pep517 -cconstraints.txt -e .[dev]"
    assert installs[0][1:] == expected.split()
    for name in ("pyproject.toml", "constraints.txt"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        run.environment(".venv", "dev")
    assert len(installs) == 3
    face = tmp_path / "arcee_lab" / "__init__.py"
    face.write_text(face.read_text() + "\n# a comment\n")
    run.environment(".venv", "dev")
    assert len(installs) == 3
    face.write_text(re.sub('__version__ = ".*"', '__version__ = "99.0"', face.read_text()))
    run.environment(".venv", "dev")  # so that the installed metadata says the new version
    assert len(installs) == 4


@pytest.mark.skipif(os.name == "nt", reason="uses /dev/null as pip's settings")
def test_without_a_network_says_so_and_writes_no_stamp(tmp_path):
    home = tmp_path / "a b"
    home.mkdir()
    copy_inputs(home)
    for name in ("run.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}
    env |= {"PIP_INDEX_URL": "http://127.0.0.1:9/"}
    child = subprocess.run(
        [sys.executable, "a b/run.py", "setup"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 1
    last = child.stderr.splitlines()[-1]
    assert "no package index answers: no network" in last
    assert "no stamp is written" in last
    assert (home / ".venv/bin/python").exists()
    assert not (home / ".venv/arcee_lab.stamp").exists()
