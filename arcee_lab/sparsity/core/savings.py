"""Row 21: what the zeros would save, in bytes read and operations done for a token.

At one token per step weights are read once and little is computed with them, so bytes are time.
Of an MLP, zeros let a kernel skip

    rows of W_down of neurons that are 0                       exact: nothing is lost
    rows of W_up of the same neurons, if they were known       an oracle: the most that can be had

For B sequences at once only what none of them uses can be skipped: U_B in place of the active
share.
Bytes are those of the weights as loaded; the embedding is read one row per token, the key-value
cache is left out (short contexts). Arithmetic, not a measurement: kernels reach part of it.

Source: arithmetic; Song et al., "PowerInfer", arXiv:2312.12456, for the memory-bound view.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.results import Result, counted
from arcee_lab.sparsity.sampled.mlps import mlps

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True)
class Weights:
    """What a token reads, in bytes and in weights.

    Attributes:
        total_bytes: All weights but the rows of the embedding that are not looked up.
        total: The same as a number of weights; a multiply and an add each.
        up_bytes: W_up of all layers. As many weights as W_down has.
        down_bytes: W_down of all layers.
        up: Weights of W_up of all layers.
        down: Weights of W_down of all layers.
    """

    total_bytes: int
    total: int
    up_bytes: int
    down_bytes: int
    up: int
    down: int

    @classmethod
    def from_model(cls, model: Any) -> "Weights":
        """Of a model."""
        model = unwrap(model)
        everything = {id(x): x for x in model.parameters()}
        embedding = model.get_input_embeddings().weight
        head = model.get_output_embeddings()
        if head is None or head.weight is not embedding:
            everything.pop(id(embedding), None)
        # Offloaded, tied weights are two placeholders.
        placeholder = embedding.is_meta and getattr(model.config, "tie_word_embeddings", False)
        row = embedding[:1]
        both = [[mlp.up for mlp in mlps(model)], [mlp.down for mlp in mlps(model)]]
        sizes = [[_size(module) for module in side] for side in both]
        (up_bytes, up), (down_bytes, down) = (tuple(map(sum, zip(*s, strict=True))) for s in sizes)
        tied = head is not None and (head.weight is embedding or placeholder)
        extra = 0 if tied else row.numel()
        return cls(
            sum(x.numel() * x.element_size() for x in everything.values())
            + extra * row.element_size(),
            sum(x.numel() for x in everything.values()) + extra,
            up_bytes,
            down_bytes,
            up,
            down,
        )


@dataclass(frozen=True, repr=False)
class Saving(Result):
    """Bytes and operations per token, dense and without what is zero.

    Attributes:
        weights: What a dense token reads.
        batches: B.
        used: The share of neurons that B sequences use together, mean over layers.
    """

    weights: Weights
    batches: np.ndarray
    used: np.ndarray

    def speedup(self, *, oracle: bool = False) -> np.ndarray:
        """By batch, dense bytes over bytes read: skipping W_down alone, or W_up too."""
        w = self.weights
        skipped = w.down_bytes + (w.up_bytes if oracle else 0)
        return w.total_bytes / (w.total_bytes - skipped * (1 - self.used))

    @property
    def headline(self) -> str:
        return (
            f"one token: {self.weights.total_bytes / 1e9:.3g} GB read, at most "
            f"{self.speedup()[0]:.2f}x faster without the zero rows of W_down, "
            f"{self.speedup(oracle=True)[0]:.2f}x if W_up were skipped too"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per batch size: used, bytes and operations, dense and sparse, and speed-ups."""
        import pandas as pd

        w, zeros = self.weights, 1 - self.used
        return pd.DataFrame(
            {
                "sequences": self.batches,
                "used": self.used,
                "bytes_dense": w.total_bytes,
                "bytes_skip_down": w.total_bytes - w.down_bytes * zeros,
                "bytes_skip_both": w.total_bytes - (w.down_bytes + w.up_bytes) * zeros,
                "flops_dense": 2 * w.total,
                "flops_skip_down": 2 * (w.total - w.down * zeros),
                "flops_skip_both": 2 * (w.total - (w.down + w.up) * zeros),
                "speedup_skip_down": self.speedup(),
                "speedup_skip_both": self.speedup(oracle=True),
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """The most that skipping can gain against the number of sequences."""
        from arcee_lab.views.figures.curves import Line, lines

        return lines(
            [
                Line("skip W_down rows (exact)", self.batches, self.speedup()),
                Line("skip W_up too (oracle)", self.batches, self.speedup(oracle=True)),
            ],
            x="sequences at once",
            y="dense bytes / bytes read",
            title=f"{counted(int(self.batches[0]), 'sequence')} at once: without the zero rows of "
            f"W_down {1 - 1 / self.speedup()[0]:.0%} fewer bytes per token are read, without those "
            f"of W_up too (oracle) {1 - 1 / self.speedup(oracle=True)[0]:.0%}",
            log_x=True,
            dark=dark,
        )


def _size(module: Any) -> tuple[int, int]:
    tensors = list(module.parameters()) + list(module.buffers())
    return sum(x.numel() * x.element_size() for x in tensors), module.in_features * (
        module.out_features
    )
