"""What a comparison needs to know of a run; `arcee_lab.evals.Evaluation` has it."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class EvaluatedRun(Protocol):
    """A run with its scores and samples."""

    @property
    def model(self) -> str:
        """Its name."""
        ...

    @property
    def scores(self) -> Sequence[Any]:
        """Of type `arcee_lab.evals.result.Score`."""
        ...

    @property
    def samples(self) -> dict[str, list[dict[str, Any]]]:
        """Task -> what lm-eval logs for each document and filter."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """With `interventions`, if there were any."""
        ...
