"""Which rows share a batch: the cut that minimises padding plus a fixed cost per call."""

from collections.abc import Iterator, Sequence

import numpy as np


def batches(
    lengths: Sequence[int], *, budget: int, call: int, padding: bool = True
) -> Iterator[list[int]]:
    """Cuts rows, sorted by length, at the least cost: tokens fed, plus a fixed cost per call.

    Args:
        lengths: Tokens of each row, in any order.
        budget: Tokens per batch, padding included; a longer row is a batch of its own.
        call: What a call costs, in tokens.
        padding: Whether rows of a batch may differ in length.

    Yields:
        Indices of the rows of a batch, the longest first; long rows come before short ones.

    Example:
        >>> from arcee_lab.evals.scoring.batch_plan import batches
        >>> list(batches([9, 2, 10, 3], budget=100, call=4))
        [[2, 0], [3, 1]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    widths = np.asarray(lengths)[order]
    count = len(widths)
    # best[n] is the least cost of the first n rows, and begins[n] where their last batch begins.
    best = np.full(count + 1, np.inf)
    best[0] = 0
    begins = np.zeros(count + 1, int)
    alike = np.searchsorted(-widths, -widths, side="right")
    for begin, width in enumerate(widths):
        end = min(count if padding else alike[begin], begin + max(1, budget // width))
        costs = best[begin] + call + width * np.arange(1, end - begin + 1)
        before, cut = best[begin + 1 : end + 1], begins[begin + 1 : end + 1]
        less = costs < before
        before[less], cut[less] = costs[less], begin
    ends = [count] if count else []
    while ends and begins[ends[-1]]:
        ends.append(int(begins[ends[-1]]))
    begin = 0
    for end in reversed(ends):
        yield order[begin:end].tolist()
        begin = end
