"""`arcee-lab tour`: every step names itself, its time and its result; nothing is overwritten."""

import re
from types import SimpleNamespace

import pytest


def run(out):
    from arcee_lab.cli import main

    return main(["tour", "--out", str(out)])


@pytest.fixture
def quick(monkeypatch):
    """Steps that only say what they would run."""
    from arcee_lab.cli import tour

    commands = []

    def call(command, **kwargs):
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout="said\n", stderr="")

    monkeypatch.setattr(tour.subprocess, "run", call)
    return commands


def test_a_new_folder_each_time_and_a_time_for_each_step(tmp_path, quick, capsys):
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^\[(\d)/6\]", said, re.MULTILINE) == list("123456")
    assert len(re.findall(r"^      \d+\.\d s$", said, re.MULTILINE)) == 6
    assert re.search(r"torch \d", said)
    assert "cpu" in said
    assert f"open {tmp_path / 'tour-1' / 'world' / 'report.html'}" in said
    assert "toy model" in said
    assert "arcee-ai/AFM-4.5B" in said
    assert len(quick) == 4
    assert run(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tour-1", "tour-2"]


def test_a_failing_step_ends_the_tour_with_2(tmp_path, monkeypatch, capsys):
    from arcee_lab.cli import tour

    failed = SimpleNamespace(returncode=1, stdout="", stderr="why\n")
    monkeypatch.setattr(tour.subprocess, "run", lambda *args, **kwargs: failed)
    assert run(tmp_path) == 2
    said = capsys.readouterr().err
    assert said.endswith("this step failed with exit code 1; see above.\n")
    assert said.startswith("why\n")


def test_outside_the_repository_it_says_so(tmp_path, monkeypatch, capsys):
    from arcee_lab.cli import tour

    monkeypatch.setattr(tour, "REPOSITORY", tmp_path / "site-packages")
    assert run(tmp_path / "out") == 2
    assert "needs the repository" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_tour(tmp_path, capsys):
    assert run(tmp_path) == 0
    folder = tmp_path / "tour-1"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "world/report.html",
        "news/report.html",
        "eval/results.json",
        "01_first_look.ipynb",
    } <= names
    said = capsys.readouterr().out
    assert float(re.search(r"Done in (\d+) s", said)[1]) < 180
