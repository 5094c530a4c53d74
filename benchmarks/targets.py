"""What was measured next to what was asked for."""

import statistics
import time
from collections.abc import Callable


class Verdicts:
    """Rows of what was measured next to what was asked for."""

    def __init__(self) -> None:
        self.missed = False

    def row(
        self, what: str, got: float, limit: float, *, least: bool = False, unit: str = ""
    ) -> str:
        """One line of a table."""
        passed = got >= limit if least else got <= limit
        self.missed |= not passed
        sign = ">=" if least else "<="
        verdict = "pass" if passed else "MISS"
        return f"| {what} | {got:.3g}{unit} | {sign} {limit:g}{unit} | {verdict} |"


def cpu(call: Callable[[], object], *, rounds: int) -> float:
    """Median CPU seconds of this thread."""
    spent = []
    for _ in range(rounds):
        began = time.thread_time()
        call()
        spent.append(time.thread_time() - began)
    return statistics.median(spent)
