"""The tree of errors: how it is caught, what a notebook shows, and what the docs say of it."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from ipykernel.compiler import XCachingCompiler
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type

from arcee_lab import errors

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
CLASSES = {name: getattr(errors, name) for name in errors.__all__}
CELL = """\
from arcee_lab.sites import Legend
before = 1
Legend(2, "causal").resolve("layers.9.mlp.hook_post")
"""


class NotebookShell(InteractiveShell):
    """IPython in this process, with the file names that a notebook's kernel gives to cells."""

    compiler_class = Type(XCachingCompiler)


@pytest.fixture(params=[NotebookShell, InteractiveShell], ids=["notebook", "terminal"])
def run_cell(request, monkeypatch, capsys):
    """Runs a cell, and gives what it shows."""
    monkeypatch.delenv(errors.FULL_TRACEBACK, raising=False)
    shell = request.param()
    shell.colors = "nocolor"

    def run(source):
        result = shell.run_cell(source)
        assert not result.success
        return capsys.readouterr().out

    return run


def test_a_cell_shows_its_line_and_the_message(run_cell):
    shown = run_cell("def inner():\n    raise ValueError('plain')\n\ninner()").splitlines()
    assert len(shown) > 5  # another error keeps IPython's traceback
    shown = run_cell(CELL).splitlines()
    assert shown[0].startswith("SiteError: 'layers.9.mlp.hook_post'")
    assert shown[-1] == 'line 3: Legend(2, "causal").resolve("layers.9.mlp.hook_post")'
    assert not any("sites.py" in line for line in shown)


def test_the_switch_shows_every_frame(run_cell, monkeypatch):
    monkeypatch.setenv(errors.FULL_TRACEBACK, "1")
    shown = run_cell(CELL)
    assert "sites.py" in shown
    assert "SiteError: 'layers.9.mlp.hook_post'" in shown


def test_every_class_is_caught_as_python_expects():
    for name, kind in CLASSES.items():
        if name == "Interrupted":
            assert issubclass(kind, KeyboardInterrupt)
            assert not issubclass(kind, Exception)  # `except Exception` does not swallow Ctrl-C
        else:
            assert issubclass(kind, errors.ArceeLabError)
            assert issubclass(kind, ValueError)
    assert issubclass(errors.WrongType, TypeError)
    assert str(errors.UnknownName("no 'x'.")) == "no 'x'."  # a KeyError would show its repr


def test_an_interrupt_holds_what_is_done():
    assert errors.Interrupted("stopped").partial is None
    assert errors.Interrupted("stopped", partial=3).partial == 3


@pytest.mark.parametrize("text", [errors.__doc__, PAGE])
def test_the_drawn_tree_is_the_tree(text):
    parents = {}
    above = {}
    drawn = [re.match(r"([ │├└─]*)(\w+) +[\w(.]", line) for line in text.splitlines()]
    drawn = [match for match in drawn if match and match[2] in CLASSES]
    assert {match[2] for match in drawn} == set(CLASSES)
    for match in drawn:
        depth = len(match[1])
        shallower = [level for level in above if level < depth]
        parents[match[2]] = above[max(shallower)] if shallower else None
        above = {level: name for level, name in above.items() if level < depth} | {depth: match[2]}
    for name, parent in parents.items():
        bases = [base.__name__ for base in inspect.getmro(CLASSES[name])[1:]]
        ours = [base for base in bases if base in CLASSES]
        assert (ours[0] if ours else None) == parent, name


def test_examples_of_the_page_run(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(block, {})
    assert "no/such/folder" in capsys.readouterr().out


def test_every_error_of_the_package_is_in_the_tree():
    """No other class of errors, and none of Python's own where a user may meet it."""
    plain = {"ValueError", "TypeError", "KeyError", "IndexError", "LookupError", "OSError"}
    for path in sorted((ROOT / "arcee_lab").rglob("*.py")):
        if path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in plain, where
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                assert not bases & (set(CLASSES) | plain | {"Exception", "RuntimeError"}), where


def test_what_is_raised_can_be_caught_as_documented():
    full = errors.NotWritten("a/b", OSError(28, "No space left on device"))
    assert isinstance(full, OSError)
    assert isinstance(full, errors.FileError)
    assert full.reason == "No space left on device"
    rust = errors.NotWritten("a/b", ValueError("I/O error: whatever (os error 28)"))
    assert rust.reason == "No space left on device"
    assert errors.TooFewTokens(3, 10, "max_tokens").found == 3
    assert errors.TaskFailed("Task 'a': no.", {"b": 1}).result == {"b": 1}
    assert "shard s is damaged: it is missing." in str(errors.ShardDamaged("s", "it is missing."))
