"""Ctrl-C between two steps: the first one stops after the current step, the second one at once."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_log = logging.getLogger("arcee_lab")


class GracefulInterrupt:
    """Inside the block, Ctrl-C sets `requested` and the work continues; a second one interrupts.

    Outside the main thread, where signals cannot be caught, it does nothing.

    Args:
        step: What is finished first, for the warning.

    Attributes:
        requested: Whether Ctrl-C was pressed.
    """

    def __init__(self, step: str = "the current shard") -> None:
        self.requested = False
        self._step = step
        self._before: Any = None
        self._caught = False

    def __enter__(self) -> "GracefulInterrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._pressed)
            self._caught = True
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._caught:
            # None if the handler was not Python's.
            signal.signal(signal.SIGINT, self._before or signal.SIG_DFL)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        _log.warning("finishing %s; Ctrl-C again stops at once", self._step)
