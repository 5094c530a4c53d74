"""Requests that cannot be scored: which they are, and the answer that they get.

lm-eval's `hf` ends the whole run at such a request. Here the document is left out of its task and
listed, or, on request (`strict`), the task ends with an error.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from arcee_lab.evals.scoring.tokenization import Pair


class Unscorable(tuple):
    """In the place of (log-likelihood, greedy): NaN, and why there is no number.

    A tuple, because lm-eval's filters and caches handle answers; no metric ever gets one.

    Attributes:
        reason: Why, as a clause without a full stop.
    """

    reason: str

    def __new__(cls, reason: str) -> "Unscorable":
        """The answer with its reason."""
        answer = super().__new__(cls, (math.nan, False))
        answer.reason = reason
        return answer

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        """What a copy is made of."""
        return (self.reason,)


class SkippedDocument(NamedTuple):
    """A document that was left out.

    Attributes:
        task: Its task.
        doc_id: Its number in the task.
        reason: Why it could not be scored.
    """

    task: str
    doc_id: int
    reason: str


def unscorable(
    asked: Sequence[tuple[str, str]], pairs: Sequence[Pair], *, longest: int
) -> dict[int, str]:
    """Why requests cannot be scored, by their index; requests that can be are not in it.

    Args:
        asked: Contexts and continuations.
        pairs: Their token ids.
        longest: Tokens that the model reads.

    Example:
        >>> unscorable([("The dogs", "")], [([1, 5, 6], [])], longest=128)
        {0: "the continuation '' is empty, so there is nothing to score"}
    """
    found = {}
    for index, ((context, continuation), (before, after)) in enumerate(
        zip(asked, pairs, strict=True)
    ):
        if not continuation and not after:
            reason = "the continuation '' is empty, so there is nothing to score"
        elif not after:
            reason = (
                f"the continuation {continuation[:60]!r} has no token of its own (it merges into "
                "the last token of the context), so there is nothing to score"
            )
        elif not before:
            reason = (
                f"the context {context[:60]!r} has no token of its own, so nothing precedes what "
                "is scored"
            )
        elif len(after) > longest:
            reason = (
                f"a continuation of {len(after)} tokens does not fit the context window of "
                f"{longest}"
            )
        else:
            continue
        found[index] = reason
    return found


def skipped_documents(
    task: str, instances: Iterable[Any], numbers: Sequence[int] | None
) -> list[SkippedDocument]:
    """The documents of a task with a request that could not be scored, each once.

    Args:
        task: Its name.
        instances: lm-eval's requests, answered.
        numbers: The numbers of the documents that were named, if only some were asked.
    """
    found: dict[int, SkippedDocument] = {}
    for one in instances:
        reasons = [answer.reason for answer in one.resps if isinstance(answer, Unscorable)]
        if reasons and one.doc_id not in found:
            number = one.doc_id if numbers is None else numbers[one.doc_id]
            found[one.doc_id] = SkippedDocument(task, number, reasons[0])
    return list(found.values())


@contextmanager
def documents_left_out(tasks: Iterable[Any]) -> Iterator[None]:
    """Has lm-eval score only the documents of tasks whose requests could all be scored.

    lm-eval walks a task's documents twice: for the requests, when nothing is answered yet, and for
    the metrics.

    Args:
        tasks: lm-eval's.
    """
    own = [(task, task.doc_iterator) for task in tasks]
    try:
        for task, iterate in own:
            task.doc_iterator = _without_skipped(task, iterate)
        yield
    finally:
        for task, _ in own:
            del task.doc_iterator


def _without_skipped(task: Any, iterate: Any) -> Any:
    def documents(**settings: Any) -> Iterator[tuple[int, Any]]:
        instances = getattr(task, "_instances", None) or ()
        gone = {
            one.doc_id for one in instances if any(isinstance(a, Unscorable) for a in one.resps)
        }
        return ((number, doc) for number, doc in iterate(**settings) if number not in gone)

    return documents
