"""A part of a notebook that says in one line why it cannot apply, and lets the others run."""

from types import TracebackType
from typing import Any

from arcee_lab.errors import ArceeLabError, Interrupted


class Line:
    """A line of text that a notebook shows as it is."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Part:
    """A context manager: our user errors, and only these, become one line in the cell's output.

    Every other error passes. An interrupt ends the cell with one line, so that `Run All` stops;
    what was finished by then is in `partial`, and no hook is left, since every call of this package
    removes its own.

    Attributes:
        name: What the part is about.
        done: Whether it ran to its end.
        why: Why it did not; "" if it did.
        partial: What an interrupted call had finished, or None.
    """

    def __init__(self, name: str):
        self.name = name
        self.done = False
        self.why = ""
        self.partial: Any = None

    def __enter__(self) -> "Part":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.done = error is None
        if isinstance(error, ArceeLabError):
            from IPython.display import display

            self.why = " ".join(str(error).split())
            display(Line(f"Left out, {self.name}: {self.why}"))
            return True
        if isinstance(error, KeyboardInterrupt):
            self.partial = getattr(error, "partial", None)
            self.why = " ".join(str(error).split()) or "nothing was finished."
            raise _Stopped(f"Stopped, {self.name}: {self.why}", partial=self.partial) from None
        return False


class _Stopped(Interrupted):
    """An interrupt of a part, of which a notebook shows the message alone."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]
