"""What a batch answers: the log-likelihood of each target, with the LM head applied in pieces.

Only tokens that a target follows reach the head, some at a time. Their logits are read while
they are in a cache, and logits of all tokens never exist together. Log-softmax is in fp32, whatever
the model's dtype.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from arcee_lab.evals.scoring.token_trie import TreeRow

_PIECE = 256  # tokens; so many that reading the head's weights hardly counts


class TargetScores(NamedTuple):
    """What a batch answers, still on the device.

    Attributes:
        numbers: Of the requests.
        counts: Targets of each.
        order: For each score, which target it is of, counted through the requests.
        scores: Log-likelihood of each target in nats, fp32.
        greedy: Whether it is the likeliest token, the first of these if there are several; empty
            where nobody asks.
        logits_bytes: Most bytes of logits at one time, fp32 copies included.
    """

    numbers: list[int]
    counts: list[int]
    order: np.ndarray
    scores: Tensor
    greedy: Tensor
    logits_bytes: int


def target_scores(
    states: Tensor,
    batch: Sequence[TreeRow],
    *,
    prefixes: Sequence[int],
    head: nn.Module | None,
    greedy: bool = True,
) -> TargetScores:
    """Reads off what rows ask.

    Args:
        states: `[row, node, d_model]` before the head, or logits `[row, node, vocab]`.
        batch: The rows, right-padded to the same number of nodes.
        prefixes: How many nodes of each row lie before these.
        head: What makes logits of states; None if they are logits.
        greedy: Whether it is asked which targets are the likeliest tokens.
    """
    width = states.shape[1]
    starts = [index * width - prefix for index, prefix in enumerate(prefixes)]
    asked = [(start, one) for start, row in zip(starts, batch, strict=True) for one in row.reads]
    counts = [len(one.targets) for _, one in asked]
    wanted = np.array([target for _, one in asked for target in one.targets])
    places = np.array([node for _, one in asked for node in one.nodes])
    places += np.repeat([start for start, _ in asked], counts)
    # By place, so that each piece of the nodes answers a slice of the targets.
    order = np.argsort(places, kind="stable")
    nodes, at = np.unique(places[order], return_inverse=True)
    cuts = [*range(0, len(nodes), _PIECE), len(nodes)]
    among = np.searchsorted(at, cuts)
    flat = states.flatten(0, 1)
    kept = torch.from_numpy(nodes).to(states.device)
    rows, targets = (torch.from_numpy(x).to(states.device) for x in (at, wanted[order]))
    scores, right, most = [], [], 0
    for (first, last), (begin, end) in zip(pairwise(cuts), pairwise(among), strict=True):
        logits = flat[kept[first:last]]
        if head is not None:
            logits = head(logits)
        wide = logits.float()
        mine = (rows[begin:end] - first).to(wide.device)
        ids = targets[begin:end].to(wide.device)
        scores.append(wide[mine, ids] - wide.logsumexp(dim=-1)[mine])
        # `max` gives the first of equal ones, as argmax does, which is three times slower on CPUs.
        if greedy:
            right.append(wide.max(dim=-1).indices[mine] == ids)
        copies = 8 if wide is not logits else 4  # one more inside logsumexp
        most = max(most, logits.numel() * (logits.element_size() + copies))
    if head is None:
        most += states.numel() * states.element_size()
    numbers = [one.number for _, one in asked]
    return TargetScores(numbers, counts, order, torch.cat(scores), _joined(right), most)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.bool)


def combined_scores(found: Sequence[TargetScores], count: int) -> list[tuple[float, bool]]:
    """The answers of all batches, as lm-eval takes them.

    Args:
        found: Of each batch.
        count: How many requests there are.

    Returns:
        Of each request its log-likelihood, and whether each of its targets is the likeliest token
        (True where nobody asked).
    """
    answers: list[tuple[float, bool]] = [(0.0, True)] * count
    if not found:
        return answers
    counts = np.array([length for one in found for length in one.counts])
    starts = np.concatenate([[0], counts.cumsum()])
    before = np.cumsum([0, *(len(one.order) for one in found[:-1])])
    order = np.concatenate([one.order + n for one, n in zip(found, before, strict=True)])
    scores, greedy = np.empty(len(order)), np.ones(len(order), bool)
    scores[order] = torch.cat([one.scores for one in found]).cpu().double().numpy()
    told = torch.cat([one.greedy for one in found]).cpu().numpy()
    if len(told):
        greedy[order] = told
    totals = np.add.reduceat(scores, starts[:-1])
    right = np.logical_and.reduceat(greedy, starts[:-1])
    numbers = [number for one in found for number in one.numbers]
    for number, total, all_right in zip(numbers, totals, right, strict=True):
        answers[number] = (float(total), bool(all_right))
    return answers
