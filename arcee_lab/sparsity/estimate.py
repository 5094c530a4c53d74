"""What a measurement will take, before it runs."""

import time
from dataclasses import dataclass

import torch

from arcee_lab.sparsity.stream import Pass, new_states

_STATISTICS = 1.3  # a pass takes so many times its forwards, about


@dataclass(frozen=True)
class Estimate:
    """Size and time of a pass.

    Attributes:
        windows: Windows to read.
        tokens: Their tokens, first positions included.
        shared: Tokens that the analyses beside the core look at.
        share: 1 window in so many.
        forwards: Forwards of this rank.
        state_bytes: What the counts take on the model's device, whatever the length of the text.
        seconds: About how long this rank takes; from the time of one forward.
    """

    windows: int
    tokens: int
    shared: int
    share: int
    forwards: int
    state_bytes: int
    seconds: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        about = f"{self.seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min"
        return (
            f"{self.tokens:,} tokens in {self.windows:,} windows, {self.forwards:,} forwards; "
            f"1 window in {self.share} looked at closely ({self.shared:,} tokens); counts take "
            f"{self.state_bytes / 1e6:,.1f} MB; about {about}"
        )


def state_bytes(run: Pass) -> int:
    """Bytes of the counts, told without making them."""
    states = new_states(run.shape, run.analyses, torch.device("meta"))
    return sum(x.nbytes for state in states.values() for x in state.values())


def estimate(run: Pass, *, processes: int = 1) -> Estimate:
    """Estimates a pass; runs one forward twice, on one window of middling length.

    Args:
        run: The pass, from `measure.prepare`.
        processes: Ranks that share it.
    """
    windows = run.plan.windows
    sizes = windows.bounds[1:] - windows.bounds[:-1]
    ids = torch.from_numpy(windows[int(sizes.argsort()[len(sizes) // 2])].astype("int64"))[None]
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        with torch.no_grad():
            out = run.model.base_model(input_ids=ids.to(run.model.device), use_cache=False)
        float(out[0][0, -1, 0])  # waits for the device
        seconds = time.perf_counter() - began
    whole = seconds / ids.shape[1] * windows.n_tokens / processes * _STATISTICS
    return Estimate(
        windows=len(windows),
        tokens=windows.n_tokens,
        shared=run.plan.shared_tokens,
        share=run.plan.share,
        forwards=-(-len(run.plan.batches) // processes),
        state_bytes=state_bytes(run),
        seconds=whole,
    )
