"""A Trainer whose run may be killed: what it keeps of it, and where the next one goes on.

The state is transformers' own (optimizer, schedule, generators, logged losses), except that of the
model only the trained parameters are written: a frozen backbone lies in its checkpoint already.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback

SECONDS = 120.0  # between two states
_WEIGHTS = "trained.safetensors"
_WHOLE = "trainer_state.json"  # Trainer writes it last


class ResumableTrainer(Trainer):
    """Writes and reads the trained parameters alone."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        assert self.model is not None
        named = self.model.named_parameters()
        trained = {name: one.detach().contiguous() for name, one in named if one.requires_grad}
        save_file(trained, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        model.load_state_dict(load_file(Path(resume_from_checkpoint) / _WEIGHTS), strict=False)


class SaveNowAndThen(TrainerCallback):
    """Asks for a state when some time has passed, where a loss has just been logged.

    A state in between would begin the mean of the next logged loss anew.
    """

    def __init__(self, every: int):
        self._every = every  # steps between logged losses
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the flag that Trainer reads behind each step."""
        if state.global_step % self._every or state.global_step >= state.max_steps:
            return
        if time.monotonic() - self._saved >= SECONDS:
            control.should_save = True
            self._saved = time.monotonic()


def last_state(folder: Path) -> Path | None:
    """The newest whole state in a folder; one that a kill cut short is removed."""
    whole: dict[int, Path] = {}
    for one in folder.glob("checkpoint-*"):
        try:
            whole[json.loads((one / _WHOLE).read_text(encoding="utf-8"))["global_step"]] = one
        except (OSError, ValueError, KeyError):
            shutil.rmtree(one)
    return whole[max(whole)] if whole else None
