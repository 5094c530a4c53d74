"""Scores requests: batches of rows, one forward each, and only the logits that answer something.

A batch holds rows of about one length, up to a number of tokens. Rows that are plain sequences are
padded on the right, which a causal model never reads, so their mask is for hooks alone; rows that
branch get their tree as a 4-D mask and document positions for RoPE; rows behind a shared prefix get
its keys and values. What is asked is read off by `arcee_lab.evals.scoring.target_logprobs`.
Nothing is read back from the device before the last batch is done.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from threading import get_ident
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from arcee_lab.evals.intervened import EvalInterventions
from arcee_lab.evals.scoring.batch_plan import batches
from arcee_lab.evals.scoring.prefix_cache import group_by_prefix, repeated_cache, stacked_caches
from arcee_lab.evals.scoring.target_logprobs import TargetScores, combined_scores, target_scores
from arcee_lab.evals.scoring.token_trie import TargetRequest, TreeRow, tree_rows
from arcee_lab.interventions import Intervening
from arcee_lab.model.modeling import ArceeForCausalLM

_CALLS = 20  # whose overhead costs as much as the tokens of a full batch
_HELD = 4  # budgets of tokens whose keys and values wait for a call that they share
_TEXTS = 96  # tokens per row of whole texts; its tree's attention grows with the square
_TREE_KERNELS = ("sdpa", "eager")  # attention kernels that take a 4-D mask

_OUTPUTS = "transformers.utils.output_capturing"


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
        interventions: Interventions that act during these forwards.
        budget: Tokens per batch, padding included; a longer row is a batch of its own.
        cost: What all calls took so far.
    """

    model: ArceeForCausalLM
    interventions: EvalInterventions
    budget: int
    cost: Cost = field(default_factory=Cost)

    @property
    def branch(self) -> bool:
        """Whether documents are packed."""
        kernel = self.model.config._attn_implementation or "eager"
        return self.interventions.packed is not None and kernel in _TREE_KERNELS

    def score(
        self,
        documents: Iterable[Sequence[TargetRequest]],
        *,
        count: int,
        greedy: bool = True,
        together: bool = False,
        advance: Callable[[int], Any] = lambda done: None,
    ) -> list[tuple[float, bool]]:
        """Scores the requests of documents.

        Args:
            documents: Requests, numbered from 0 through all documents.
            count: How many requests there are.
            greedy: Whether it is asked if targets are the likeliest tokens.
            together: Whether short documents that begin alike may share a row. They do not where
                something hooks into the model: it would see their beginnings once for all.
            advance: Called with the number of requests done since it was called before.

        Returns:
            Of each request the log-likelihood in nats, and whether each target is the likeliest
            token; True where that is not asked.
        """
        branch = self.branch
        if together and branch and not _hooked(self.model):
            everything = chain.from_iterable(documents)
            rows = tree_rows(everything, longest=min(self.budget, _TEXTS), least=0.0)
        else:
            rows = [
                row
                for one in documents
                for row in tree_rows(one, branch=branch, longest=self.budget)
            ]
        groups = group_by_prefix(rows, budget=self.budget) if branch else [(0, rows)]
        found: list[TargetScores] = []
        with (
            self.interventions.around(self.model, packed=branch) as block,
            _mask_for_hooks_alone(self.model),
            torch.no_grad(),
        ):
            tell = block if branch and self.interventions.tagged else None
            for batch, prefixes, cache in self._batches(groups, tell):
                found.append(self._forward(batch, prefixes, cache, tell, greedy))
                advance(sum(len(row.reads) for row in batch))
        self.cost.requests += count
        self.cost.logits_bytes = max([self.cost.logits_bytes, *(one.logits_bytes for one in found)])
        return combined_scores(found, count)

    def _batches(
        self, groups: Iterable[tuple[int, list[TreeRow]]], tell: Intervening | None
    ) -> Iterator[tuple[list[TreeRow], list[int], DynamicCache | None]]:
        """Rows of one call, how many of the nodes of each are read before, and their cache."""
        alone: list[tuple[int, TreeRow]] = []
        for prefix, group in groups:
            if prefix and len(group) == 1:
                alone.append((prefix, group[0]))
                continue
            cache = self._prefix(group[0], prefix, tell) if prefix else None
            for indices in batches(
                [len(row) - prefix for row in group],
                budget=self.budget,
                call=self.budget // _CALLS,
                padding=self.interventions.padding,
            ):
                rows = [group[index] for index in indices]
                shared = (
                    None if cache is None else repeated_cache(cache, len(rows), self.model.config)
                )
                yield rows, [prefix] * len(rows), shared
        # What is left of rows whose beginning is their own is short: several share a call.
        sizes = [max(prefix, _HELD * (len(row) - prefix)) for prefix, row in alone]
        for indices in batches(sizes, budget=_HELD * self.budget, call=self.budget):
            several = [alone[index] for index in indices]
            caches = [self._prefix(row, prefix, tell) for prefix, row in several]
            together = stacked_caches(caches, self.model.config)
            yield [row for _, row in several], [prefix for prefix, _ in several], together

    def _prefix(self, row: TreeRow, length: int, tell: Intervening | None) -> DynamicCache:
        """The keys and values of a beginning."""
        cache = DynamicCache(config=self.model.config)
        if tell is not None:
            tell.set_tags(torch.arange(length)[None])
        ids = torch.tensor([row.tokens[:length]], device=self.model.device)
        self._states(input_ids=ids, cache=cache, use_cache=True)
        self.cost.fed += length
        return cache

    def _states(self, **arguments: Any) -> tuple[Tensor, nn.Module | None]:
        """What a forward gives for each token, and the head that makes logits of it.

        Where something watches or changes logits these are it, of all tokens, and no head is left.
        """
        if _watched(self.model):
            return self.model(**arguments).logits, None
        return self.model.model(**arguments).last_hidden_state, self.model.lm_head

    def _forward(
        self,
        batch: list[TreeRow],
        prefixes: list[int],
        cache: DynamicCache | None,
        tell: Intervening | None,
        greedy: bool,
    ) -> TargetScores:
        """One forward, and what it answers."""
        device = self.model.device
        lengths = [len(row) - prefix for row, prefix in zip(batch, prefixes, strict=True)]
        width, past = max(lengths), max(prefixes)
        shape = (len(batch), width)
        ids, depths, ends = (np.zeros(shape, int) for _ in range(3))
        for index, (row, prefix, n) in enumerate(zip(batch, prefixes, lengths, strict=True)):
            ids[index, :n] = row.tokens[prefix:]
            depths[index, :n] = row.depths[prefix:]
            ends[index, :n] = np.array(row.ends[prefix:]) - prefix
        plain = cache is None and not any(row.branches for row in batch)
        arguments: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids).to(device),
            "use_cache": False,
        }
        if not plain:
            shape = (torch.tensor(one, device=device) for one in (ends, lengths, prefixes))
            tree = _tree(*shape, past=past)
            arguments["attention_mask"] = tree[:, None]
            arguments["position_ids"] = torch.from_numpy(depths).to(device)
        elif min(lengths) < width:
            arguments["attention_mask"] = torch.from_numpy((ends > 0).astype(int)).to(device)
        if cache is not None:
            arguments["cache"] = cache
        if tell is not None:
            before = np.broadcast_to(np.arange(past), (len(batch), past))
            tell.set_tags(torch.from_numpy(np.concatenate([before, depths], axis=1)).to(device))
        self.cost.fed += width * len(batch)
        self.cost.rows += len(batch)
        states, head = self._states(**arguments)
        return target_scores(states, batch, prefixes=prefixes, head=head, greedy=greedy)


def _watched(model: ArceeForCausalLM) -> bool:
    """Whether hooks expect a call of the whole model, or logits by sequence."""
    return any(map(_has_hooks, (model, model.lm_head, model.hook_logits)))


def _hooked(model: ArceeForCausalLM) -> bool:
    """Whether anything but the interventions of this evaluation, not begun yet, hooks in."""
    return any(map(_has_hooks, model.modules()))


def _has_hooks(module: nn.Module) -> bool:
    """Whether hooks are there that may look at a call.

    transformers leaves hooks of its own after a call with `output_hidden_states`; they do nothing
    in any other call.
    """
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(getattr(hook, "__module__", "") != _OUTPUTS for hook in hooks)


@contextmanager
def _mask_for_hooks_alone(model: ArceeForCausalLM) -> Iterator[None]:
    """Takes a 2-D mask from calls once all other hooks have read it.

    It holds padding on the right, which no token reads, and kernels are faster without. So numbers
    do not depend on whether anybody watches.
    """
    owner = get_ident()

    def strip(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if get_ident() != owner:  # a call that is not of this evaluation keeps its mask
            return args, kwargs
        mask = kwargs.get("attention_mask")
        return args, kwargs | {"attention_mask": mask if mask is None or mask.ndim > 2 else None}

    handle = model.model.register_forward_pre_hook(strip, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _tree(ends: Tensor, lengths: Tensor, prefixes: Tensor, *, past: int) -> Tensor:
    """Which keys each query may read, `[row, q_pos, k_pos]`; those of the prefixes come first.

    Padding reads nothing of its own, so that hooks see that it is padding: its diagonal is False.
    """
    width = ends.shape[1]
    columns = torch.arange(width, device=ends.device)
    if not past:
        # A query that may read nothing is undefined in some kernels; padding reads the first token.
        ends = ends.clone()
        ends[:, 0] = width
    tree = (columns <= columns[:, None]) & (columns[:, None] < ends[:, None, :])
    if past:
        real = columns < lengths[:, None]
        before = torch.arange(past, device=ends.device) < prefixes[:, None]
        tree = torch.cat([real[..., None] & before[:, None], tree], dim=-1)
    return tree
