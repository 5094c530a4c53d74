"""The choices of a document as branches of one row: what they share is read once.

Nodes are in the order of a walk down the branches, so a node's descendants follow it without a gap:
node j is read by node i exactly if `j <= i < ends[j]`. That is the whole attention mask of a row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class TargetRequest(NamedTuple):
    """The log-likelihood of some tokens behind others.

    Attributes:
        number: Of the request, among all that are scored together.
        tokens: What the model reads: the context and all but the last token of the continuation.
        first: Index of the token that the first target follows.
        targets: The continuation; target t follows token `first + t`.
    """

    number: int
    tokens: Sequence[int]
    first: int
    targets: Sequence[int]


class TargetNodes(NamedTuple):
    """Where a row answers a request.

    Attributes:
        number: Of the request.
        nodes: Behind which the targets stand.
        targets: Token ids.
    """

    number: int
    nodes: Sequence[int]
    targets: Sequence[int]


@dataclass
class TreeRow:
    """One row of a batch: a tree of tokens.

    Attributes:
        tokens: Ids, in the order of a walk.
        depths: Of each node: its position in its own document.
        ends: Node behind the last descendant of each node.
        reads: What is asked of it.
        stem: Nodes from the root that neither branch nor answer; what may become a shared prefix.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    reads: list[TargetNodes] = field(default_factory=list)
    stem: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def branches(self) -> bool:
        """Whether it is more than one sequence."""
        return min(self.ends) < len(self.tokens)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences share from the start."""
    end = min(len(one), len(other))
    if one[:end] == other[:end]:
        return end
    # Halving beats a loop over tokens: comparing slices runs in C.
    low, high = 0, end
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def tree_rows(
    document: Iterable[TargetRequest], *, branch: bool = True, longest: int, least: float = 0.25
) -> list[TreeRow]:
    """Lays the requests of one document, or short texts, into rows.

    Requests with the same tokens share a row in any case.

    Args:
        document: Requests that may share tokens; no others come in.
        branch: Whether different sequences may share a row.
        longest: Tokens that a row of several sequences may have behind what all of them share.
        least: The part of its tokens that a sequence must share to be let into a row. One token is
            asked for in any case: a row has one root.

    Returns:
        Rows, each with one sequence or several.

    Example:
        >>> asked = [TargetRequest(0, [1, 5, 6], 1, [6, 7])]
        >>> asked.append(TargetRequest(1, [1, 5, 8, 9], 1, [8, 9, 2]))
        >>> (row,) = tree_rows(asked, longest=64)
        >>> row.tokens, row.depths, row.ends
        ([1, 5, 6, 8, 9], [0, 1, 2, 2, 3], [5, 5, 3, 5, 5])
    """
    rows: list[TreeRow] = []
    path: list[int] = []
    before: list[int] = []
    for one in sorted(document, key=lambda wanted: list(wanted.tokens)):
        tokens = list(one.tokens)
        shared = common_length(before, tokens) if rows else 0
        same = shared == len(tokens) == len(before)
        behind = len(tokens) - min(rows[-1].stem, shared) if rows else 0
        fits = rows and len(rows[-1]) - shared + behind <= longest
        if not same and not (branch and fits and shared and shared >= least * len(tokens)):
            _close(rows, path, 0)
            rows.append(TreeRow(stem=len(tokens)))
            path, shared = [], 0
        row = rows[-1]
        if shared < len(path):
            row.stem = min(row.stem, shared)
        _close(rows, path, shared)
        del path[shared:]
        path += range(len(row), len(row) + len(tokens) - shared)
        row.tokens += tokens[shared:]
        row.depths += range(shared, len(tokens))
        row.ends += [-1] * (len(tokens) - shared)
        row.stem = min(row.stem, one.first)
        nodes = path[one.first : one.first + len(one.targets)]
        row.reads.append(TargetNodes(one.number, nodes, one.targets))
        before = tokens
    _close(rows, path, 0)
    return rows


def _close(rows: list[TreeRow], path: list[int], depth: int) -> None:
    """Ends the nodes of a path from a depth on: what comes is no descendant of theirs."""
    if len(path) > depth:
        ends, end = rows[-1].ends, len(rows[-1])
        for node in path[depth:]:
            ends[node] = end
