"""Interventions in an evaluation: which of them work in packed rows, and at which positions.

A packed row holds the tokens of several sequences in its own order, so a position in the row is not
a position in the document. Interventions at positions are therefore converted to tags, and each
call sets the document position of every token as its tag. Interventions that depend on more than
one token at a time need rows of one sequence each.
"""

import json
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from arcee_lab.errors import SettingError
from arcee_lab.interventions import (
    Ablate,
    Add,
    Cett,
    Clamp,
    Intervening,
    Intervention,
    ProjectOut,
    Replace,
    Scale,
    Threshold,
    TopK,
    from_json,
    intervene,
    to_json,
)
from arcee_lab.interventions.constants import Constant
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.runs.json_text import reason

InterventionsLike = str | os.PathLike | Intervention | Iterable[Intervention] | None
# Interventions on a token that depend only on its own activation.
_BY_TOKEN = (Ablate, Add, Cett, Clamp, ProjectOut, Scale, Threshold, TopK)


@dataclass(frozen=True)
class EvalInterventions:
    """The interventions of an evaluation.

    Attributes:
        values: As given.
        packed: The same for packed rows, with positions as tags; None if rows cannot be packed.
        unpacked_reason: Why rows cannot be packed; "" if they can.
        padding: Whether rows may be padded; patterns and functions would see the padding.
    """

    values: tuple[Intervention, ...] = ()
    packed: tuple[Intervention, ...] | None = ()
    unpacked_reason: str = ""
    padding: bool = True

    @property
    def tagged(self) -> bool:
        """Whether calls have to set document positions as tags."""
        return any(one.tags is not None for one in self.packed or ())

    def around(
        self, model: nn.Module, *, packed: bool = False
    ) -> AbstractContextManager[Intervening | None]:
        """A context in which they act on a model; without interventions it does nothing."""
        values = self.packed if packed and self.packed is not None else self.values
        return intervene(model, values) if values else nullcontext()

    def spec(self) -> list[dict[str, Any]]:
        """The interventions as JSON values; functions by name."""
        rows: list[dict[str, Any]] = []
        for one in self.values:
            if isinstance(one, Replace):
                rows.append({"kind": "Replace", "sites": list(one.sites), "repr": repr(one)})
            else:
                rows += json.loads(to_json(one))["interventions"]
        return rows


def read_interventions(intervention: InterventionsLike) -> tuple[Intervention, ...]:
    """The interventions of an evaluation, given as values or as a file of them.

    Args:
        intervention: One, several, or a file that `al.interventions.to_json` wrote.

    Raises:
        SettingError: There is no such file.
        SiteError: It does not hold interventions.
    """
    if intervention is None:
        return ()
    if isinstance(intervention, Intervention):
        return (intervention,)
    if isinstance(intervention, (str, os.PathLike)):
        path = Path(intervention)
        if not path.is_file():
            raise SettingError(
                f"intervention={str(intervention)!r} is not a file; expected one that "
                "al.interventions.to_json wrote."
            )
        try:
            return tuple(from_json(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(
                f"{path} cannot be read ({reason(error)}); expected a file that "
                "al.interventions.to_json wrote."
            ) from error
    return tuple(intervention)


def eval_interventions(
    interventions: Intervention | Iterable[Intervention] | None, model: nn.Module
) -> EvalInterventions:
    """How interventions can act in an evaluation of a model.

    Args:
        interventions: One, several or none.
        model: The model that they act on.

    Raises:
        SiteError: They do not fit the model.
        SettingError: An evaluation cannot apply them.
    """
    if interventions is None:
        return EvalInterventions()
    given = (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)
    intervene(model, given)  # checks kinds, names, units and shapes before any document is read
    for one in given:
        _check(one)
    anatomy = anatomy_of(model)
    on_request = {name for one in given for name in one.sites if _reaches_pairs(name, anatomy)}
    reasons = [reason for one in given if (reason := _unpacked_reason(one, on_request))]
    packed = None if reasons else tuple(_by_tag(one) for one in given)
    whole = any(isinstance(one, Replace) or set(one.sites) & on_request for one in given)
    return EvalInterventions(given, packed, reasons[0] if reasons else "", padding=not whole)


def _check(one: Intervention) -> None:
    if one.tags is not None:
        raise SettingError(
            f"{one!r} acts at tags, and an evaluation has none; use tokens= or positions=."
        )
    if isinstance(one.mask, Constant) and one.mask.tensor.shape[0] != 1:
        raise SettingError(
            f"mask= of {one!r} has {one.mask.tensor.shape[0]} rows; expected a single row for all "
            "documents, because a document of an evaluation has no fixed row."
        )
    if isinstance(one, Ablate) and one.to == "resample" and one.value is None:
        raise SettingError(
            f"{one!r} takes activations of other sequences of the batch, so scores would depend "
            "on which documents share a batch; give value= rows to draw from."
        )


def _reaches_pairs(name: str, anatomy: Anatomy) -> bool:
    """Whether a filter reaches scores or patterns."""
    sites = anatomy.legend.sites()
    return any(sites[found].on_request for found in anatomy.resolve([name]))


def _unpacked_reason(one: Intervention, on_request: set[str]) -> str:
    """Why an intervention needs rows of one sequence; "" if it does not."""
    if not isinstance(one, _BY_TOKEN):
        return f"{type(one).__name__} reads whole sequences"
    if isinstance(one, Ablate) and one.to == "resample":
        return "resampling draws for each token of a row"
    if set(one.sites) & on_request:
        return "scores and patterns span the keys of a whole row"
    if any(position < 0 for position in one.positions or ()):  # type: ignore[union-attr]
        return "positions that count from the end differ between the choices of a document"
    return ""


def _by_tag(one: Intervention) -> Intervention:
    """The same with document positions as tags."""
    if one.positions is None and one.mask is None:
        return one
    meant = None if one.positions is None else set(one.positions)  # type: ignore[arg-type]
    if isinstance(one.mask, Constant):
        marked = set(one.mask.tensor[0].nonzero().flatten().tolist())
        meant = marked if meant is None else meant & marked
    if not meant:
        raise SettingError(f"{one!r} selects no position; check positions= and mask=.")
    return replace(one, positions=None, mask=None, tags=sorted(meant))
