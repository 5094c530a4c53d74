"""A Trainer that saves its state, so that an interrupted run can resume.

The state is one safetensors file instead of the several files that transformers pickles: the
trained parameters (a frozen backbone is in its checkpoint already), the optimizer, the schedule,
the generators and the logged losses. The file is whole or absent, nothing in it can run code, and
all of it is checked before any of it is used.
"""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import TrainerState

from arcee_lab.errors import SavedDamaged
from arcee_lab.runs import storage
from arcee_lab.runs.interrupt import GracefulInterrupt
from arcee_lab.runs.json_text import parse_json
from arcee_lab.training.heads.held_out import KeepBest
from arcee_lab.training.state import MOMENTS, damaged, moments, read_state, with_moments

SECONDS = 120.0  # between two states
STATE = "state.safetensors"
_PROGRESS = "trainer_state.json"  # the name under which Trainer reads the progress of a run


class ResumableTrainer(Trainer):
    """Writes and reads its state as one file.

    Args:
        state: The file, or None to save nothing.
        best: Scores held-out texts after each epoch, or None; a part of the state.
        loss: A loss of the model's output and the labels, or None for the model's own. It also gets
            those columns of a batch that the model has no argument for (`extra`).
        extra: Their names.
        given: Arguments of Trainer.
    """

    def __init__(
        self,
        state: Path | None,
        *,
        best: KeepBest | None = None,
        loss: Callable[..., Tensor] | None = None,
        extra: Sequence[str] = (),
        **given: Any,
    ):
        super().__init__(**given)
        self._file, self._best, self._loss, self._extra = state, best, loss, extra

    def go_on(self, scratch: Path) -> None:
        """Trains, from the saved state if there is one.

        Args:
            scratch: An empty folder, from which Trainer reads the progress of the run.

        Raises:
            SavedDamaged: The state is damaged.
            FileError: It cannot be written.
        """
        if self._file is None or not self._file.is_file():
            self.train()
            return
        try:
            self._saved_values = _checked(read_state(self._file, self._wanted())[1], self._best)
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise damaged(self._file, error) from error
        (scratch / _PROGRESS).write_text(json.dumps(self._saved_values["progress"]))
        self.train(resume_from_checkpoint=str(scratch))

    # ------------------------------------------------------------------ methods that Trainer calls

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch: the given one, or the model's own."""
        if self._loss is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        asked = {k: v for k, v in inputs.items() if k != "labels" and k not in self._extra}
        output = model(**asked)
        more = [inputs[name] for name in self._extra]
        loss = self._loss(output, inputs["labels"], *more)
        return (loss, output) if return_outputs else loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self._file is not None
        optimizer, schedule = self._both()
        self.store_flos()
        tensors = {name: one.detach().contiguous() for name, one in self._trained().items()}
        for name, one in self._trained().items():
            kept = moments(optimizer, one)
            tensors |= {f"optimizer.{key}.{name}": kept[key] for key in MOMENTS}
        if self._best is not None:
            tensors |= self._best.tensors()
        tensors["generator.torch"] = torch.random.get_rng_state()
        if torch.cuda.is_available():
            tensors["generator.cuda"] = torch.cuda.random.get_rng_state()
        kind, words, *rest = np.random.get_state()
        told = {
            "progress": asdict(self.state) | {"stateful_callbacks": None},
            "schedule": {
                key: value
                for key, value in schedule.state_dict().items()
                if key in ("base_lrs", "last_epoch", "_step_count", "_last_lr")
            },
            "rates": [group["lr"] for group in optimizer.param_groups],
            "python": random.getstate(),
            "numpy": [kind, np.asarray(words).tolist(), *rest],
            "looks": [] if self._best is None else self._best.looks,
        }
        metadata = {key: json.dumps(value) for key, value in told.items()}
        storage.write_atomic(self._file, lambda part: save_file(tensors, part, metadata=metadata))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert self._file is not None
        tensors, _ = read_state(self._file, self._wanted())
        with torch.no_grad():
            for name, one in self._trained().items():
                one.copy_(tensors[name])
        if self._best is not None:
            self._best.resume(self._saved_values["looks"], tensors)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self._file is None:
            return
        optimizer, schedule = self._both()
        tensors, _ = read_state(self._file, self._wanted())
        own = optimizer.state_dict()
        names = {id(one): name for name, one in self._trained().items()}
        rates = self._saved_values["rates"]
        if len(rates) != len(own["param_groups"]):
            raise damaged(self._file, f"it holds {len(rates)} learning rates")
        state: dict[int, dict[str, Tensor]] = {}
        trained = [one for group in optimizer.param_groups for one in group["params"]]
        for number, one in enumerate(trained):
            name = names[id(one)]
            state[number] = {key: tensors[f"optimizer.{key}.{name}"] for key in MOMENTS}
        for group, rate in zip(own["param_groups"], rates, strict=True):
            group["lr"] = rate
        optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})
        schedule.load_state_dict(schedule.state_dict() | self._saved_values["schedule"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or self._file is None:
            return
        tensors, _ = read_state(self._file, self._wanted())
        version, words, gauss = self._saved_values["python"]
        random.setstate((version, tuple(words), gauss))
        kind, words, *rest = self._saved_values["numpy"]
        np.random.set_state((kind, np.array(words, dtype=np.uint32), *rest))
        torch.random.set_rng_state(tensors["generator.torch"])
        if torch.cuda.is_available():
            torch.cuda.random.set_rng_state(tensors["generator.cuda"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Does nothing: torch's automatic loss scaling is not used."""

    # ------------------------------------------------------------------ contents of the state

    def _both(self) -> tuple[Any, Any]:
        """The optimizer and the schedule that Trainer has made."""
        return self.optimizer, self.lr_scheduler

    def _trained(self) -> dict[str, Tensor]:
        assert self.model is not None
        return {name: one for name, one in self.model.named_parameters() if one.requires_grad}

    def _wanted(self) -> dict[str, Tensor]:
        wanted: dict[str, Tensor] = {"generator.torch": torch.random.get_rng_state()}
        if torch.cuda.is_available():
            wanted["generator.cuda"] = torch.cuda.random.get_rng_state()
        for name, one in self._trained().items():
            wanted |= with_moments(name, one)
        return wanted if self._best is None else wanted | self._best.tensors()


class SavePeriodically(TrainerCallback):
    """Requests a saved state every two minutes, after a logged loss.

    A state saved between two logged losses would restart the mean of the next one.
    """

    def __init__(self, every: int):
        self._every = every  # steps between logged losses
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the flag that Trainer reads behind each step."""
        if state.global_step % self._every or state.global_step >= state.max_steps:
            return
        if control.should_training_stop:  # early: what is left is quick, and would not be resumed
            return
        if time.monotonic() - self._saved >= SECONDS:
            control.should_save = True
            self._saved = time.monotonic()


class StopAfterCtrlC(TrainerCallback):
    """Ends the training after Ctrl-C: at the next logged loss if a state is saved, else at once.

    Args:
        interrupt: Whether Ctrl-C was pressed.
        every: Steps between logged losses if a state is saved, else 1.
        keeps: Whether a state is saved.
    """

    def __init__(self, interrupt: GracefulInterrupt, every: int, *, keeps: bool):
        self._interrupt, self._every, self._keeps = interrupt, every, keeps
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the flags that Trainer reads behind each step."""
        if not self._interrupt.requested or state.global_step % self._every:
            return
        if control.should_training_stop:  # it ends by itself
            return
        if state.global_step < state.max_steps:
            self.stopped = control.should_training_stop = True
            control.should_save = self._keeps


def remove(folder: Path) -> None:
    """Removes the folder of a finished run; an interrupt in between leaves a claimed folder."""
    (folder / STATE).unlink(missing_ok=True)
    storage.remove_partial_files(folder)
    (folder / storage.RUN_FILE).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _checked(metadata: Mapping[str, str], best: KeepBest | None) -> dict[str, Any]:
    """The values that a state holds next to its tensors.

    Raises:
        ValueError, LookupError, TypeError, OverflowError: It is not what `_save_checkpoint` writes.
    """
    told = {
        key: parse_json(metadata[key], f"its {key}", nan=True)
        for key in ("progress", "schedule", "rates", "python", "numpy", "looks")
    }
    progress = told["progress"]
    step, most = progress["global_step"], progress["max_steps"]
    progress["best_model_checkpoint"] = progress["stateful_callbacks"] = None
    if not (isinstance(step, int) and isinstance(most, int) and 0 < step <= most):
        raise SavedDamaged(f"it claims step {step!r} of {most!r}")
    if told["schedule"]["last_epoch"] != step or not isinstance(progress["log_history"], list):
        raise SavedDamaged("its schedule and its steps do not agree")
    TrainerState(**progress)
    version, words, gauss = told["python"]
    random.Random().setstate((version, tuple(words), gauss))
    kind, words, *rest = told["numpy"]
    if kind != "MT19937":
        raise SavedDamaged(f"its generator is {kind!r}")
    np.random.RandomState().set_state((kind, np.array(words, dtype=np.uint32), *rest))
    if not all(isinstance(rate, float) for rate in told["rates"]):
        raise SavedDamaged("its learning rates are no numbers")
    if best is not None:
        best.check(told["looks"], step)
    elif told["looks"] != []:
        raise SavedDamaged("it holds scores of held-out texts")
    return told
