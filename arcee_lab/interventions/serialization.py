"""Interventions as JSON text, and back without a bit lost."""

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from arcee_lab.errors import SettingError, WrongType
from arcee_lab.interventions.ablate import Ablate, Patch
from arcee_lab.interventions.arithmetic import Add, Clamp, ProjectOut, Scale
from arcee_lab.interventions.base import Intervention
from arcee_lab.interventions.constants import BySite, Constant
from arcee_lab.interventions.neurons import Cett, Threshold, TopK
from arcee_lab.interventions.replace import Replace
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.json_text import parse_json

_VERSION = 1
_KINDS: dict[str, type[Intervention]] = {
    kind.__name__: kind
    for kind in (Ablate, Add, Cett, Clamp, Patch, ProjectOut, Scale, Threshold, TopK)
}


@checked
def to_json(interventions: Intervention | Iterable[Intervention]) -> str:
    """Writes interventions as JSON text; see docs/reference/formats.md.

    Tensors are written as their bytes, so a patch takes 4/3 of the size of its sources.

    Raises:
        ValueError: For `Replace`, whose function cannot be written as text.

    Example:
        >>> import arcee_lab as al
        >>> edits = [al.Ablate("layers.1.mlp.hook_post", units=[17])]
        >>> al.interventions.from_json(al.interventions.to_json(edits)) == edits
        True
    """
    given = [interventions] if isinstance(interventions, Intervention) else list(interventions)
    for one in given:
        if not isinstance(one, Intervention):
            raise WrongType(f"{one!r} is no intervention; expected values such as al.Ablate(site).")
    rows = []
    for one in given:
        if isinstance(one, Replace):
            raise SettingError(
                f"{one!r} holds a function, which JSON cannot; leave it out, or use another kind."
            )
        settings = {name: _plain(value) for name, value in one.settings().items()}
        rows.append({"kind": type(one).__name__, "sites": list(one.sites), **settings})
    return json.dumps({"version": _VERSION, "interventions": rows}, allow_nan=False)


@checked
def from_json(text: str) -> list[Intervention]:
    """Reads what `to_json` wrote, and trusts nothing in it.

    Raises:
        ValueError: If it is not such a text, or a value in it is none.
    """
    do = "give text that al.interventions.to_json wrote"
    whole = parse_json(text, "This text of interventions", error=SettingError, do=do)
    version = whole.get("version") if isinstance(whole, dict) else None
    if version != _VERSION or not isinstance(whole.get("interventions"), list):
        raise SettingError(
            f"Expected the interventions of version {_VERSION}, as to_json writes them; got "
            f"{'version ' + repr(version) if version else type(whole).__name__}."
        )
    return [_read(row) for row in whole["interventions"]]


def _read(row: Any) -> Intervention:
    kind = _KINDS.get(str(row.get("kind"))) if isinstance(row, dict) else None
    if kind is None:
        raise SettingError(f"Expected a kind among {', '.join(_KINDS)}; got {str(row)[:80]}.")
    known = {field.name for field in fields(kind)}
    strange = set(row) - known - {"kind"}
    if strange:
        raise SettingError(f"{kind.__name__} has no {', '.join(sorted(strange))}.")
    try:
        return kind(**{name: _value(row[name]) for name in row if name != "kind"})
    except (TypeError, OverflowError) as error:
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise SettingError(f"This is no {kind.__name__}: {said}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Constant):
        return {"tensor": value.to_json()}
    if isinstance(value, BySite):
        return {"by_site": {name: _plain(one) for name, one in value.entries}}
    return list(value) if isinstance(value, tuple) else value


def _value(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    if set(given) == {"tensor"}:
        return Constant.from_json(given["tensor"])
    if set(given) == {"by_site"} and isinstance(given["by_site"], dict):
        return {name: _value(one) for name, one in given["by_site"].items()}
    raise SettingError(f"Expected a tensor or values by site; got {sorted(given)}.")
