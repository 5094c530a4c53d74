"""What a measurement will take, estimated before it runs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.results import counted
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.sampled.sample import DEFAULT_TOKENS
from arcee_lab.sparsity.streamed.runner import Pass, new_states

_STATISTICS = 1.3  # a pass takes about this many times its forward passes
_CUTS = 3  # and a reading this many times that: logits, losses, and the choice of neurons
_TOKENS = 1024  # of the forward that is timed, at most


@dataclass(frozen=True)
class PassEstimate:
    """Size and time of a pass.

    Attributes:
        windows: Windows to read.
        tokens: Their tokens, first positions included.
        sampled: Tokens that the analyses other than the core look at; 0 where there are none.
        sample_every: Every Nth window is in the sample.
        forwards: Forward passes of this rank.
        state_bytes: What the counts take on the model's device, for any length of text.
        seconds: About how long this rank takes for the pass; from the time of one forward.
        further: Analyses with forward passes of their own, after the pass.
        further_seconds: About how long those take.
    """

    windows: int
    tokens: int
    sampled: int
    sample_every: int
    forwards: int
    state_bytes: int
    seconds: float
    further: tuple[str, ...]
    further_seconds: float

    def __str__(self) -> str:
        sample, then = "", ""
        if self.sampled:
            of = "all windows" if self.sample_every == 1 else f"1 window in {self.sample_every}"
            sample = f"{of} sampled ({self.sampled:,} tokens); "
        if self.further:
            then = f", then {_about(self.further_seconds)} for {', '.join(self.further)}"
        passes = counted(self.forwards, "forward pass", "forward passes")
        return (
            f"{self.tokens:,} tokens in {counted(self.windows, 'window')}, {passes}; "
            f"{sample}counts take {self.state_bytes / 1e6:,.1f} MB; about "
            f"{_about(self.seconds)}{then}"
        )


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def state_bytes(run: Pass) -> int:
    """Bytes of the counts, computed without allocating them."""
    states = new_states(run.shape, run.analyses, torch.device("meta"))
    return sum(x.nbytes for state in states.values() for x in state.values())


def estimate(run: Pass, *, further: Sequence[str] = (), processes: int = 1) -> PassEstimate:
    """Estimates a pass; runs one forward twice, on a batch of median length, or part of it.

    Args:
        run: The pass, from `job.plan_pass`.
        further: Analyses of `registry.FURTHER` that follow it, on samples of their default size.
        processes: Ranks that share the pass.
    """
    windows, device = run.plan.windows, device_of(run.model)
    (forward,) = run.plan.forwards([len(run.plan.batches) // 2])
    rows = slice(max(1, _TOKENS // forward.input_ids.shape[1]))
    ids, mask = forward.input_ids[rows], forward.attention_mask[rows]
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        with torch.no_grad():
            out = run.model.base_model(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            )
        float(out[0][0, 0, 0])  # waits for the device
        seconds = time.perf_counter() - began
    token = seconds / int(mask.sum()) * _STATISTICS
    readings = _CUTS * sum(registry.READINGS[name] for name in further)
    return PassEstimate(
        windows=len(windows),
        tokens=windows.n_tokens,
        sampled=run.plan.sampled_tokens if run.analyses else 0,
        sample_every=run.plan.sample_every,
        forwards=-(-len(run.plan.batches) // processes),
        state_bytes=state_bytes(run),
        seconds=token * windows.n_tokens / processes,
        further=tuple(further),
        further_seconds=token * min(windows.n_tokens, DEFAULT_TOKENS) * readings,
    )
