"""Zeros over training: what a training log holds, step by step.

A ReLU² layer starts at one half of zeros, and every further zero is learnt. Sources: Li et al.,
"The Lazy Neuron Phenomenon", arXiv:2210.06313; Luo et al., "Sparsing Law", arXiv:2411.02335.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from arcee_lab.errors import FileError
from arcee_lab.results import Result
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.json_text import parse_json, reason

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

_DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"


@dataclass(frozen=True, repr=False)
class History(Result):
    """The share of exact zeros at each step that was logged.

    Attributes:
        steps: Of training.
        tokens: Tokens seen by then.
        zeros: Of each layer, on held-out text.
    """

    steps: Int[np.ndarray, " step"]
    tokens: Int[np.ndarray, " step"]
    zeros: Float[np.ndarray, "step layer"]

    def frame(self) -> pd.DataFrame:
        """One row per step and layer."""
        layers = self.zeros.shape[1]
        return pd.DataFrame(
            {
                "step": self.steps.repeat(layers),
                "tokens": self.tokens.repeat(layers),
                "layer": np.tile(np.arange(layers), len(self.steps)),
                "zeros": self.zeros.ravel(),
            }
        )

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        first, last = self.zeros[[0, -1]].mean(axis=1)
        return (
            f"exact zeros {self._turn} from {first:.1%} at step {self.steps[0]:,} to {last:.1%} at "
            f"step {self.steps[-1]:,} ({self.tokens[-1]:,} tokens)"
        )

    @property
    def _turn(self) -> str:
        first, last = self.zeros[[0, -1]].mean(axis=1)
        return "rise" if last > first else "fall"

    def figure(self, *, dark: bool = False) -> "Figure":
        """Zeros against tokens of training, one line per layer."""
        from arcee_lab.views.figures.bands import Axis, Band, bands

        lines = [
            Band(f"layer {number}", self.tokens / 1e6, layer, dots=False)
            for number, layer in enumerate(self.zeros.T)
        ]
        first, last = self.zeros[[0, -1]].mean(axis=1)
        return bands(
            lines,
            x=Axis("million tokens of training"),
            y=Axis("share of exact zeros", percent=True),
            title=f"Exact zeros {self._turn} from {first:.1%} to {last:.1%} over "
            f"{self.tokens[-1] / 1e6:,.3g} million tokens of training",
            levels=[(0.5, "untrained")],
            named_at="right",
            dark=dark,
        )


@checked
def history(log: str | Path) -> History:
    """Reads the zeros of a training log, as `arcee-lab train-demo` writes it.

    Args:
        log: A JSONL file, a checkpoint's folder that holds `training_log.jsonl`, or "demo". Rows
            with `step`, `tokens` and `zeros`, one share per layer, are read.

    Raises:
        ValueError: The file is missing, is no such log, or holds fewer than two such rows.

    Example:
        >>> from arcee_lab.sparsity import history
        >>> found = history("demo")
        >>> bool(found.zeros[-1].mean() > found.zeros[0].mean())
        True
    """
    path = _DEMO if str(log) == "demo" else Path(log)
    path = path / "training_log.jsonl" if path.is_dir() else path
    try:
        rows = [
            parse_json(line, "a row", error=FileError)
            for line in path.read_text(encoding="utf-8").splitlines()
            if line
        ]
        rows = [row for row in rows if "zeros" in row]
        zeros = np.array([row["zeros"] for row in rows], dtype=np.float64)
        steps, tokens = (np.array([row[name] for row in rows]) for name in ("step", "tokens"))
    except OSError as error:
        raise FileError(f"training log {path} cannot be read: {reason(error)}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise FileError(
            f"{path} is no training log ({error}); expected JSONL with step, tokens and zeros."
        ) from error
    if zeros.ndim != 2 or len(zeros) < 2:
        raise FileError(f"{path} holds {len(rows)} rows with zeros; expected at least two.")
    return History(steps, tokens, zeros)
