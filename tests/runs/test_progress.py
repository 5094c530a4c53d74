"""Progress bars: shown in terminals and notebooks, silent elsewhere, and one switch for all."""

import io
import sys
from types import SimpleNamespace

import pytest

from arcee_lab.runs import progress
from arcee_lab.runs.progress import progress_bar, shown


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def place(monkeypatch):
    """Puts the process in a terminal, a pipe or a notebook; gives its stderr."""
    monkeypatch.delenv(progress.SWITCH, raising=False)

    def put(where):
        stream = Terminal() if where == "terminal" else io.StringIO()
        shells = {"notebook": "ZMQInteractiveShell", "ipython": "TerminalInteractiveShell"}
        shell = type(shells[where], (), {})() if where in shells else None
        ipython = SimpleNamespace(get_ipython=lambda: shell)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return put


@pytest.mark.parametrize(
    ("where", "expected"),
    [("terminal", True), ("notebook", True), ("pipe", False), ("ipython", False)],
)
def test_a_bar_where_somebody_looks(place, monkeypatch, where, expected):
    place(where)
    assert shown(None) is expected
    assert shown(True) is True  # what the caller says holds everywhere
    assert shown(False) is False
    for value, switched in {"1": True, "0": False, "": False}.items():
        monkeypatch.setenv(progress.SWITCH, value)
        assert shown(None) is switched
        assert shown(not switched) is not switched


def test_without_ipython_a_pipe_shows_none(place, monkeypatch):
    place("pipe")
    monkeypatch.delitem(sys.modules, "IPython")
    assert shown(None) is False


def test_the_bar_counts_in_a_terminal(place, monkeypatch):
    stream = place("terminal")
    assert list(progress_bar(range(3), show=None, desc="windows")) == [0, 1, 2]
    said = stream.getvalue()
    assert "windows" in said
    assert "3/3" in said


def test_a_pipe_stays_empty(place):
    stream = place("pipe")
    with progress_bar(show=None, total=3) as bar:
        bar.update(2)
        bar.set_description("half way")
    assert list(progress_bar(range(3), show=None)) == [0, 1, 2]
    assert stream.getvalue() == ""
