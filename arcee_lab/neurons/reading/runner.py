"""The pass: every window through the backbone once, every layer shown to its state.

States are total orders and whole numbers, so batches may be dealt out to ranks and a run may be cut
in two: the result stays the same to the last bit, as long as each forward computes the same.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arcee_lab.data.windows import plan_batches
from arcee_lab.errors import ModelError, TextError
from arcee_lab.hooks.watch import Watch
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.fingerprint import data_fingerprint, model_fingerprint, model_name
from arcee_lab.neurons.reading import checking, hashing, on_cpu, state
from arcee_lab.neurons.reading.domains import Corpus
from arcee_lab.neurons.reading.state import Places, Rows, State
from arcee_lab.runs import saved_state
from arcee_lab.runs.interrupt import GracefulInterrupt
from arcee_lab.runs.progress import progress_bar, shown
from arcee_lab.runs.ranks import Ranks

_SAVE_EVERY = 60.0  # seconds between two saved states


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward.

    Attributes:
        input_ids: Padded on the right.
        attention_mask: 1 for a token, 0 for padding.
        rows: Its windows, on the host.
    """

    input_ids: Tensor
    attention_mask: Tensor
    rows: Rows


@dataclass(eq=False)
class Pass:
    """One pass over a text.

    Attributes:
        anatomy: Of the model.
        corpus: The text.
        layers: Their numbers.
        places: How many windows are kept.
        pool: Windows that negatives come from.
        seed: Of what is drawn.
        batch_size: Windows per forward.
        states: What has been kept, by layer, each on its layer's device.
        done: How many of this rank's forwards are in the states.
        whole: Whether they are in all of the states: not while a forward is running.
    """

    anatomy: Anatomy
    corpus: Corpus
    layers: tuple[int, ...]
    places: Places
    pool: np.ndarray
    seed: int
    batch_size: int
    states: dict[int, State] = field(default_factory=dict)
    done: int = 0
    whole: bool = True

    def __post_init__(self) -> None:
        windows = self.corpus.windows
        self.counted = windows.counted()
        if not self.counted.any():
            raise TextError(
                "every window is one token long; expected texts of at least two tokens."
            )
        self.batches = plan_batches(np.diff(windows.bounds).tolist(), self.batch_size)
        self._slots = {int(window): slot for slot, window in enumerate(self.pool)}

    @property
    def d_mlp(self) -> int:
        """Neurons of a layer."""
        return self.anatomy.size("d_mlp")

    def run(
        self, ranks: Ranks, *, resume: Path | None = None, progress: bool | None = None
    ) -> dict[int, State]:
        """Runs this rank's forwards and puts the states of all ranks together.

        Args:
            ranks: This process among those of the job.
            resume: File that the states are saved to now and then and at the end, and continued
                from.
            progress: Whether to show a bar with tokens/s on stderr.

        Returns:
            The states of the whole text, on the CPU, on every rank.

        Raises:
            ModelError: NaN activations.
            SavedDamaged, OtherRun: The resume file is damaged, or of another run.
            KeyboardInterrupt: Ctrl-C, after the forward in which it was pressed; a second one stops
                at once. `done` and `whole` say what is in the states.
        """
        mine = list(ranks.share(range(len(self.batches))))
        run = {} if resume is None else self.identity(ranks)
        # On the CPU until a layer's first activation tells where that layer computes.
        cpu = torch.device("cpu")
        self.states = {
            layer: state.new_state(self.places, self.d_mlp, cpu) for layer in self.layers
        }
        self.done = 0 if resume is None else self._continue(resume, run, mine)
        lengths = np.diff(self.corpus.windows.bounds)
        sizes = [int(lengths[list(self.batches[batch])].sum()) for batch in mine]
        bar = progress_bar(
            total=sum(sizes),
            initial=sum(sizes[: self.done]),
            unit="tok",
            unit_scale=True,
            show=shown(progress) and ranks.first,
        )
        saved = time.perf_counter()
        interrupt = GracefulInterrupt("the current forward")
        left = mine[self.done :]
        # A block in which no forward runs would be taken for a mistake of the caller.
        block = _Reader(self) if left else nullcontext()
        with torch.no_grad(), bar, interrupt, block as reader:
            for forward in self.forwards(left):
                assert reader is not None
                self.whole = False
                reader.read(forward)
                self.whole = True
                self.done += 1
                bar.update(sizes[self.done - 1])
                last = interrupt.requested or self.done == len(mine)
                if last or (resume is not None and time.perf_counter() - saved >= _SAVE_EVERY):
                    self._refuse_nan()  # waits for the device
                    if resume is not None:
                        self._save(resume, run)
                    saved = time.perf_counter()
                if interrupt.requested:
                    raise KeyboardInterrupt
        return self._gathered(ranks)

    def so_far(self) -> dict[int, State]:
        """The states of what this rank has read, on the CPU."""
        return {
            layer: state.ordered(
                {name: x.cpu() for name, x in kept.items()},
                self.places,
                torch.from_numpy(self.neurons(layer)),
            )
            for layer, kept in self.states.items()
        }

    def forwards(self, chosen: Sequence[int]) -> Iterator[Forward]:
        """The forwards of these batches."""
        windows = self.corpus.windows
        for batch in chosen:
            numbers = self.batches[batch]
            length = max(len(windows[window]) for window in numbers)
            ids = np.full((len(numbers), length), windows.pad_id, dtype=np.int64)
            mask, counted = np.zeros_like(ids), np.zeros(ids.shape, bool)
            for row, window in enumerate(numbers):
                start, end = windows.bounds[window : window + 2]
                ids[row, : end - start] = windows.ids[start:end]
                mask[row, : end - start] = 1
                counted[row, : end - start] = self.counted[start:end]
            pooled = [row for row, window in enumerate(numbers) if window in self._slots]
            yield Forward(
                torch.from_numpy(ids),
                torch.from_numpy(mask),
                Rows(
                    torch.from_numpy(np.array(numbers, np.int64)),
                    torch.from_numpy(counted),
                    int(counted.sum()),
                    tuple(pooled),
                    tuple(self._slots[numbers[row]] for row in pooled),
                ),
            )

    def identity(self, ranks: Ranks) -> dict[str, Any]:
        """What makes this pass this pass, as JSON values: a state of another one is refused."""
        windows, model = self.corpus.windows, self.anatomy.model
        text = [windows.ids, windows.bounds, windows.documents, self.corpus.domains, self.counted]
        return {
            "model": model_name(model),
            "dtype": str(model.dtype),
            "layers": list(self.layers),
            "places": [
                self.places.top,
                self.places.strata,
                self.places.per_stratum,
                self.places.pool,
            ],
            "seed": self.seed,
            "rank": ranks.rank,
            "processes": ranks.size,
            "tokens": windows.n_tokens,
            "text": data_fingerprint([*text, *self.corpus.names]),
            "forwards": f"{len(self.batches)} of {self.batch_size} windows",
            "weights": model_fingerprint(model),
        }

    def state_bytes(self) -> int:
        """Bytes of the states of all layers, computed without allocating them."""
        one = state.new_state(self.places, self.d_mlp, torch.device("meta"))
        return len(self.layers) * sum(x.nbytes for x in one.values())

    def neurons(self, layer: int) -> np.ndarray:
        """Keys of a layer's neurons."""
        return hashing.neuron_keys(layer, self.d_mlp, self.seed)

    # ------------------------------------------------------------------ inside

    def _refuse_nan(self) -> None:
        for layer, kept in self.states.items():
            if int(kept["nan"]):
                raise ModelError(
                    f"the activations of layers.{layer}.mlp hold NaN, so nothing kept above it is "
                    "true; load the model in float32, or check its weights."
                )

    def _gathered(self, ranks: Ranks) -> dict[int, State]:
        if ranks.size == 1:
            return self.so_far()
        parts = ranks.gather(_flat(self.states))
        whole = _nested(parts[0])
        for part in map(_nested, parts[1:]):
            for layer in whole:
                neurons = torch.from_numpy(self.neurons(layer))
                whole[layer] = state.merge(whole[layer], part[layer], self.places, neurons)
        return whole

    def _save(self, path: Path, run: Mapping[str, Any]) -> None:
        saved_state.write(path, run, {"done": self.done}, _flat(self.states))

    def _continue(self, path: Path, run: Mapping[str, Any], mine: Sequence[int]) -> int:
        """Takes up a saved state; gives how many of this rank's batches are in it."""
        saved = saved_state.read(path, run)
        if saved is None:
            return 0
        about, flat = saved
        done = about.get("done")
        if type(done) is not int or not 0 <= done <= len(mine):
            raise saved_state.damaged(
                path, f"it says to hold {done!r} batches, expected 0 to {len(mine)}"
            )
        windows = self.corpus.windows
        read = [window for batch in mine[:done] for window in self.batches[batch]]
        spans = [slice(*windows.bounds[window : window + 2]) for window in read]
        sums = sum(int(self.counted[span].sum()) for span in spans), len(read)
        lengths, kept = torch.from_numpy(np.diff(windows.bounds)), _nested(flat)
        for layer, fresh in self.states.items():
            why = checking.other_shapes(kept.get(layer, {}), fresh)
            if why := why or checking.impossible(kept[layer], lengths, *sums):
                raise saved_state.damaged(path, f"layer {layer}: {why}")
            for name, x in kept[layer].items():
                fresh[name].copy_(x)
        return done


class _Reader(Watch):
    """Shows the activations of each forward to the states."""

    _opened_by = "al.neurons.exemplars"

    def __init__(self, run: Pass):
        names = [f"layers.{layer}.mlp.hook_post" for layer in run.layers]
        every = len(names) == run.anatomy.backbone.config.num_hidden_layers
        super().__init__(run.anatomy, names, stop=None if every else names[-1])
        self._backbone, self._device = run.anatomy.backbone, run.anatomy.model.device
        self._run = run
        self._neurons: dict[int, Tensor] = {}
        self._on_cpu: dict[int, on_cpu.Lists] = {}
        self._forward: Forward | None = None
        self._there: dict[torch.device, Rows] = {}

    def read(self, forward: Forward) -> None:
        """Runs one forward."""
        self._forward, self._there = forward, {}
        self._backbone(
            input_ids=forward.input_ids.to(self._device),
            attention_mask=forward.attention_mask.to(self._device),
            use_cache=False,
        )

    def _on_activation(self, name: str, x: Tensor) -> None:
        layer, device = int(name.split(".")[1]), x.device
        run, rows = self._run, self._rows(device)
        if layer not in self._neurons:
            there = {name: kept.to(device) for name, kept in run.states[layer].items()}
            run.states[layer] = there
            keys = torch.from_numpy(run.neurons(layer))
            self._neurons[layer] = keys.to(device, non_blocking=True)
            if on_cpu.fits(x, run.places):
                self._on_cpu[layer] = on_cpu.Lists(run.states[layer], run.places, keys.numpy())
        if layer in self._on_cpu:
            self._on_cpu[layer].add(x, rows)
        else:
            state.add(run.states[layer], run.places, x, rows, self._neurons[layer])

    def _rows(self, device: torch.device) -> Rows:
        # The layers of one model may be on several devices.
        assert self._forward is not None
        if device not in self._there:
            rows = self._forward.rows
            self._there[device] = Rows(
                rows.windows.to(device, non_blocking=True),
                rows.counted.to(device, non_blocking=True),
                rows.tokens,
                rows.pooled,
                rows.slots,
            )
        return self._there[device]


def _flat(states: Mapping[int, State]) -> dict[str, Tensor]:
    return {f"{layer}/{name}": x for layer, kept in states.items() for name, x in kept.items()}


def _nested(flat: Mapping[str, Tensor]) -> dict[int, State]:
    nested: dict[int, State] = {}
    for path, tensor in flat.items():
        layer, _, name = path.partition("/")
        nested.setdefault(int(layer) if layer.isdecimal() else -1, {})[name] = tensor
    return nested
