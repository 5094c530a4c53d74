"""What is patched at once: whole sites, or one position, head or unit of them at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import (
    Choice,
    Indices,
    Selection,
    find_positions,
    head_axis,
    indices,
    position_axis,
)
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.sites import Axes

CUTS = ("positions", "heads", "units")


class Spot(NamedTuple):
    """One thing to patch: a site, or a part of it.

    Attributes:
        site: Its name.
        position: One attended token, negative from the end; None: all of them.
        head: One head (a kv head at k and v sites); None: all.
        unit: One index on the last axis, e.g. a neuron; None: all.
    """

    site: str
    position: int | None = None
    head: int | None = None
    unit: int | None = None


@dataclass(frozen=True)
class Spots:
    """Many spots, cut the same way, in the order of their sites.

    Attributes:
        names: The sites, in forward order.
        axes: Axis words of each.
        over: What the spots differ in, apart from the site: some of "positions", "heads", "units".
        site: Of each spot, the index of its site in `names`.
        columns: For each of `over`, the index of each spot.
        fixed: For each of the others, the indices that all spots take; None: all there are.
        shape: Sites by what they are cut over, if the spots fill such a grid.
    """

    names: tuple[str, ...]
    axes: tuple[Axes, ...]
    over: tuple[str, ...]
    site: Int[Tensor, " spot"]
    columns: Mapping[str, Int[Tensor, " spot"]]
    fixed: Mapping[str, Indices | None]
    shape: tuple[int, ...] | None

    @classmethod
    def grid(
        cls,
        anatomy: Anatomy,
        sites: str | Sequence[str],
        *,
        over: str | Sequence[str],
        chosen: Mapping[str, Choice],
        longest: int,
    ) -> "Spots":
        """Every site by every index of what it is cut over.

        Args:
            anatomy: Of the model.
            sites: Filters, as for `al.capture`.
            over: What is patched one at a time.
            chosen: For each of `CUTS`, the indices that are meant; None: all.
            longest: Attended tokens of the longest sequence.

        Raises:
            ValueError: For unknown sites or words, an index out of range, a site without the axis,
                or sites that differ in its length.
        """
        words = (over,) if isinstance(over, str) else tuple(over)
        if len(set(words)) < len(words) or not set(words) <= set(CUTS):
            raise SettingError(f"over={over!r}; expected some of {', '.join(CUTS)}, each once.")
        names = anatomy.resolve(sites)
        known = {what: indices(chosen[what], what=what) for what in CUTS}
        _check(anatomy, names, known, words, longest)
        ranges = [_range(anatomy, names, what, known[what], longest) for what in words]
        rows = torch.tensor(list(product(range(len(names)), *ranges)))  # [spot, 1 + len(over)]
        return cls(
            names=tuple(names),
            axes=tuple(anatomy.legend.sites()[name].axes for name in names),
            over=words,
            site=rows[:, 0].contiguous(),
            columns={what: rows[:, 1 + place] for place, what in enumerate(words)},
            fixed={what: known[what] for what in CUTS if what not in words},
            shape=(len(names), *map(len, ranges)),
        )

    @classmethod
    def listed(cls, anatomy: Anatomy, given: Sequence[Spot], *, longest: int) -> "Spots":
        """The spots of a list, sorted by site.

        Raises:
            ValueError: As `grid` does, or for spots that are not cut the same way.
        """
        sites = list(anatomy.legend.sites())
        named = [spot._replace(site=anatomy.legend.canonical(spot.site)) for spot in given]
        named.sort(key=lambda spot: sites.index(spot.site))
        names = list(dict.fromkeys(spot.site for spot in named))
        kinds = {tuple(i for i in range(1, 4) if spot[i] is not None) for spot in named}
        if len(kinds) != 1:
            raise SettingError(
                "The spots of one sweep must be cut the same way: all with a position or none, and "
                "so with head and unit."
            )
        fields = kinds.pop()
        words = tuple(CUTS[i - 1] for i in fields)
        columns = {what: [spot[i] for spot in named] for i, what in zip(fields, words, strict=True)}
        for name in names:  # a head that one site has may be out of range at another
            here: dict[str, Indices | None] = dict.fromkeys(CUTS)
            for what, column in columns.items():
                pairs = zip(named, column, strict=True)
                here[what] = tuple(index for spot, index in pairs if spot.site == name)  # type: ignore[misc]
            _check(anatomy, [name], here, (), longest)
        return cls(
            names=tuple(names),
            axes=tuple(anatomy.legend.sites()[name].axes for name in names),
            over=words,
            site=torch.tensor([names.index(spot.site) for spot in named]),
            columns={what: torch.tensor(column) for what, column in columns.items()},
            fixed={what: None for what in CUTS if what not in words},
            shape=None,
        )

    def __len__(self) -> int:
        return len(self.site)

    def __getitem__(self, number: int) -> Spot:
        cut = {what[:-1]: int(column[number]) for what, column in self.columns.items()}
        return Spot(self.names[int(self.site[number])], **cut)

    def __iter__(self) -> Iterator[Spot]:
        # Whole columns at once: a large model has hundreds of thousands of neurons.
        names = [self.names[i] for i in self.site.tolist()]
        nothing = [None] * len(names)
        cuts = [self.columns[w].tolist() if w in self.columns else nothing for w in CUTS]
        return map(Spot, names, *cuts)

    def at_site(self, place: int) -> slice:
        """The spots of one of the sites, which stand together."""
        start, stop = torch.searchsorted(self.site, torch.tensor([place, place + 1])).tolist()
        return slice(start, stop)

    # ------------------------------------------------------------------ in the activations

    def tokens(
        self, some: slice, real: Bool[Tensor, "pair pos"]
    ) -> Bool[Tensor, "spot_or_1 pair pos"]:
        """Which tokens are patched, for each spot or for all alike."""
        pos = torch.arange(real.shape[1], device=real.device)
        if "positions" in self.over:
            where, found = find_positions(tuple(self.columns["positions"][some].tolist()), real)
            return ((where[..., None] == pos) & found[..., None]).transpose(0, 1)
        if self.fixed["positions"] is None:
            return real[None]
        where, found = find_positions(self.fixed["positions"], real)
        return ((where[..., None] == pos) & found[..., None]).any(dim=1)[None]

    def hit(
        self, some: slice, place: int, real: Bool[Tensor, "pair pos"], sizes: Sequence[int]
    ) -> Bool[Tensor, "spot_or_1 pair ..."]:
        """What of a site is patched: a mask that broadcasts over `[spot, *activation]`.

        Args:
            some: Spots, all of the site.
            place: Which site.
            real: Which tokens are attended.
            sizes: Shape of the site's activation.
        """
        axes = self.axes[place]
        position, ones = position_axis(axes), [1] * len(axes)
        assert position is not None
        tokens = self.tokens(some, real)
        shape = ones.copy()
        shape[0], shape[position] = real.shape
        hit = tokens.view(len(tokens), *shape)
        for what, axis in (("heads", head_axis(axes)), ("units", len(axes) - 1)):
            mask = self._one_of(what, some, None if axis is None else sizes[axis], real.device)
            if mask is not None:
                assert axis is not None
                shape = ones.copy()
                shape[axis] = sizes[axis]
                hit = hit & mask.view(len(mask), *shape)
        return hit

    def _one_of(
        self, what: str, some: slice, size: int | None, device: torch.device
    ) -> Bool[Tensor, "spot_or_1 size"] | None:
        if what in self.over:
            chosen = self.columns[what][some].to(device)
            return chosen[:, None] == torch.arange(size or 0, device=device)
        if self.fixed[what] is None:
            return None
        mask = torch.zeros(1, size or 0, dtype=torch.bool, device=device)
        mask[:, list(self.fixed[what] or ())] = True
        return mask

    def sums(
        self, place: int, x: Float[Tensor, "pair ..."], real: Bool[Tensor, "pair pos"]
    ) -> Float[Tensor, "spot pair"]:
        """Adds up an activation-like tensor over each spot of a site."""
        axes, some = self.axes[place], self.at_site(place)
        position, head = position_axis(axes), head_axis(axes)
        assert position is not None
        left = list(axes)  # the axes that are still there
        index: list[Tensor | None] = [None, None, None]  # of position, head, unit
        if "positions" in self.over:
            chosen = tuple(self.columns["positions"][some].tolist())
            index[0] = find_positions(chosen, real)[0].T  # [spot, pair]
        else:
            tokens = self.tokens(some, real)[0]
            shape = [1] * len(axes)
            shape[0], shape[position] = tokens.shape
            x = torch.where(tokens.view(shape), x, 0).sum(dim=position)
            left.remove(axes[position])
        for what, axis, number in (("heads", head, 1), ("units", len(axes) - 1, 2)):
            if axis is None or (what == "units" and axis in (position, head)):
                continue
            where = left.index(axes[axis])
            if what in self.over:
                index[number] = self.columns[what][some].to(x.device)[:, None]  # [spot, 1]
                continue
            if self.fixed[what] is not None:
                x = x.index_select(where, torch.tensor(self.fixed[what], device=x.device))
            x = x.sum(dim=where)
            left.remove(axes[axis])
        order = {axes[position]: 0, axes[-1]: 2} | ({} if head is None else {axes[head]: 1})
        pairs = torch.arange(x.shape[0], device=x.device)[None]
        taken = x[(pairs, *(index[order[word]] for word in left[1:]))]
        return taken.expand(some.stop - some.start, -1)


def _check(
    anatomy: Anatomy,
    names: list[str],
    known: Mapping[str, Indices | None],
    over: Sequence[str],
    longest: int,
) -> None:
    if "hook_logits" in names:
        raise SettingError("hook_logits is what the metric reads; patch something before it.")
    # Any index stands for a cut over all there are: both need the axis.
    wanted = {what: known[what] or ((0,) if what in over else None) for what in CUTS}
    Selection(wanted["positions"], wanted["heads"], wanted["units"]).check(names, anatomy)
    positions = known["positions"] or ()
    wrong = [p for p in positions if not -longest <= p < longest]
    if wrong:
        raise SettingError(
            f"positions {wrong} out of range: the longest sequence has {longest} attended tokens."
        )
    for what in CUTS:
        if what in over and len(set(known[what] or ())) < len(known[what] or ()):
            raise SettingError(f"{what} names an index twice: {list(known[what] or ())}.")


def _range(
    anatomy: Anatomy, names: list[str], what: str, chosen: Indices | None, longest: int
) -> Sequence[int]:
    if chosen is not None:
        return chosen
    if what == "positions":
        return range(longest)
    sites = anatomy.legend.sites()
    lengths = {}
    for name in names:
        axes = sites[name].axes
        lengths[anatomy.size(axes[-1] if what == "units" else axes[head_axis(axes) or 0])] = name
    if len(lengths) > 1:
        raise SettingError(
            f"These sites differ in the number of {what}: "
            + ", ".join(f"{name} has {size}" for size, name in lengths.items())
            + ". Sweep them apart."
        )
    return range(next(iter(lengths)))
