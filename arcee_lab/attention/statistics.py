"""Statistics of the rows of a pattern: frozen settings that give one number per query.

A statistic of your own is a frozen dataclass with a name, an axis label and `read`:

    @dataclass(frozen=True)
    class Peak(Statistic):
        name, label = "peak", "largest weight"

        def read(self, rows):
            return Reading(rows.pattern.amax(dim=-1))
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from arcee_lab.attention.rows import Reading, Rows
from arcee_lab.errors import SettingError

_PARTIAL, _WIDEST = 64, 256  # columns per chosen key, and columns
SHARE = "share of attention"  # the unit of statistics that are shares of a head's attention


class Statistic(ABC):
    """A number that each head has at each token.

    Attributes:
        name: Of its column in frames.
        label: What its figure's colours mean.
        unit: Of its numbers. Those that are a `SHARE` of a row of the pattern have one scale in
            figures, and are told next to what a head that reads all keys alike would give.
    """

    name: str
    label: str
    unit: str = ""

    @abstractmethod
    def read(self, rows: Rows) -> Reading:
        """Reads some rows; it is called with a few queries at a time."""


@dataclass(frozen=True)
class Entropy(Statistic):
    """How widely a head reads, `-sum p ln p` in nats: 0 for one key, ln n for n keys alike."""

    name, label, unit = "entropy", "entropy (nats)", "nats"

    def read(self, rows: Rows) -> Reading:
        """See `Statistic.read`."""
        # 0 ln 0 is 0; torch.special.entr says so too, at twice the cost.
        logs = rows.pattern.clamp_min(torch.finfo(rows.pattern.dtype).tiny).log_()
        return Reading(logs.mul_(rows.pattern).sum(dim=-1).neg_())


@dataclass(frozen=True)
class FirstMass(Statistic):
    """How much a head reads of the first token of the sequence, where idle heads rest.

    It is the first token that the query may read: BOS if there is one, behind any left padding,
    and of the query's own sequence in a packed row.

    Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks",
    arXiv:2309.17453.
    """

    name, label, unit = "first_mass", "attention to the first token", SHARE

    def read(self, rows: Rows) -> Reading:
        """See `Statistic.read`."""
        return Reading(rows.mass(rows.first))


@dataclass(frozen=True)
class Offset(Statistic):
    """How much a head reads of the token `back` places back: 0 is itself, 1 the previous token.

    Queries that may not read so far back do not count.

    Attributes:
        back: Places back.

    Raises:
        ValueError: If `back` is no whole number from 0 up.
    """

    back: int

    unit = SHARE

    def __post_init__(self):
        _check_whole("Offset", self.back, least=0)

    @property
    def name(self) -> str:  # type: ignore[override]
        """See `Statistic`."""
        return f"offset_{self.back}"

    @property
    def label(self) -> str:  # type: ignore[override]
        """See `Statistic`."""
        near = {0: "the token itself", 1: "the previous token"}
        return f"attention to {near.get(self.back, f'the token {self.back} back')}"

    def read(self, rows: Rows) -> Reading:
        """See `Statistic.read`."""
        column = (rows.place - self.back)[None, None]
        there = column.clamp(0, rows.allowed.shape[-1] - 1).expand(*rows.allowed.shape[:3])
        known = rows.allowed.gather(-1, there[..., None])[..., 0] & (column == there)
        mass = torch.where(known, rows.mass(there), torch.nan)
        return Reading(mass, counts=known & rows.choice)


@dataclass(frozen=True)
class TopKeys(Statistic):
    """The keys that a head reads most, with their weights; its number is their joint weight.

    Attributes:
        k: How many.

    Raises:
        ValueError: If `k` is no whole number from 1 up.
    """

    k: int

    unit = SHARE

    def __post_init__(self):
        _check_whole("TopKeys", self.k, least=1)

    @property
    def name(self) -> str:  # type: ignore[override]
        """See `Statistic`."""
        return f"top_{self.k}"

    @property
    def label(self) -> str:  # type: ignore[override]
        """See `Statistic`."""
        return f"attention to the {self.k} strongest keys"

    def read(self, rows: Rows) -> Reading:
        """See `Statistic.read`; where fewer keys have a weight the rest are -1, of weight 0."""
        pattern, k_len = rows.pattern, rows.pattern.shape[-1]
        if pattern.device.type == "cpu" and k_len < _PARTIAL * self.k <= _WIDEST:
            # On the CPU torch sorts rows of that length in part, and shorter ones at twice the
            # cost; the columns that are added have no weight, and so no key.
            pattern = torch.nn.functional.pad(pattern, (0, _PARTIAL * self.k - k_len))
        weights, keys = pattern.topk(min(self.k, pattern.shape[-1]), dim=-1)
        keys = torch.where(weights == 0, -1, keys)
        lacking = (0, self.k - weights.shape[-1])
        weights = torch.nn.functional.pad(weights, lacking)
        keys = torch.nn.functional.pad(keys, lacking, value=-1)
        return Reading(weights.sum(dim=-1), weights=weights, keys=keys)


@dataclass(frozen=True)
class Distance(Statistic):
    """How far back a head reads, in places: the mean over what it reads."""

    name, label, unit = "distance", "mean distance (tokens)", "tokens"

    def read(self, rows: Rows) -> Reading:
        """See `Statistic.read`."""
        columns = torch.arange(rows.pattern.shape[-1], device=rows.pattern.device)
        back = (rows.place[:, None] - columns).to(rows.pattern.dtype)
        return Reading((rows.pattern * back).sum(dim=-1))


def _check_whole(what: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingError(f"{what} expects a whole number from {least} up; got {value!r}.")
