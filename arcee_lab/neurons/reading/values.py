"""The values of one neuron on some windows, by a forward that ends at its layer."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.errors import OtherRun, SettingError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.recording.capturing import capture

# The fingerprint reads every weight, so it is taken again only where a weight was changed.
_known: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()


def values(
    model: Any,
    layer: int,
    unit: int,
    windows: Sequence[np.ndarray],
    *,
    pad_id: int,
    fingerprint: str,
    batch_size: int,
) -> list[Float[Tensor, " pos"]]:
    """relu(u)² of a neuron at every token; see `Exemplars.values`."""
    if batch_size < 1:
        raise SettingError(f"batch_size is {batch_size}; expected at least 1.")
    inner = anatomy_of(model).model
    require_same(inner, fingerprint)
    found: list[Tensor] = []
    for start in range(0, len(windows), batch_size):
        some = windows[start : start + batch_size]
        length = max(map(len, some))
        ids = np.full((len(some), length), pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, window in enumerate(some):
            ids[row, : len(window)], mask[row, : len(window)] = window, 1
        site = f"layers.{layer}.mlp.hook_post"
        with torch.no_grad(), capture(inner, site, units=[unit], stop_at=True) as acts:
            inner(
                input_ids=torch.from_numpy(ids).to(inner.device),
                attention_mask=torch.from_numpy(mask).to(inner.device),
                use_cache=False,
            )
        rows = acts[site][..., 0].float().cpu()
        found += [row[: len(window)].clone() for row, window in zip(rows, some, strict=True)]
    return found


def require_same(model: Any, fingerprint: str) -> None:
    """Refuses another model than that of a run.

    Raises:
        OtherRun: Its fingerprint differs.
    """
    marks = tuple((x.data_ptr(), x._version) for x in model.parameters())
    known = _known.get(model)
    if known is None or known[0] != marks:
        known = _known[model] = (marks, model_fingerprint(model))
    if known[1] != fingerprint:
        raise OtherRun(
            f"these exemplars are of another model than {model_name(model)}: its weights or its "
            "config differ. Give the model that they were made with, or run it again."
        )
