"""Values per token of exemplars, for many neurons in one pass over their windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.data.windows import Windows
from arcee_lab.hooks.watch import Watch
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.neurons.pages.excerpts import Excerpt
from arcee_lab.neurons.reading.values import require_same
from arcee_lab.runs.progress import progress_bar

BATCH_SIZE = 8


@dataclass(frozen=True)
class Spots:
    """Stretches of windows, each of one neuron; arrays of one length.

    Attributes:
        layer: Layer of the neuron.
        unit: Its number.
        window: Number of the window.
        start: First token, counted within the window.
        length: Tokens.
    """

    layer: Int[np.ndarray, " spot"]
    unit: Int[np.ndarray, " spot"]
    window: Int[np.ndarray, " spot"]
    start: Int[np.ndarray, " spot"]
    length: Int[np.ndarray, " spot"]

    def __len__(self) -> int:
        return len(self.layer)


def spots_of(units: Sequence[tuple[int, int]], excerpts: Sequence[Excerpt]) -> Spots:
    """The stretches that excerpts show.

    Args:
        units: Layer and number of the neuron of each excerpt.
        excerpts: The excerpts.
    """
    rows = [
        (layer, unit, x.window, x.start, len(x.ids))
        for (layer, unit), x in zip(units, excerpts, strict=True)
    ]
    return Spots(*np.array(rows, dtype=np.int64).reshape(-1, 5).T)


def read_values(
    run: Any,
    model: Any,
    spots: Spots,
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = False,
) -> Float[Tensor, "spot token"]:
    """relu(u)² at each token of stretches of windows, computed by the model.

    Every window is read once, however many neurons and layers want it, and no layer after the last
    that is wanted runs. Nothing is copied to the host before the end.

    Args:
        run: What `al.neurons.exemplars` found.
        model: The model that it is of.
        spots: What is wanted.
        batch_size: Windows per forward.
        progress: Whether to show a bar.

    Returns:
        float32 on the CPU; 0 after the last token of a stretch.

    Raises:
        OtherRun: The model is not the one of the run.
        SettingError: A batch of no window.
    """
    anatomy = anatomy_of(model)
    require_same(anatomy.model, run.fingerprint)
    model = anatomy.model
    width = int(spots.length.max(initial=0))
    values = torch.zeros(len(spots), width, device=model.device)
    if not len(spots):
        return values.cpu()
    numbers, place = np.unique(spots.window, return_inverse=True)
    windows = _windows(run, numbers)
    gather = _Gather(anatomy, spots, place, values)
    bar = progress_bar(show=progress, total=len(windows), unit="window", desc="values")
    with torch.no_grad(), bar, gather:
        for batch in windows.batches(batch_size):
            gather.rows = np.full(len(windows), -1)
            gather.rows[list(batch.rows)] = np.arange(len(batch.rows))
            model(
                input_ids=batch.input_ids.to(model.device),
                attention_mask=batch.attention_mask.to(model.device),
                use_cache=False,
            )
            bar.update(len(batch.rows))
    return values.cpu()


class _Gather(Watch):
    """Takes the values of some neurons at some tokens out of each activation.

    Args:
        anatomy: Of the model.
        spots: What is wanted.
        place: The number of each spot's window among those that are read.
        values: Where the values go, in place.

    Attributes:
        rows: The row of each window in the running batch; -1 if it is not there.
    """

    rows: Int[np.ndarray, " window"]

    def __init__(self, anatomy: Anatomy, spots: Spots, place: np.ndarray, values: Tensor):
        layers = np.unique(spots.layer).tolist()
        names = [f"layers.{layer}.mlp.hook_post" for layer in layers]
        super().__init__(anatomy, names, stop=names[-1])
        self._spots, self._place, self._values = spots, place, values
        self._slots = {
            name: np.flatnonzero(spots.layer == layer)
            for name, layer in zip(names, layers, strict=True)
        }

    def _on_activation(self, name: str, x: Tensor) -> None:
        slots, spots = self._slots[name], self._spots
        slots = slots[self.rows[self._place[slots]] >= 0]
        if not len(slots):
            return

        def at(numbers: np.ndarray) -> Tensor:
            return torch.from_numpy(numbers).to(x.device, non_blocking=True)

        offset = torch.arange(self._values.shape[1], device=x.device)
        inside = offset < at(spots.length[slots])[:, None]
        position = torch.where(inside, at(spots.start[slots])[:, None] + offset, 0)
        row = at(self.rows[self._place[slots]])[:, None]
        found = x[row, position, at(spots.unit[slots])[:, None]]
        self._values[at(slots)] = torch.where(inside, found.float(), 0.0)


def _windows(run: Any, numbers: Int[np.ndarray, " window"]) -> Windows:
    """Some windows of a run, as they were read."""
    whole = run.corpus.windows
    ids = [whole[number] for number in numbers.tolist()]
    return Windows(
        ids=np.concatenate(ids),
        bounds=np.cumsum([0, *map(len, ids)]),
        documents=whole.documents[numbers],
        bos_id=whole.bos_id,
        pad_id=whole.pad_id,
    )
