"""The tests that are marked `gpu`: through pytest, or where it is missing a runner of our own."""

import importlib.util
import inspect
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Found, Row, Skipped

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"


def files() -> list[Path]:
    """Test files with a marked test."""
    return sorted(
        path for path in TESTS.rglob("test_*.py") if "mark.gpu" in path.read_text(encoding="utf-8")
    )


def _tests(place: Place, found: Found) -> None:
    found.aim = "no failure"
    if any(importlib.util.find_spec(name) is None for name in ("pytest", "hypothesis", "beartype")):
        _without_pytest(place, found)
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    command += ["--collect-only"] * place.dry + [str(path) for path in files()]
    child = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    last = (child.stdout.strip().splitlines() or [child.stderr.strip()[-400:]])[-1]
    found.measured["pytest"] = last
    assert child.returncode == 0, child.stdout[-1500:] + child.stderr[-500:]
    if place.dry:
        assert re.match(r"\d+/\d+ tests collected", last), last


def _without_pytest(place: Place, found: Found) -> None:
    """Runs what needs no more of pytest than marks, `tiny`, `tmp_path` and `run_clean`."""
    sys.modules["pytest"] = stand_in()
    if importlib.util.find_spec("hypothesis") is None:  # no marked test uses it
        for name in ("hypothesis", "hypothesis.strategies"):
            sys.modules[name] = _Nothing()  # type: ignore[assignment]
    for folder in (TESTS, *{path.parent for path in files()}):
        sys.path.append(str(folder))
    counts = {"passed": 0, "skipped": 0}
    failures, unread = [], []
    for path in files():
        try:
            module = _imported(path)
        except ImportError as error:
            unread.append(f"{path.name}: {error}")
            continue
        for name, test in vars(module).items():
            for arguments in _marked(test) if inspect.isfunction(test) else ():
                try:
                    if not place.dry:
                        _call(test, arguments)
                    counts["passed"] += 1
                except _Skip:
                    counts["skipped"] += 1
                except Exception as error:
                    failures.append(f"{path.name} {name} {arguments}: {error!r}")
    found.measured |= counts | {"not read": "; ".join(unread)}
    assert not failures, "\n".join(failures)
    if unread and not counts["passed"]:
        raise Skipped(f"no test file could be read: {unread[0]}")


class _Skip(Exception):
    pass


class _Nothing:
    """Stands for a module and all that is in it; decorators make nothing of what they get."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *given: Any, **named: Any) -> "_Nothing":
        return self


class _Case(tuple):
    """The values of one case, and the names of its marks."""

    marks: tuple[str, ...] = ()


class _Marks:
    def __getattr__(self, name: str) -> Any:
        if name == "parametrize":
            return _parametrize
        if name == "skipif":
            return lambda condition, reason="": _marks("skip") if condition else (lambda f: f)
        return _Mark(name)


class _Mark(str):
    """A mark: a decorator with or without arguments, and a name in `param(marks=...)`."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        if len(given) == 1 and inspect.isfunction(given[0]):
            return _marks(str(self))(given[0])
        return self


def _marks(name: str) -> Callable:
    def mark(test: Any) -> Any:
        test.marks_here = (*getattr(test, "marks_here", ()), name)
        return test

    return mark


def _parametrize(names: Any, values: Any, **named: Any) -> Callable:
    words = names.replace(",", " ").split() if isinstance(names, str) else list(names)

    def mark(test: Any) -> Any:
        cases = []
        for value in values:
            marks = value.marks if isinstance(value, _Case) else ()
            several = isinstance(value, _Case) or len(words) > 1
            cases.append((dict(zip(words, value if several else [value], strict=True)), marks))
        test.cases_here = [*getattr(test, "cases_here", ()), cases]
        return test

    return mark


def _param(*values: Any, marks: Any = (), **named: Any) -> _Case:
    case = _Case(values)
    case.marks = tuple(map(str, marks)) if isinstance(marks, list | tuple) else (str(marks),)
    return case


@contextmanager
def _raises(kind: Any, match: str = "") -> Iterator[None]:
    try:
        yield
    except kind as error:
        said = str(error)
    else:
        raise AssertionError(f"{kind} was not raised")
    assert re.search(match, said), f"{said} does not match {match!r}"


def _skip(reason: str = "", **named: Any) -> None:
    raise _Skip(reason)


def stand_in() -> types.ModuleType:
    """A module with as much of pytest as these tests need."""
    module = types.ModuleType("pytest")

    def fixture(*given: Any, **named: Any) -> Any:
        return given[0] if given and callable(given[0]) else (lambda function: function)

    for name, value in {
        "mark": _Marks(),
        "param": _param,
        "fixture": fixture,
        "raises": _raises,
        "skip": _skip,
        "importorskip": importlib.import_module,
    }.items():
        setattr(module, name, value)
    return module


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _marked(test: Any) -> Iterator[dict[str, Any]]:
    """The arguments of each case that is marked."""
    for several in product(*getattr(test, "cases_here", ())):
        marks = {mark for _, of_case in several for mark in of_case}
        marks |= set(getattr(test, "marks_here", ()))
        if "gpu" in marks and "skip" not in marks:
            yield {name: value for values, _ in several for name, value in values.items()}


def _call(test: Callable, arguments: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        known = {"tiny": _tiny, "tmp_path": Path(folder), "run_clean": _run_clean}
        wanted = [name for name in inspect.signature(test).parameters if name not in arguments]
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise _Skip(f"needs the fixture {unknown[0]}")
        test(**arguments, **{name: known[name] for name in wanted})


def _tiny(head: str = "causal", *, attn: str = "sdpa", dtype: Any = None, **overrides: Any) -> Any:
    import torch

    from arcee_lab.model import ArceeConfig
    from arcee_lab.model.anatomy import HEADS
    from benchmarks.gpu.shapes import TINY

    shape = TINY | {"vocab_size": 50, "num_hidden_layers": 3, "num_labels": 3}
    config = ArceeConfig(**shape | {"attn_implementation": attn} | overrides)
    return HEADS[head](config).to(dtype or torch.float32).eval()


def _run_clean(code: str) -> None:
    import textwrap

    command = [sys.executable, "-c", textwrap.dedent(code)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr


def rows() -> list[Row]:
    """One row for all of them."""
    return [Row("gpu-marked tests", _tests, newer=True)]
