"""The interrupt of a long call: what it had done is kept, and the message says how to go on."""

from typing import Any


class Interrupted(KeyboardInterrupt):
    """A long call was interrupted; ``partial`` is what it had finished.

    It is a KeyboardInterrupt, so that code that stops on one still stops. ``message`` says what
    is kept and how to go on; ``partial`` is a result over the finished part, or None. A notebook
    shows the message alone: where the call was stopped says nothing about what is kept.

    Attributes:
        partial: A result over the finished part, or None.
    """

    def __init__(self, message: str, *, partial: Any = None):
        super().__init__(message)
        self.partial = partial

    def _render_traceback_(self) -> list[str]:
        """IPython asks an exception for the lines that it shows of it."""
        return [f"{type(self).__name__}: {self}"]
