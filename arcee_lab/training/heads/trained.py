"""A fitted head: the model, its scores on texts it has not seen, and its losses."""

from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from arcee_lab.evals.result import Score, table
from arcee_lab.model.modeling import ArceePreTrainedModel
from arcee_lab.runs import storage


@dataclass(frozen=True)
class TrainedHead:
    """The result of `train_head`.

    Attributes:
        model: With the new head, in evaluation mode.
        tokenizer: Its tokenizer.
        scores: On the test texts, with 95 % bootstrap intervals; none without such texts.
        majority: Share of the commonest label there; of the training texts without test texts.
        losses: `{"step", "loss"}` by step: the mean loss since the row before.
        settings: Recipe, labels, sizes.
    """

    model: ArceePreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    scores: tuple[Score, ...]
    majority: float
    losses: tuple[dict[str, int | float], ...] = field(repr=False)
    settings: dict[str, Any]

    def frame(self) -> pd.DataFrame:
        """One row a score."""
        columns = ["metric", "value", "low", "high", "n"]
        return pd.DataFrame([asdict(score) for score in self.scores], columns=columns)

    def save(self, folder: str | Path) -> Path:
        """Writes a checkpoint that `al.load(folder, head=...)` reads.

        Args:
            folder: Made where it is missing.

        Returns:
            The folder, with `scores.json` and `training_log.json` next to the weights.

        Raises:
            NotWritten: A ValueError and an OSError: the disk is full.
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
        told = {
            "settings": self.settings,
            "majority": self.majority,
            "scores": self.frame().to_dict(orient="records"),
        }
        storage.write_json(folder / "scores.json", told)
        storage.write_json(folder / "training_log.json", list(self.losses))
        return folder

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(s.metric)}</td><td>{s.value:.3f}</td>"
            f"<td>{s.low:.3f} – {s.high:.3f}</td><td>{s.n:,}</td></tr>"
            for s in self.scores
        )
        return (
            f"<p>{escape(self.headline)}</p><table><tr><th>metric</th><th>score</th>"
            f"<th>95 %</th><th>n</th></tr>{rows}</table>"
        )

    @property
    def headline(self) -> str:
        """What was trained, in one line."""
        said = self.settings
        of = "the test" if self.scores else "these, and no test texts were given"
        return (
            f"{said['head']} head on {said['model']} ({said['recipe']['tune']}), {said['texts']:,} "
            f"texts, {len(said['labels'])} labels; the commonest is {self.majority:.3f} of {of}"
        )

    def __str__(self) -> str:
        return f"{self.headline}\n{table(self.scores)}" if self.scores else self.headline
