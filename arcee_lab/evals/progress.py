"""Progress of an evaluation: one bar that counts documents, also while lm-eval asks requests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lm_eval.api.task

from arcee_lab.heads.batches import Advance
from arcee_lab.runs.progress import progress_bar


@runtime_checkable
class HasBar(Protocol):
    """A model whose requests move a bar of the run; without one they show their own.

    Attributes:
        bar: Takes the number of requests of a call and returns what to call as they are done.
    """

    bar: Callable[[int], Advance] | None


@contextmanager
def without_lm_eval_bar() -> Iterator[None]:
    """Holds back the bar that lm-eval draws for each task while it builds requests."""
    own = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = partial(own, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = own


@contextmanager
def counting_documents(lm: HasBar, bar: Any, documents: int) -> Iterator[None]:
    """Lets the model's requests move the bar, in documents."""
    before = bar.n

    def begin(total: int) -> Callable[[float], None]:
        done = 0.0

        def advance(requests: int | float) -> None:
            nonlocal done
            done += requests
            # Requests of several kinds would count a document more than once.
            there = before + min(documents, round(documents * done / max(total, 1)))
            bar.update(there - bar.n)

        return advance

    lm.bar = begin
    try:
        yield
    finally:
        lm.bar = None
    bar.update(before + documents - bar.n)


@contextmanager
def advancing(
    bar: Callable[[int], Advance] | None, total: int, *, what: str, show: bool | None
) -> Iterator[Advance]:
    """The run's own progress bar, or one for this call.

    Args:
        bar: The bar of the run, as `counting_documents` sets it.
        total: Requests of this call.
        what: What they are, for a bar of their own.
        show: Whether that bar is shown.
    """
    if bar is not None:
        yield bar(total)
        return
    done = 0.0
    with progress_bar(total=total, desc=what, show=show) as own:

        def advance(more: float | int) -> None:
            nonlocal done
            done += more
            own.update(round(done) - own.n)

        yield advance


class AdvancingCacheHook(NamedTuple):
    """A cache hook, which lm-eval calls as soon as it has a text, that moves a bar too."""

    own: Any
    advance: Advance

    def add_partial(self, *answer: Any) -> None:
        """Hands an answer on and moves the bar by one request."""
        self.own.add_partial(*answer)
        self.advance(1)
