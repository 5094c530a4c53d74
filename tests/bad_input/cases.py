"""One bad input after another: what each ends in, and whether that is one clear line.

A case is a name and a function of the `Ground`. What it does has to end in an error of the tree in
`arcee_lab.errors`, or, for a command, in exit code 2 with one line on stderr. Anything else is a
finding: an error of a library, a traceback, several lines, silence, or more than a few seconds.
"""

import contextlib
import io
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LONGEST = 5.0  # seconds
_ALARM = 20  # seconds after which a case is stopped
MOST_WORDS = 1_200  # characters of a message: a screen of 80 columns by 15 lines


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: Unique in the table.
        run: What is done with it.
        found: Words that the message has to hold.
    """

    name: str
    run: Callable[[Any], object]
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a case ended in.

    Attributes:
        name: Of the case.
        wrong: What is wrong with that; empty where nothing is.
        said: The message.
        seconds: How long it took.
    """

    name: str
    wrong: str
    said: str
    seconds: float

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


class TooLong(BaseException):
    """A case that does not end by itself."""


class Ended(Exception):
    """A command that ended: its exit code and what it wrote to stderr."""

    def __init__(self, code: object, errors: str):
        super().__init__(f"exit code {code}: {errors}")
        self.code, self.errors = code, errors


def command(*words: object) -> Callable[[Any], None]:
    """A case of the command line; `{name}` in a word is an attribute of the ground."""

    def run(ground: Any) -> None:
        from arcee_lab.cli import main

        errors = io.StringIO()
        given = [str(word).replace("{", "{0.").format(ground) for word in words]
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = main(given)
            except SystemExit as stopped:
                code = stopped.code
        raise Ended(code, errors.getvalue())

    return run


def outcome(case: Case, ground: Any) -> Outcome:
    """Runs a case and checks its error."""
    start = time.perf_counter()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(_ALARM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            wrong, said = _judged(case, ground)
        finally:
            signal.alarm(0)
    seconds = time.perf_counter() - start
    missing = [word for word in case.found if word not in said]
    if not wrong and missing:
        wrong = f"the message lacks {missing[0]!r}"
    if not wrong and seconds > LONGEST:
        wrong = f"it took {seconds:.1f} s"
    return Outcome(case.name, wrong, said, round(seconds, 3))


def _too_long(*_: object) -> None:
    raise TooLong(f"stopped after {_ALARM} s")


def _judged(case: Case, ground: Any) -> tuple[str, str]:
    from arcee_lab.errors import ArceeLabError

    try:
        case.run(ground)
    except Ended as ended:
        lines = ended.errors.count("\n")
        if ended.code != 2:
            return f"exit code {ended.code}", ended.errors
        if lines != 1 or not ended.errors.startswith("arcee-lab: error: "):
            return f"{lines} lines on stderr", ended.errors
        return _words(ended.errors.removeprefix("arcee-lab: error: ").strip())
    except ArceeLabError as error:
        return _words(str(error))
    except (Exception, TooLong) as error:
        return f"{type(error).__module__}.{type(error).__name__}", _trace(error)
    return "it was accepted", ""


def _words(said: str) -> tuple[str, str]:
    if "\n" in said:
        return "several lines in the message", said
    if len(said) > MOST_WORDS:
        return f"{len(said)} characters in the message", said
    if not said.endswith((".", ")")):
        return "the message does not end with a full stop", said
    return "", said


def _trace(error: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{' '.join(str(error).split())[:300]} ({places})"


def call(text: str) -> Callable[[Any], object]:
    """A case of Python: an expression over `al`, `torch`, `np` and the ground's attributes.

    An expression that gives a context manager is entered, and one that gives an iterator is read.
    """

    def run(ground: Any) -> object:
        import numpy as np
        import torch

        import arcee_lab as al

        names = {"al": al, "torch": torch, "np": np, "math": __import__("math")} | ground.names()
        value = eval(text, names)
        if hasattr(value, "__enter__") and not isinstance(value, io.IOBase):
            with value:
                pass
        elif isinstance(value, Iterator):
            list(value)
        return value

    return run


def calls(group: str, texts: Sequence[str]) -> list[Case]:
    """Cases of Python, named by their expressions."""
    return [Case(f"{group}: {text}", call(text)) for text in texts]


def commands(group: str, lines: Sequence[str]) -> list[Case]:
    """Cases of the command line, as one would type them without quotes; '' is an empty word."""
    return [
        Case(f"{group}: {line}", command(*("" if word == "''" else word for word in line.split())))
        for line in lines
    ]
