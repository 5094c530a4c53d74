"""The rows of the proof: one thing shown each, with what it measured, its limit and its aim."""

import gc
import importlib.util
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.gpu import older
from benchmarks.gpu.place import Place

State = Literal["passed", "missed", "failed", "skipped"]


class Skipped(Exception):
    """A row cannot be shown here; its text says why."""


@dataclass
class Found:
    """What a row measured, filled in while it runs, so that a failure keeps what was found.

    Attributes:
        measured: By name; numbers in SI units, or texts.
        limit: The least that the hardware allows, and from what it follows.
        aim: What we want.
        missed: What fell short of the aim; a miss is no failure.
    """

    measured: dict[str, Any] = field(default_factory=dict)
    limit: str = ""
    aim: str = ""
    missed: list[str] = field(default_factory=list)

    def want(self, holds: bool, what: str) -> None:
        """Notes an aim that is missed."""
        if not holds:
            self.missed.append(what)


Work = Callable[[Place, Found], None]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: As in the table.
        work: Measures and checks; a failed check is an AssertionError.
        core: Whether the whole proof fails with it.
        packages: Without which it is skipped.
        newer: Whether it needs transformers 5.24.
    """

    name: str
    work: Work
    core: bool = False
    packages: tuple[str, ...] = ()
    newer: bool = False

    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if absent:
            return f"needs {', '.join(absent)}, not installed"
        if self.newer and older.is_older():
            return f"needs transformers 5.24; {older.__version__} is installed"
        return ""


@dataclass(frozen=True)
class Outcome:
    """What became of a row."""

    name: str
    core: bool
    state: State
    reason: str
    seconds: float
    found: Found

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@contextmanager
def _alarm(at: float) -> Iterator[None]:
    """Ends what runs too long; a compiler knows no limit of its own."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError("the time of the proof is used up")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, at - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(row: Row, place: Place, *, ends: float, hard_end: float) -> Outcome:
    """Runs a row; nothing that it raises gets out.

    Args:
        row: The row.
        place: Where.
        ends: Time on `time.monotonic` after which no row begins.
        hard_end: Time after which none goes on.
    """
    found, began = Found(), time.monotonic()
    reason = row.missing()
    if not reason and began > ends:
        reason = "the time of the proof is used up"
    state: State = "skipped"
    if not reason:
        try:
            with _alarm(hard_end):
                row.work(place, found)
            state, reason = ("missed" if found.missed else "passed"), "; ".join(found.missed)
        except Skipped as error:
            reason = str(error)
        except Exception as error:
            lines = traceback.format_exception(error)
            state, reason = "failed", "".join(lines[-3:]).strip()
    gc.collect()
    place.tidy()
    return Outcome(row.name, row.core, state, reason, time.monotonic() - began, found)
