"""The tables of a report that follow from its counts alone, and its headline numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from arcee_lab.results import Result
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.thresholds import Thresholds

PLAIN = ("layers", "neurons", "tokens", "costs")
RARE = 0.001  # a neuron below this rate counts as rare
HOT = 0.5  # above this one as hot


def layers(counts: CoreCounts) -> pd.DataFrame:
    """One row per layer: zeros, active neurons, hot, rare and dead ones, the largest values."""
    rates, counted = counts.rates, counts.state
    sizes = Thresholds(counts.sized, counts.fired.shape[1], counts.n_tokens)
    return pd.DataFrame(
        {
            "layer": range(len(counts.fired)),
            "zeros": counts.zeros.numpy(),
            "zeros_first": counts.zeros_first.numpy(),
            "active_mean": (counts.fired.sum(dim=1) / counts.n_tokens).numpy(),
            "active_p05": counts.quantiles(0.05).numpy(),
            "active_p50": counts.quantiles(0.50).numpy(),
            "active_p95": counts.quantiles(0.95).numpy(),
            "hot": (rates > HOT).sum(dim=1).numpy(),
            "rare": (rates < RARE).sum(dim=1).numpy(),
            "dead": counts.dead.numpy(),
            "dead_below": 3 / counts.n_tokens,
            "largest": counted["max_post"].numpy(),
            "p999": sizes.quantile(0.999),
            "kurtosis": sizes.kurtosis,
            "overflow_tokens": counted["overflow"].numpy(),
            "n_tokens": counts.n_tokens,
        }
    )


def neurons(counts: CoreCounts) -> pd.DataFrame:
    """One row per neuron: on how many tokens it fired."""
    n_layers, d_mlp = counts.fired.shape
    return pd.DataFrame(
        {
            "layer": torch.arange(n_layers).repeat_interleave(d_mlp).numpy(),
            "unit": torch.arange(d_mlp).repeat(n_layers).numpy(),
            "fired": counts.fired.flatten().numpy(),
            "rate": counts.rates.flatten().numpy(),
            "fired_first": counts.fired_first.flatten().numpy(),
            "n_tokens": counts.n_tokens,
            "n_first": counts.n_first,
        }
    )


def tokens(counts: CoreCounts) -> pd.DataFrame:
    """One row per token, of the first 131,072: its id, its position, active neurons by layer."""
    counted = counts.state
    active = counted["kept_active"].numpy()
    columns: dict[str, Any] = {
        "id": counted["kept_ids"].numpy(),
        "position": counted["kept_positions"].numpy(),
    }
    # Two bytes per count: d_mlp is below 65,536 in all models so far.
    small = np.uint16 if counts.fired.shape[1] < 2**16 else np.uint32
    columns |= {f"layer_{n}": active[:, n].astype(small) for n in range(active.shape[1])}
    return pd.DataFrame(columns)


def costs(
    seconds: Mapping[str, float],
    sampled: Mapping[str, Result],
    *,
    n_tokens: int,
    n_sampled: int,
) -> pd.DataFrame:
    """One row per analysis: the seconds that the host spent on it, and the N that it looked at.

    Args:
        seconds: By analysis; "pass" is the pass as a whole.
        sampled: Results that look at a sample of their own; their frames state their N.
        n_tokens: N of the pass and the core.
        n_sampled: N of every other analysis.
    """
    whole = seconds["pass"]
    seen = {"pass": n_tokens, "core": n_tokens}
    seen |= {name: int(result.frame()["n_tokens"].iloc[0]) for name, result in sampled.items()}
    rows = [
        (name, spent, spent / whole if whole else np.nan, seen.get(name, n_sampled))
        for name, spent in seconds.items()
    ]
    return pd.DataFrame(rows, columns=["analysis", "seconds", "of_pass", "n_tokens"])


def summary(counts: CoreCounts) -> dict[str, Any]:
    """The headline numbers, as JSON values."""
    return {
        "tokens": counts.n_tokens,
        "first_positions": counts.n_first,
        "neurons": counts.fired.numel(),
        "exact_zeros": float(counts.zeros.mean()),
        "exact_zeros_at_first_positions": float(counts.zeros_first.mean()),
        "neurons_that_never_fired": int(counts.dead.sum()),
        "dead_rate_upper_95": 3 / counts.n_tokens,
    }
