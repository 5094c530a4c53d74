"""A trained head: the model, its scores on held-out texts, and its losses."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from arcee_lab.evals.result import Score, table
from arcee_lab.model.modeling import ArceePreTrainedModel
from arcee_lab.results import Result, counted
from arcee_lab.runs import storage
from arcee_lab.training.heads.calibration import Calibration


@dataclass(frozen=True, repr=False)
class TrainedHead(Result):
    """The result of `train_head`.

    Attributes:
        model: With the new head, in evaluation mode.
        tokenizer: Its tokenizer.
        scores: On the test texts, with 95 % bootstrap intervals; none without such texts.
        majority: Fraction of the most common label, or answer, in the test texts; without test
            texts, in the training texts.
        losses: One `{"step": ..., "loss": ...}` per logged step, with the mean loss since the
            previous one.
        settings: Recipe, labels, sizes, and `kept`: the step whose weights these are.
        held_out: The scores on the held-out texts after each epoch, with `epoch` and `step`; none
            without such texts.
        calibration: The fitted temperature and its effect; None if none was asked for.
    """

    model: ArceePreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    scores: tuple[Score, ...]
    majority: float
    losses: tuple[dict[str, int | float], ...] = field(repr=False)
    settings: dict[str, Any]
    held_out: tuple[dict[str, int | float], ...] = field(default=(), repr=False)
    calibration: Calibration | None = field(default=None, repr=False)

    def frame(self) -> pd.DataFrame:
        """One row per score."""
        columns = ["metric", "value", "low", "high", "n"]
        return pd.DataFrame([asdict(score) for score in self.scores], columns=columns)

    def save(self, folder: str | Path) -> Path:
        """Writes a checkpoint that `al.load(folder, head=...)` reads.

        Args:
            folder: Created if it is missing.

        Returns:
            The folder, with `scores.json` and `training_log.json` next to the weights.

        Raises:
            NotWritten: The disk is full.
        """
        folder = Path(folder)

        def fill(part: Path) -> None:
            self.model.save_pretrained(part)
            self.tokenizer.save_pretrained(part)

        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            storage.write_folder(folder, fill)
        finally:
            if bars:
                transformers_logging.enable_progress_bar()
        summary = {
            "settings": self.settings,
            "majority": self.majority,
            "scores": self.frame().to_dict(orient="records"),
            "held_out": list(self.held_out),
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }
        # A score of nothing, as of unanswered questions where all are answered, is NaN: null.
        storage.write_json(folder / "scores.json", storage.as_json(summary))
        storage.write_json(folder / "training_log.json", storage.as_json(list(self.losses)))
        return folder

    @property
    def headline(self) -> str:
        """What was trained, in one sentence."""
        used = self.settings
        where = "test" if self.scores else "training"
        asked = used["head"] == "qa"
        what, most = ("question", "answer") if asked else ("text", "label")
        labels = "" if asked else f" with {counted(len(used['labels']), 'label')}"
        return (
            f"{used['head']} head on {used['model']} ({used['recipe']['tune']}), trained on "
            f"{counted(used['texts'], what)}{labels}; the most common {most} is "
            f"{self.majority:.3f} of the {where} {what}s"
        )

    def __str__(self) -> str:
        parts = [self.headline]
        if self.calibration is not None:
            parts.append(self.calibration.headline)
        return "\n".join([*parts, table(self.scores)] if self.scores else parts)
