"""What a mapping of filters to reducers asks for, checked before any forward."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.reducers.reducer import Reducer, ReducerSpec

_ASKS = ("labels", "positions", "seen")


def resolve_requests(anatomy: Anatomy, requests: Mapping[Any, Any]) -> dict[str, ReducerSpec]:
    """The reducers of each site, by canonical name, in forward order.

    Args:
        anatomy: Of the model.
        requests: Filter, or tuple of filters -> reducer, or sequence of reducers. A site that
            several filters match gets the reducers of all of them.

    Raises:
        ValueError: A filter that matches nothing, a value that is no reducer, a site whose shape a
            call changes, or settings that do not fit a site.
    """
    if not requests:
        raise SettingError(
            "No site was given; expected a mapping of at least one site to a reducer."
        )
    found: dict[str, list[ReducerSpec]] = {}
    for filters, given in requests.items():
        one_or_more = _read(filters, given)
        for name in anatomy.resolve(filters):
            found.setdefault(name, []).append(one_or_more)
    wanted = {name: _one(found[name]) for name in anatomy.legend.sites() if name in found}
    checked = set()  # most layers ask for the same again
    for name, one_or_more in wanted.items():
        shape = features(anatomy, name)
        if (shape, id(one_or_more)) not in checked:
            _check(name, shape, one_or_more)
            checked.add((shape, id(one_or_more)))
    return wanted


def features(anatomy: Anatomy, name: str) -> tuple[int, ...]:
    """Shape of one token's activation.

    Raises:
        ValueError: The site has no axis of tokens, or one of keys.
    """
    axes = anatomy.legend.sites()[name].axes
    if axes[:2] != ("batch", "pos"):
        where = "read attention with al.attention" if "k_pos" in axes else "capture it instead"
        raise SettingError(
            f"Reducers take one vector per token, and {name} is {' '.join(axes)}; {where}."
        )
    return tuple(anatomy.size(axis) for axis in axes[2:])


def _read(filters: object, given: object) -> ReducerSpec:
    if isinstance(given, Reducer):
        return given
    several = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not several or not all(isinstance(one, Reducer) for one in several):
        raise SettingError(
            f"{filters!r} is mapped to {given!r}; expected a reducer such as "
            "al.reducers.FiringRate(), or a list of them."
        )
    return several


def _one(found: list[ReducerSpec]) -> ReducerSpec:
    if len(found) == 1:
        return found[0]
    return tuple(r for one in found for r in ((one,) if isinstance(one, Reducer) else one))


def _check(name: str, shape: tuple[int, ...], spec: ReducerSpec) -> None:
    for reducer in (spec,) if isinstance(spec, Reducer) else spec:
        unknown = set(reducer.asks) - set(_ASKS)
        if unknown:
            raise SettingError(
                f"{reducer!r} asks for {sorted(unknown)[0]!r}; expected some of {', '.join(_ASKS)}."
            )
        try:
            state = reducer.init(shape, torch.device("meta"))
        except ValueError as error:
            raise SettingError(f"{name}: {error}") from None
        if not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            raise SettingError(f"init of {reducer!r} gives {state!r}; expected a dict of tensors.")
