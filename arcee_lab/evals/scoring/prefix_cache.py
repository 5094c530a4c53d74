"""The beginning that many documents share, such as fixed few-shot examples: computed once.

The same holds for the beginning of a long row with branches: without a tree for a mask, attention
works on half of its square.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from arcee_lab.evals.scoring.token_trie import TreeRow, common_length

SHORTEST = 16  # tokens; below, handing out the cache costs more than reading them again
FEWEST = 3  # rows


def group_by_prefix(rows: Sequence[TreeRow], *, budget: int) -> list[tuple[int, list[TreeRow]]]:
    """Sorts rows into groups that begin alike.

    In sorted order, a group continues as long as its shared beginning does not fall to half of what
    its first two rows share.

    Args:
        rows: In any order.
        budget: Tokens per batch. A row that fills more than half of it is a batch of its own,
            and so a group of its own if it branches.

    Returns:
        How many tokens all rows of a group share, and the rows; rows without a group come last,
        with 0.

    Example:
        >>> from arcee_lab.evals.scoring.token_trie import TargetRequest, tree_rows
        >>> shots = list(range(20))
        >>> asked = [[TargetRequest(n, [*shots, 90 + n, 7], 21, [1])] for n in range(4)]
        >>> rows = [row for one in asked for row in tree_rows(one, longest=64)]
        >>> [(length, len(group)) for length, group in group_by_prefix(rows, budget=64)]
        [(20, 4)]
    """
    order = sorted(rows, key=lambda row: row.tokens[: row.stem])
    stems = [row.tokens[: row.stem] for row in order]
    alike = [common_length(one, other) for one, other in pairwise(stems)]
    groups: list[tuple[int, list[TreeRow]]] = []
    alone: list[TreeRow] = []
    start = 0
    while start < len(order):
        end, shared = start + 1, alike[start] if start < len(alike) else 0
        whole = shared
        while end <= len(alike) and alike[end - 1] >= max(SHORTEST, whole / 2):
            shared = min(shared, alike[end - 1])
            end += 1
        if end - start >= FEWEST:
            groups.append((shared, order[start:end]))
        else:
            alone += order[start:end]
        start = end
    rest = []
    for row in alone:
        if row.branches and row.stem >= SHORTEST and 2 * len(row) > budget:
            groups.append((row.stem, [row]))
        else:
            rest.append(row)
    return [*groups, (0, rest)] if rest else groups


def repeated_cache(cache: DynamicCache, rows: int, config: PreTrainedConfig) -> DynamicCache:
    """A cache of one sequence as one of several, which a call may extend.

    The keys and values are views until the call adds its own; the cache given stays as it is.
    """
    copy = DynamicCache(config=config)
    # A layer's type says nothing of keys and values, as there are kinds of cache without them.
    own, others = cast(list[Any], copy.layers), cast(list[Any], cache.layers)
    for layer, given in zip(own, others, strict=True):
        keys, values = given.keys, given.values
        assert isinstance(keys, Tensor)
        assert isinstance(values, Tensor)
        layer.lazy_initialization(keys, values)
        # Put in place, not by `update`, which would copy them once more.
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
    return copy


def stacked_caches(caches: Sequence[DynamicCache], config: PreTrainedConfig) -> DynamicCache:
    """Caches of one sequence each as one of all; the shorter ones end in zeros, to be masked."""
    if len(caches) == 1:
        return caches[0]
    together = DynamicCache(config=config)
    longest = max(cache.get_seq_length() for cache in caches)

    def padded(states: Tensor) -> Tensor:
        return torch.nn.functional.pad(states, (0, 0, 0, longest - states.shape[2]))

    for own, *others in zip(together.layers, *(cache.layers for cache in caches), strict=True):
        layer, given = cast(Any, own), cast(list[Any], others)
        keys = torch.cat([padded(one.keys) for one in given])
        layer.lazy_initialization(keys, keys)
        layer.keys, layer.values = keys, torch.cat([padded(one.values) for one in given])
    return together
