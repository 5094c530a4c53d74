"""Scores requests: batches of rows, one forward each, and only the logits that answer something.

A batch holds rows of about one length, up to a number of tokens. Rows that are plain sequences are
padded on the right, which a causal model never reads, so their mask is for hooks alone; rows that
branch get their tree as a 4-D mask and document positions for RoPE; rows behind a shared prefix get
its keys and values. Log-softmax is in fp32, whatever the model's dtype. Nothing is read back from
the device before the last batch is done.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from arcee_lab.evals.changing import Changes
from arcee_lab.evals.prefix import by_prefix, handed_out
from arcee_lab.evals.trie import Row, Wanted, rows_of
from arcee_lab.interventions import Intervening
from arcee_lab.model.modeling import ArceeForCausalLM

_SOFTMAX_BYTES = 2**25  # fp32 logits that are worked on at once
_TREE_KERNELS = ("sdpa", "eager")  # attention kernels that take a 4-D mask


@dataclass
class Cost:
    """What scoring took.

    Attributes:
        requests: Scored.
        rows: Fed.
        fed: Tokens fed, padding included.
        logits_bytes: Most bytes of logits at one time, fp32 copies included.
        truncated: Requests whose context was cut from the left.
        exact: Requests that lm-eval's own arithmetic scored.
    """

    requests: int = 0
    rows: int = 0
    fed: int = 0
    logits_bytes: int = 0
    truncated: int = 0
    exact: int = 0


@dataclass
class Scorer:
    """Scores requests with one model.

    Attributes:
        model: With an LM head.
        changes: Interventions that act meanwhile.
        budget: Tokens a batch, padding included; a longer row is a batch of its own.
        cost: What all calls took so far.
    """

    model: ArceeForCausalLM
    changes: Changes
    budget: int
    cost: Cost = field(default_factory=Cost)

    @property
    def branch(self) -> bool:
        """Whether documents are packed."""
        kernel = self.model.config._attn_implementation or "eager"
        return self.changes.packed is not None and kernel in _TREE_KERNELS

    def score(
        self,
        documents: Iterable[Sequence[Wanted]],
        *,
        count: int,
        advance: Callable[[int], Any] = lambda done: None,
    ) -> list[tuple[float, bool]]:
        """Scores the requests of documents.

        Args:
            documents: Requests, numbered from 0 through all documents.
            count: How many requests there are.
            advance: Called with the number of requests done since it was called before.

        Returns:
            Of each request the log-likelihood in nats, and whether each target is the likeliest
            token.
        """
        branch = self.branch
        rows = [
            row for one in documents for row in rows_of(one, branch=branch, longest=self.budget)
        ]
        groups = by_prefix(rows, budget=self.budget) if branch else [(0, rows)]
        found: list[tuple[list[int], list[int], Tensor, Tensor]] = []
        with (
            self.changes.around(self.model, packed=branch) as block,
            _mask_for_hooks_alone(self.model),
            torch.no_grad(),
        ):
            tell = block if branch and self.changes.tagged else None
            for prefix, group in groups:
                cache = self._prefix(group[0], prefix, tell) if prefix else None
                for batch in self._batches(group, prefix):
                    logits, reads = self._forward(batch, prefix, cache, tell)
                    found.append(_read(logits, batch, reads))
                    self.cost.logits_bytes = max(self.cost.logits_bytes, _bytes_of(logits))
                    advance(sum(len(row.reads) for row in batch))
        self.cost.requests += count
        return _answers(found, count)

    def _batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Rows of about one length, the longest first."""
        batch: list[Row] = []
        width = 0
        for row in sorted(rows, key=len, reverse=True):
            unequal = not self.changes.padding and len(row) - prefix != width
            if batch and ((len(batch) + 1) * width > self.budget or unequal):
                yield batch
                batch = []
            width = width if batch else len(row) - prefix
            batch.append(row)
        if batch:
            yield batch

    def _prefix(self, row: Row, length: int, tell: Intervening | None) -> DynamicCache:
        """The keys and values of a shared prefix."""
        cache = DynamicCache(config=self.model.config)
        if tell is not None:
            tell.set_tags(torch.arange(length)[None])
        ids = torch.tensor([row.tokens[:length]], device=self.model.device)
        self.model(input_ids=ids, cache=cache, use_cache=True, **self._keep(1))
        self.cost.fed += length
        return cache

    def _keep(self, what: int | Tensor) -> dict[str, Any]:
        return {} if self.changes.whole_logits else {"logits_to_keep": what}

    def _forward(
        self, batch: list[Row], prefix: int, cache: DynamicCache | None, tell: Intervening | None
    ) -> tuple[Tensor, list[list[int]]]:
        """Logits `[row, node, vocab]` of the nodes that are read, and which these are."""
        device = self.model.device
        width = len(batch[0]) - prefix
        reads = [row.nodes_read() for row in batch]
        most = max(map(len, reads))
        shape = (len(batch), width)
        ids, depths = np.zeros(shape, int), np.zeros(shape, int)
        ends = np.zeros(shape, int)
        kept = np.zeros((len(batch), most), int)
        for index, row in enumerate(batch):
            n = len(row) - prefix
            ids[index, :n] = row.tokens[prefix:]
            depths[index, :n] = row.depths[prefix:]
            ends[index, :n] = row.ends[prefix:]
            kept[index, : len(reads[index])] = np.array(reads[index]) - prefix
        plain = cache is None and not any(row.branches for row in batch)
        arguments: dict[str, Any] = {"use_cache": False}
        if not plain:
            lengths = torch.tensor([len(row) - prefix for row in batch], device=device)
            tree = _tree(torch.from_numpy(ends - prefix * (ends > 0)).to(device), lengths, prefix)
            arguments["attention_mask"] = tree[:, None]
            arguments["position_ids"] = torch.from_numpy(depths).to(device)
        elif any(len(row) < width for row in batch):
            arguments["attention_mask"] = torch.from_numpy((ends > 0).astype(int)).to(device)
        if cache is not None:
            arguments["cache"] = handed_out(cache, len(batch), self.model.config)
        if tell is not None:
            before = np.broadcast_to(np.arange(prefix), (len(batch), prefix))
            tell.set_tags(torch.from_numpy(np.concatenate([before, depths], axis=1)).to(device))
        keep = torch.from_numpy(kept).to(device)
        output = self.model(
            input_ids=torch.from_numpy(ids).to(device), **arguments, **self._keep(keep)
        )
        logits = output.logits
        if self.changes.whole_logits:
            logits = logits.take_along_dim(keep[..., None], dim=1)
        self.cost.fed += width * len(batch)
        self.cost.rows += len(batch)
        return logits, reads


@contextmanager
def _mask_for_hooks_alone(model: ArceeForCausalLM) -> Iterator[None]:
    """Takes a 2-D mask from calls once all other hooks have read it.

    It holds padding on the right, which no token reads, and kernels are faster without. So numbers
    do not depend on whether anybody watches.
    """

    def strip(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        mask = kwargs.get("attention_mask")
        return args, kwargs | {"attention_mask": mask if mask is None or mask.ndim > 2 else None}

    handle = model.model.register_forward_pre_hook(strip, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _tree(ends: Tensor, lengths: Tensor, prefix: int) -> Tensor:
    """Which keys each query may read, `[row, q_pos, k_pos]`.

    Padding reads nothing of its own, so that hooks are told it is padding: its diagonal is False.
    """
    width = ends.shape[1]
    columns = torch.arange(width, device=ends.device)
    if not prefix:
        # A query that may read nothing is undefined in some kernels; padding reads the first token.
        ends = ends.clone()
        ends[:, 0] = width
    tree = (columns <= columns[:, None]) & (columns[:, None] < ends[:, None, :])
    if prefix:
        real = columns < lengths[:, None]
        tree = torch.cat([real[..., None].expand(-1, -1, prefix), tree], dim=-1)
    return tree


def _read(
    logits: Tensor, batch: list[Row], reads: list[list[int]]
) -> tuple[list[int], list[int], Tensor, Tensor]:
    """Request numbers, how many targets each has, and of every target its score and rightness."""
    rows, most, vocab = logits.shape
    numbers, counts, places, targets = [], [], [], []
    for index, (row, nodes) in enumerate(zip(batch, reads, strict=True)):
        place = {node: index * most + at for at, node in enumerate(nodes)}
        for read in row.reads:
            numbers.append(read.number)
            counts.append(len(read.targets))
            places += [place[node] for node in read.nodes]
            targets += read.targets
    flat = logits.reshape(rows * most, vocab)
    at = torch.tensor(places, device=logits.device)
    wanted = torch.tensor(targets, device=logits.device)
    step = max(1, _SOFTMAX_BYTES // (4 * vocab))
    sums, best = [], []
    for chunk in flat.split(step):
        wide = chunk.float()
        sums.append(wide.logsumexp(dim=-1))
        best.append(wide.argmax(dim=-1))
    scores = flat[at, wanted].float() - torch.cat(sums)[at]
    return numbers, counts, scores, torch.cat(best)[at] == wanted


def _bytes_of(logits: Tensor) -> int:
    """Logits, the part that is in fp32 at a time, and as much again inside logsumexp."""
    rows, vocab = logits.shape[0] * logits.shape[1], logits.shape[2]
    copied = min(rows, max(1, _SOFTMAX_BYTES // (4 * vocab))) * vocab * 4
    copies = 1 + (logits.dtype != torch.float32)
    return logits.numel() * logits.element_size() + copies * copied


def _answers(
    found: list[tuple[list[int], list[int], Tensor, Tensor]], count: int
) -> list[tuple[float, bool]]:
    answers: list[tuple[float, bool]] = [(0.0, True)] * count
    if not found:
        return answers
    scores = torch.cat([one[2] for one in found]).cpu().double().numpy()
    right = torch.cat([one[3] for one in found]).cpu().numpy()
    numbers = [number for one in found for number in one[0]]
    counts = np.array([length for one in found for length in one[1]])
    starts = np.concatenate([[0], counts.cumsum()[:-1]])
    totals = np.add.reduceat(scores, starts)
    greedy = np.logical_and.reduceat(right, starts)
    for number, total, all_right in zip(numbers, totals, greedy, strict=True):
        answers[number] = (float(total), bool(all_right))
    return answers
