"""What a block was asked for, resolved once against one model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from arcee_lab.hooks.selection import WHOLE_SITE, Selection
from arcee_lab.model.anatomy import Anatomy

_NONE: Mapping[str, Any] = MappingProxyType({})


# A named tuple, not a dataclass: one is made for every block that is opened.
class Request(NamedTuple):
    """Sites, and what is kept of them; nothing in it is looked up or checked again.

    Attributes:
        anatomy: Of the model.
        names: Canonical names, in forward order.
        stop: Site after which every forward ends; None: the forward runs to its end.
        selection: Which part of each activation is kept.
        reducers: Site -> reducer, or tuple of reducers; empty where values are kept.
        shapes: Site -> shape of one token's activation; empty where values are kept.
    """

    anatomy: Anatomy
    names: list[str]
    stop: str | None = None
    selection: Selection = WHOLE_SITE
    reducers: Mapping[str, Any] = _NONE
    shapes: Mapping[str, tuple[int, ...]] = _NONE
