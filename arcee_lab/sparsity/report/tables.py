"""The tables of a report that stand on its counts alone, and its headline numbers."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from arcee_lab.sparsity.streamed.predictors import Predictability

if TYPE_CHECKING:
    from arcee_lab.sparsity.report.report import SparsityReport

RARE = 0.001  # below this rate a neuron counts as rare
HOT = 0.5  # above this one as hot


def layers(report: "SparsityReport") -> pd.DataFrame:
    """One row per layer: zeros, active neurons, hot, rare and dead ones, the largest values."""
    rates, counted = report.rates, report.states["core"]
    return pd.DataFrame(
        {
            "layer": range(len(report.fired)),
            "zeros": report.zeros.numpy(),
            "zeros_first": report.zeros_first.numpy(),
            "active_mean": (report.fired.sum(dim=1) / report.n_tokens).numpy(),
            "active_p05": report.quantiles(0.05).numpy(),
            "active_p50": report.quantiles(0.50).numpy(),
            "active_p95": report.quantiles(0.95).numpy(),
            "hot": (rates > HOT).sum(dim=1).numpy(),
            "rare": (rates < RARE).sum(dim=1).numpy(),
            "dead": report.dead.numpy(),
            "dead_below": 3 / report.n_tokens,
            "largest": counted["max_post"].numpy(),
            "p999": report.thresholds.quantile(0.999),
            "kurtosis": report.thresholds.kurtosis,
            "overflow_tokens": counted["overflow"].numpy(),
            "n_tokens": report.n_tokens,
        }
    )


def neurons(report: "SparsityReport") -> pd.DataFrame:
    """One row a neuron: on how many tokens it fired."""
    n_layers, d_mlp = report.fired.shape
    return pd.DataFrame(
        {
            "layer": torch.arange(n_layers).repeat_interleave(d_mlp).numpy(),
            "neuron": torch.arange(d_mlp).repeat(n_layers).numpy(),
            "fired": report.fired.flatten().numpy(),
            "rate": report.rates.flatten().numpy(),
            "fired_first": report.fired_first.flatten().numpy(),
            "n_tokens": report.n_tokens,
            "n_first": report.n_first,
        }
    )


def tokens(report: "SparsityReport") -> pd.DataFrame:
    """One row a token, of the first 131,072: its id, its position, active neurons by layer."""
    counted = report.states["core"]
    active = counted["kept_active"].numpy()
    columns: dict[str, Any] = {
        "id": counted["kept_ids"].numpy(),
        "position": counted["kept_positions"].numpy(),
    }
    # Two bytes a count: d_mlp is below 65,536 in every model that this can be run on today.
    small = np.uint16 if report.fired.shape[1] < 2**16 else np.uint32
    columns |= {f"layer_{n}": active[:, n].astype(small) for n in range(active.shape[1])}
    return pd.DataFrame(columns)


def costs(report: "SparsityReport") -> pd.DataFrame:
    """One row an analysis: the seconds that the host spent on it, and the N that it looked at."""
    whole = report.costs["pass"]
    seen = {"pass": report.n_tokens, "core": report.n_tokens}
    for name, result in report.results.items():
        if name in report.further or isinstance(result, Predictability):
            seen[name] = int(result.frame()["n_tokens"].iloc[0])
    return pd.DataFrame(
        [
            (
                name,
                seconds,
                seconds / whole if whole else np.nan,
                seen.get(name, report.n_shared),
            )
            for name, seconds in report.costs.items()
        ],
        columns=["analysis", "seconds", "of_pass", "n_tokens"],
    )


def summary(report: "SparsityReport") -> dict[str, Any]:
    """The headline numbers, as JSON values."""
    return {
        "model": report.model,
        "dtype": report.dtype,
        "device": report.device,
        "documents": report.n_documents,
        "windows": report.n_windows,
        "tokens": report.n_tokens,
        "first positions, apart": report.n_first,
        "neurons": report.fired.numel(),
        "exact zeros": float(report.zeros.mean()),
        "exact zeros at first positions": float(report.zeros_first.mean()),
        "neurons that never fired": int(report.dead.sum()),
        "their rate is below (95 %)": 3 / report.n_tokens,
        "1 window in so many was looked at closely": report.share,
        "tokens in these": report.n_shared,
        "seconds": round(report.seconds, 3),
        "tokens per second": round(report.tokens_per_second, 1),
    }


PLAIN = {
    "layers": layers,
    "neurons": neurons,
    "tokens": tokens,
    "costs": costs,
}
