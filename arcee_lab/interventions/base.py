"""What all interventions share: sites, conditions, and how they are compared and shown."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import Choice, Selection, indices
from arcee_lab.interventions.call_state import Forward
from arcee_lab.interventions.conditions import Where
from arcee_lab.interventions.constants import BySite, Constant, Value, as_mask
from arcee_lab.interventions.device_cache import Placed
from arcee_lab.interventions.slices import SitePart
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.results import page
from arcee_lab.sites import Site

if TYPE_CHECKING:
    import pandas as pd

Change = Callable[[Tensor, Forward], Tensor]
Number = Callable[[Tensor], float | Tensor]


@dataclass(frozen=True)
class Place:
    """Where an intervention is to act: one site of one model.

    Attributes:
        name: Canonical name of the site.
        site: Its row of the legend.
        part: Heads and units.
        anatomy: Of the model.
        placed: The block's tensors by device.
    """

    name: str
    site: Site
    part: SitePart
    anatomy: Anatomy
    placed: Placed

    def number(self, value: Value, *, what: str, times: float = 1.0) -> Number:
        """`times * value` as what goes with an activation: a float, or a tensor on its device."""
        given = self.given(value, what=what)
        self._require_held(times, what="alpha")
        if not isinstance(given, Constant):
            self._require_held(times * given, what=what)
            return lambda x: times * given
        given.require(what=what)
        tensor = times * self.part.fit(given.tensor, self.anatomy, name=self.name, what=what)
        return lambda x: self.placed.tensor(tensor, x.device, x.dtype)

    def _require_held(self, number: float, *, what: str) -> None:
        """Refuses a finite number that is infinite in the model's dtype."""
        most = torch.finfo(self.anatomy.model.dtype).max
        if math.isfinite(number) and abs(number) > most:
            raise SettingError(
                f"{what} is {number:g}, and {self.anatomy.model.dtype} holds numbers up to "
                f"{most:g}; give a smaller one."
            )

    def activation(self, value: Value, *, what: str) -> Tensor:
        """A value that may have all axes of the site, as an activation of another run has."""
        given = self.given(value, what=what)
        if not isinstance(given, Constant):
            raise SettingError(f"{what} must be a tensor; got {given}.")
        given.require(what=what, infinite=True)
        return self.part.fit(given.tensor, self.anatomy, name=self.name, what=what, whole=True)

    def stacked(self, value: Value, *, what: str) -> Tensor:
        """A value of n rows, each over the feature axes of the site."""
        given = self.given(value, what=what)
        wanted = len(set(self.site.axes) - self.part.free_axes) + 1
        shape = list(given.tensor.shape) if isinstance(given, Constant) else given
        if not isinstance(given, Constant) or given.tensor.ndim != wanted or not len(given.tensor):
            features = " ".join(axis for axis in self.site.axes if axis not in self.part.free_axes)
            raise SettingError(f"{what} must be rows [n {features}] for {self.name}; got {shape}.")
        given.require(what=what)
        rows = given.tensor
        apart = rows[:, None] if "pos" in self.site.axes else rows
        fitted = self.part.fit(apart, self.anatomy, name=self.name, what=what, whole=True)
        return fitted[:, 0] if "pos" in self.site.axes else fitted

    def given(self, value: Value, *, what: str) -> float | Constant:
        """What a value has for this site."""
        if isinstance(value, BySite):
            return value.at(self.name, self.anatomy.legend, what=what)
        return value


@dataclass(frozen=True, repr=False)
class Intervention(ABC):
    """A change of activations, as a value: frozen, hashable, and JSON through `to_json`.

    Attributes:
        sites: Names, globs or layer ranges, as `al.capture` takes them.
        units: Indices on the last axis to change, e.g. neurons; all by default.
        heads: Heads to change (kv heads at k and v sites).
        positions: Attended tokens to change. From 0 they count within the sequence, the cache
            included, so that `generate` meets position 3 once; negative ones count from the end of
            each call.
        tokens: Token ids to change at.
        tags: Tags to change at: whole numbers in the tensor given to the block's `set_tags`.
        mask: `[batch or 1, columns]` bools over the whole sequence, padding and cache included;
            tokens past its end are left alone.
    """

    sites: str | Sequence[str]
    _: KW_ONLY
    units: Choice = None
    heads: Choice = None
    positions: Choice = None
    tokens: Choice = None
    tags: Choice = None
    mask: Tensor | Constant | None = None

    def __post_init__(self) -> None:
        given: Any = self.sites
        one = isinstance(given, str) or not isinstance(given, Iterable)
        sites = (given,) if one else tuple(given)
        if not sites or not all(isinstance(site, str) for site in sites):
            raise SettingError(f"sites is a name or a list of names; got {self.sites!r}.")
        self._set(sites=sites)
        for what in ("units", "heads", "positions", "tokens", "tags"):
            chosen = indices(getattr(self, what), what=what)
            if chosen is not None and len(set(chosen)) < len(chosen):
                raise SettingError(f"{what} names an index twice: {list(chosen)}.")
            self._set(**{what: chosen})
        if self.mask is not None:
            self._set(mask=as_mask(self.mask, what="mask"))

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def where(self) -> Where:
        """The conditions on tokens."""
        return Where(
            positions=self.positions,  # type: ignore[arg-type]
            tokens=self.tokens,  # type: ignore[arg-type]
            tags=self.tags,  # type: ignore[arg-type]
            mask=self.mask,  # type: ignore[arg-type]
        )

    def places(self, anatomy: Anatomy, placed: Placed) -> list[Place]:
        """The sites of a model that are meant, checked.

        Raises:
            ValueError: For an unknown site, an index out of range, or an axis that a site lacks.
        """
        names, sites = anatomy.resolve(list(self.sites)), anatomy.legend.sites()
        # Any position stands for all conditions on tokens: they need the same axis.
        Selection(
            positions=None if self.where.everywhere else (0,),
            heads=self.heads,  # type: ignore[arg-type]
            units=self.units,  # type: ignore[arg-type]
        ).check(names, anatomy)
        places = []
        for name in names:
            part = SitePart(sites[name].axes, heads=self.heads, units=self.units)  # type: ignore[arg-type]
            places.append(Place(name, sites[name], part, anatomy, placed))
        return places

    @abstractmethod
    def bind(self, place: Place) -> Change:
        """What becomes of the part of an activation at one site, in a given forward.

        Raises:
            ValueError: For what does not fit the site.
        """

    def __repr__(self) -> str:
        sites = list(self.sites)
        shown = [repr(sites[0] if len(sites) == 1 else sites)]
        for name, value in self.settings().items():
            shown.append(f"{name}={list(value) if isinstance(value, tuple) else value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        return page(repr(self), table_of([self]))

    def settings(self) -> dict[str, Any]:
        """The fields that differ from their defaults, its own first, without the sites."""
        shared = {field.name for field in fields(Intervention)}
        found = sorted(fields(self), key=lambda field: field.name in shared)
        return {
            field.name: value
            for field in found
            if field.name != "sites" and (value := getattr(self, field.name)) != field.default
        }


def table_of(interventions: Sequence[Intervention]) -> "pd.DataFrame":
    """One row per intervention: what it does, at which sites, with which settings."""
    import pandas as pd

    rows = [
        (
            type(one).__name__,
            ", ".join(one.sites),
            ", ".join(
                f"{name}={list(value) if isinstance(value, tuple) else value!r}"
                for name, value in one.settings().items()
            ),
        )
        for one in interventions
    ]
    return pd.DataFrame(rows, columns=["intervention", "sites", "settings"])
