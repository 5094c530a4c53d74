"""Interventions in an evaluation: which of them packed rows can honour, and at which positions.

A packed row holds several documents' tokens in an order of its own, so a position in it is no
position of a document. What asks for positions is therefore asked by tag, and each call is told
the document position of every token as its tag. What looks at more than one token at a time sees
rows of one document each.
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

Values = str | os.PathLike | Intervention | Iterable[Intervention] | None
# What changes a token by its own activation alone.
_BY_TOKEN = (Ablate, Add, Cett, Clamp, ProjectOut, Scale, Threshold, TopK)


@dataclass(frozen=True)
class Changes:
    """The interventions of an evaluation.

    Attributes:
        values: As given.
        packed: The same for packed rows, with positions as tags; None where these cannot do it.
        alone: Why rows hold one document each; "" where they need not.
        padding: Whether rows may be padded. Patterns and functions would see it.
    """

    values: tuple[Intervention, ...] = ()
    packed: tuple[Intervention, ...] | None = ()
    alone: str = ""
    padding: bool = True

    @property
    def tagged(self) -> bool:
        """Whether calls have to be told document positions."""
        return any(one.tags is not None for one in self.packed or ())

    def around(
        self, model: nn.Module, *, packed: bool = False
    ) -> AbstractContextManager[Intervening | None]:
        """The block in which they act on a model; without interventions an empty one."""
        values = self.packed if packed and self.packed is not None else self.values
        return intervene(model, values) if values else nullcontext()

    def spec(self) -> list[dict[str, Any]]:
        """What they are, as JSON values; a function as its name."""
        rows: list[dict[str, Any]] = []
        for one in self.values:
            if isinstance(one, Replace):
                rows.append({"kind": "Replace", "sites": list(one.sites), "repr": repr(one)})
            else:
                rows += json.loads(to_json(one))["interventions"]
        return rows


def values_of(intervention: Values) -> tuple[Intervention, ...]:
    """Interventions as an evaluation is given them: values, or the file that they are written in.

    Raises:
        ValueError: There is no such file, or it holds something else.
    """
    if intervention is None:
        return ()
    if isinstance(intervention, Intervention):
        return (intervention,)
    if isinstance(intervention, (str, os.PathLike)):
        path = Path(intervention)
        if not path.is_file():
            raise SettingError(
                f"intervention={str(intervention)!r} is no file; expected one that "
                "al.interventions.to_json wrote."
            )
        return tuple(from_json(path.read_text(encoding="utf-8")))
    return tuple(intervention)


def changes_of(
    interventions: Intervention | Iterable[Intervention] | None, model: nn.Module
) -> Changes:
    """Sorts out how interventions can act in an evaluation of a model.

    Raises:
        ValueError: For what an evaluation cannot do, or what does not fit the model.
    """
    if interventions is None:
        return Changes()
    given = (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)
    intervene(model, given)  # checks kinds, names, units and shapes before any document is read
    for one in given:
        _check(one)
    anatomy = anatomy_of(model)
    on_request = {name for one in given for name in one.sites if _reaches_pairs(name, anatomy)}
    reasons = [reason for one in given if (reason := _alone(one, on_request))]
    packed = None if reasons else tuple(_by_tag(one) for one in given)
    whole = any(isinstance(one, Replace) or set(one.sites) & on_request for one in given)
    return Changes(given, packed, reasons[0] if reasons else "", padding=not whole)


def _check(one: Intervention) -> None:
    if one.tags is not None:
        raise SettingError(
            f"{one!r} acts at tags, and an evaluation has none to give; use tokens= or positions=."
        )
    if isinstance(one.mask, Constant) and one.mask.tensor.shape[0] != 1:
        raise SettingError(
            f"mask= of {one!r} has {one.mask.tensor.shape[0]} rows; documents of an evaluation "
            "have no fixed row, so expected a single one for all."
        )
    if isinstance(one, Ablate) and one.to == "resample" and one.value is None:
        raise SettingError(
            f"{one!r} takes activations of other sequences of the batch, so scores would depend "
            "on which documents share one. Give value= rows to draw from."
        )


def _reaches_pairs(name: str, anatomy: Anatomy) -> bool:
    """Whether a filter reaches scores or patterns."""
    sites = anatomy.legend.sites()
    return any(sites[found].on_request for found in anatomy.resolve([name]))


def _alone(one: Intervention, on_request: set[str]) -> str:
    """Why an intervention needs rows of one document; "" if it does not."""
    if not isinstance(one, _BY_TOKEN):
        return f"{type(one).__name__} looks at whole sequences"
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
        raise SettingError(f"{one!r} means no position at all; check positions= and mask=.")
    return replace(one, positions=None, mask=None, tags=sorted(meant))
