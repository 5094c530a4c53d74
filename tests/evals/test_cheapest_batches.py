"""Rows are cut into batches at the least cost."""

from itertools import chain, combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from arcee_lab.evals.scoring.batch_plan import batches

LENGTHS = st.lists(st.integers(1, 30), max_size=7)


def price(batch, call):
    return call + max(batch) * len(batch)


def cheapest(lengths, budget, call, padding):
    """The least cost of all ways to cut, tried out."""
    order = sorted(lengths, reverse=True)
    inner = range(1, len(order))
    found = []
    for cuts in chain.from_iterable(combinations(inner, n) for n in range(len(order))):
        parts = [order[a:b] for a, b in pairwise([0, *cuts, len(order)])]
        if all(
            len(part) == 1
            or (max(part) * len(part) <= budget and (padding or max(part) == min(part)))
            for part in parts
        ):
            found.append(sum(price(part, call) for part in parts))
    return min(found, default=0)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 100), st.integers(0, 20), st.booleans())
def test_no_other_cut_costs_less(lengths, budget, call, padding):
    found = [
        [lengths[index] for index in batch]
        for batch in batches(lengths, budget=budget, call=call, padding=padding)
    ]
    assert list(chain.from_iterable(found)) == sorted(lengths, reverse=True)
    assert sum(price(batch, call) for batch in found) == cheapest(lengths, budget, call, padding)
    for batch in found:
        assert len(batch) == 1 or max(batch) * len(batch) <= budget
        assert padding or len(set(batch)) == 1


def test_each_row_comes_once():
    found = list(batches([5, 5, 2, 9, 5], budget=10, call=1))
    assert sorted(chain.from_iterable(found)) == [0, 1, 2, 3, 4]
    assert found[0] == [3]
