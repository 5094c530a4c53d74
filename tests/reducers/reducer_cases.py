"""Random batches, the reference's dense activations of them, and statistics by plain NumPy."""

import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "model"))
from reference import pair

POST, RESID = "layers.1.mlp.hook_post", "layers.0.hook_resid_post"
UNITS, WIDTH = 48, 32
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@lru_cache
def models(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Ours and transformers' own, with equal weights, whose eager kernels agree bit for bit."""
    return pair(dtype=dtype, attn="eager")


@dataclass(frozen=True)
class Read:
    """The tokens that count, in the order read, and what the reference computed at them.

    Attributes:
        post: Neurons of layer 1, `[token, unit]`, as float64.
        resid: Residual stream after layer 0, `[token, d_model]`, as float64.
        rows: Sequence of each, over all calls.
        positions: Attended tokens before each in its sequence.
        labels: Of each.
    """

    post: np.ndarray
    resid: np.ndarray
    rows: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Calls:
    """Calls of the model, one after the other."""

    dtype: torch.dtype
    batches: list[dict[str, torch.Tensor]] = field(repr=False)
    labels: list[torch.Tensor] = field(repr=False)

    def run(self, model: Any, stats: Any) -> None:
        """Makes the calls inside a block."""
        for batch, labels in zip(self.batches, self.labels, strict=True):
            stats.set_labels(labels)
            model(**batch)

    def read(self, first: str = "include") -> Read:
        """What the reference computes."""
        reference = models(self.dtype)[1]
        found: dict[str, list[torch.Tensor]] = {"post": [], "resid": []}
        layers = reference.model.layers
        hooks = [
            layers[1].mlp.act_fn.register_forward_hook(lambda m, a, x: found["post"].append(x)),
            layers[0].register_forward_hook(lambda m, a, x: found["resid"].append(x)),
        ]
        with torch.no_grad():
            for batch in self.batches:
                reference(**batch)
        for hook in hooks:
            hook.remove()
        parts: dict[str, list[np.ndarray]] = {name: [] for name in Read.__dataclass_fields__}
        before = 0
        for number, batch in enumerate(self.batches):
            mask = batch["attention_mask"].bool().numpy()
            positions = mask.cumsum(1) - 1
            chosen = {"include": mask, "exclude": mask & (positions > 0)}
            chosen["only"] = mask & (positions == 0)
            kept = chosen[first]
            for name in found:
                parts[name].append(found[name][number].double().numpy()[kept])
            rows = np.arange(len(mask))[:, None] + before
            parts["rows"].append(np.broadcast_to(rows, mask.shape)[kept])
            parts["positions"].append(positions[kept])
            parts["labels"].append(self.labels[number].numpy()[kept])
            before += len(mask)
        return Read(**{name: np.concatenate(several) for name, several in parts.items()})


@st.composite
def calls(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES, most: int = 3) -> Calls:
    """One to three batches of any shape, padded on either side, in any dtype."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batches, labels = [], []
    for _ in range(draw(st.integers(1, most))):
        rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 9))
        ids = torch.randint(3, 40, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        left = draw(st.booleans())
        for row in range(rows):
            pads = draw(st.integers(0, length - 1))
            where = slice(0, pads) if left else slice(length - pads, length)
            ids[row, where], mask[row, where] = 0, 0
        batches.append({"input_ids": ids, "attention_mask": mask})
        labels.append(torch.randint(-1, 4, (rows, length), generator=generator))
    return Calls(draw(st.sampled_from(dtypes)), batches, labels)


def top(read: Read, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, rows and positions of each unit's k largest; of equal ones the first read."""
    order = np.stack([np.lexsort((np.arange(len(x)), -x))[:k] for x in read.post.T])
    return np.take_along_axis(read.post.T, order, 1), read.rows[order], read.positions[order]
