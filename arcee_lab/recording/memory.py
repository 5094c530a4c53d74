"""What a capture will take, in bytes, before it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from arcee_lab.errors import SiteError
from arcee_lab.hooks.selection import Selection
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.reducers.running.requests import features
from arcee_lab.results import Result, counted, page
from arcee_lab.runs.arguments import checked

if TYPE_CHECKING:
    import pandas as pd


_MOST_SITES = 40  # that a notebook shows: those of one layer, and what is around it


@dataclass(frozen=True)
class PlannedSite:
    """One site of a plan.

    Attributes:
        site: Canonical name.
        shape: Shape of one forward's tensor.
        dtype: As stored.
        bytes: Bytes it adds; 0 where an earlier site of the plan holds the same storage.
    """

    site: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int


@dataclass(frozen=True, repr=False)
class CapturePlan(Result):
    """Shapes and bytes of a capture of one forward.

    Attributes:
        sites: One row per site, in forward order.
        batch: Sequences.
        length: Tokens per sequence.
        cache_length: Tokens that the static cache of the call holds; None without one.
    """

    sites: tuple[PlannedSite, ...]
    batch: int
    length: int
    cache_length: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all distinct storages together."""
        return sum(site.bytes for site in self.sites)

    @property
    def headline(self) -> str:
        """Sites, tokens and bytes."""
        return (
            f"{counted(len(self.sites), 'site')}, batch {self.batch} x "
            f"{counted(self.length, 'token')}: {counted(self.bytes, 'byte')}{_in_large(self.bytes)}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per site: site, shape, dtype, bytes."""
        import pandas as pd

        rows = [(s.site, str(list(s.shape)), str(s.dtype), s.bytes) for s in self.sites]
        return pd.DataFrame(rows, columns=["site", "shape", "dtype", "bytes"])

    def _repr_html_(self) -> str:
        return page(self.headline, self.frame(), most=_MOST_SITES)


def _in_large(size: int) -> str:
    """Many bytes in a unit that can be read, in brackets; few are read as they are."""
    for unit, of in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= of:
            return f" ({size / of:.3g} {unit})"
    return ""


@checked
def plan(
    model: nn.Module,
    sites: str | Sequence[str] | Mapping[Any, Any],
    *,
    batch: int,
    length: int,
    cache_length: int | None = None,
    dtype: torch.dtype | None = None,
    positions: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    units: int | Sequence[int] | None = None,
) -> CapturePlan:
    """Says what `capture` with the same arguments holds after one forward, without running it.

    Sites that hold one tensor under two names (a layer's `hook_resid_pre` is the `hook_resid_post`
    before it) are counted once, as they are stored. Under autocast the dtypes are autocast's, and
    with `grad=True` activations are kept whole: neither is in the plan.

    Args:
        model: One of arcee_lab's models; it may be on the meta device.
        sites: As for `capture`; of a mapping to reducers, or to `arcee_lab.neurons.Places`, the
            bytes of their states, which no batch and no text changes.
        batch: Sequences of the call.
        length: Tokens per sequence of the call.
        cache_length: Length of its static cache; None without a cache.
        dtype: As for `capture`.
        positions: As for `capture`.
        heads: As for `capture`.
        units: As for `capture`.

    Example:
        >>> import arcee_lab as al
        >>> model, _ = al.load("demo")
        >>> plan = al.plan(model, "layers.0.mlp.hook_post", batch=2, length=8)
        >>> plan.bytes == 2 * 8 * model.config.intermediate_size * 4
        True
    """
    if batch < 1 or length < 1:
        raise SiteError(f"batch and length must be at least 1; got batch={batch}, length={length}.")
    anatomy = anatomy_of(model)
    if isinstance(sites, Mapping):
        given = {"dtype": dtype, "positions": positions, "heads": heads, "units": units}
        cuts = [name for name, value in given.items() if value is not None]
        if cuts:
            raise SiteError(f"statistics read whole activations; leave {cuts[0]}= out.")
        return CapturePlan(_states(anatomy, sites), batch, length, cache_length)
    names = anatomy.resolve(sites)
    selection = Selection.of(positions=positions, heads=heads, units=units, dtype=dtype)
    selection.check(names, anatomy)
    legend = anatomy.legend.sites()
    calls = {"batch": batch, "pos": length, "q_pos": length, "k_pos": cache_length or length}
    rows = []
    for name in names:
        site = legend[name]
        sizes = {a: calls[a] if a in calls else anatomy.size(a) for a in site.axes}
        shape = selection.shape(site.axes, sizes)
        stored = dtype or (torch.float32 if site.dtype == "float32" else anatomy.model.dtype)
        twin = anatomy.legend.shares_tensor_with(name)
        size = 0 if twin in names else torch.Size(shape).numel() * stored.itemsize
        rows.append(PlannedSite(name, shape, stored, size))
    return CapturePlan(tuple(rows), batch, length, cache_length)


def _states(anatomy: Anatomy, wanted: Mapping[Any, Any]) -> tuple[PlannedSite, ...]:
    """The states of statistics, computed without allocating them; one row per site."""
    sizes: dict[str, int] = {}
    for filters, given in wanted.items():
        several = given if isinstance(given, list | tuple) else [given]
        wrong = [one for one in several if not callable(getattr(one, "init", None))]
        if wrong or not several:
            raise SiteError(
                f"{filters!r} is mapped to {given!r}; expected a reducer such as "
                "al.reducers.TopK(), or al.neurons.Places()."
            )
        for name in anatomy.resolve(filters):
            shape = features(anatomy, name)
            states = [one.init(shape, torch.device("meta")) for one in several]
            size = sum(x.nbytes for state in states for x in state.values())
            sizes[name] = sizes.get(name, 0) + size
    ordered = [name for name in anatomy.legend.sites() if name in sizes]
    dtype = anatomy.model.dtype
    return tuple(PlannedSite(name, features(anatomy, name), dtype, sizes[name]) for name in ordered)
