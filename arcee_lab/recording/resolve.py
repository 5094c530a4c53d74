"""Turns the arguments of `al.capture` into one checked request."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from arcee_lab.errors import SiteError
from arcee_lab.hooks.request import Request
from arcee_lab.hooks.selection import Selection
from arcee_lab.hooks.watch import stop_site
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.reducers.running.requests import features, resolve_requests


def resolve(
    model: nn.Module,
    sites: str | Sequence[str] | Mapping[Any, Any],
    *,
    stop_at: bool | int | str | None,
    positions: int | Sequence[int] | None,
    heads: int | Sequence[int] | None,
    units: int | Sequence[int] | None,
    dtype: torch.dtype | None,
    others: Mapping[str, object],
) -> Request:
    """Reads the arguments of `al.capture`, which describes them.

    Args:
        model: One of arcee_lab's models.
        sites: Filters, or a mapping of filters to reducers.
        stop_at: Where every forward ends.
        positions: Attended tokens to keep.
        heads: Heads to keep.
        units: Indices on the last axis to keep.
        dtype: Floating dtype to store.
        others: Further arguments that exclude reducers, by name; None where not given.

    Raises:
        SiteError: A filter that matches nothing, an index out of range, or arguments that do not
            go together.
    """
    anatomy = anatomy_of(model)
    if isinstance(sites, Mapping):
        cuts = {**others, "dtype": dtype, "positions": positions, "heads": heads, "units": units}
        given = [name for name, value in cuts.items() if value is not None]
        if given:
            raise SiteError(
                f"Reducers read whole activations where the model computes them; leave {given[0]}= "
                "out, or capture without reducers."
            )
        reducers = resolve_requests(anatomy, sites)
        names = list(reducers)
        shapes = {name: features(anatomy, name) for name in names}
        stop = stop_site(stop_at, names, anatomy)
        return Request(anatomy, names, stop, reducers=reducers, shapes=shapes)
    names = anatomy.resolve(sites)
    selection = Selection.of(positions=positions, heads=heads, units=units, dtype=dtype)
    if not selection.is_whole or dtype is not None:
        selection.check(names, anatomy)
    return Request(anatomy, names, stop_site(stop_at, names, anatomy), selection)
