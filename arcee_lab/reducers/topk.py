"""The largest values of each unit, and the tokens at which they stand."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.reducers.reducer import Reducer, State, check_whole
from arcee_lab.reducers.running import largest_on_cpu
from arcee_lab.reducers.running.chunks import pieces
from arcee_lab.reducers.running.result import ReducerResult, unit_columns

if TYPE_CHECKING:
    import pandas as pd

_LISTS = ("values", "rows", "positions")
_POSITION_BITS = 31  # more than any context has


@dataclass(frozen=True, repr=False)
class Largest(ReducerResult):
    """The largest values of each unit, falling; see `TopK` for the order of equal ones.

    Attributes:
        tokens: N, the tokens that were counted.
        rows_read: Sequences that were read.
        values: -inf where there were fewer tokens than places.
        rows: The sequence, numbered from 0 in the order read; -1 where there is none. A call with a
            cache goes on with the last ones, whoever filled the cache.
        positions: The token in it, numbered from 0 and without padding; -1 where there is none.
    """

    tokens: int
    rows_read: int
    values: Float[Tensor, "*features k"]
    rows: Int[Tensor, "*features k"]
    positions: Int[Tensor, "*features k"]

    @property
    def headline(self) -> str:
        units, k = self.values[..., 0].numel(), self.values.shape[-1]
        return (
            f"N = {self.tokens:,} tokens in {self.rows_read:,} sequences, the {k} largest values "
            f"of {units:,} units"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {
            "units": f"{self.values[..., 0].numel():,}",
            "largest value": f"{float(self.values.max()):.4g}",
            "kept of each unit": f"{self.values.shape[-1]:,}",
        }

    def frame(self) -> "pd.DataFrame":
        """One row per value: unit, rank (from 0), value, row, position."""
        import pandas as pd

        k = self.values.shape[-1]
        units = unit_columns(tuple(self.values.shape[:-1]))
        table = pd.DataFrame(
            {name: numbers.repeat(k) for name, numbers in units.items()}
            | {
                "rank": torch.arange(k).repeat(self.values.numel() // k).numpy(),
                "value": self.values.flatten().numpy(),
                "row": self.rows.flatten().numpy(),
                "position": self.positions.flatten().numpy(),
            }
        )
        return table.query("row >= 0").reset_index(drop=True)


@dataclass(frozen=True)
class TopK(Reducer):
    """Keeps the largest values of each unit, and where they stand: sequence and token.

    Of equal values the one in the smaller row comes first, then the one at the smaller position.
    This is an order of all tokens, so the result does not depend on how sequences were batched.

    Values are kept in fp32, which holds those of half precision exactly. NaN counts as larger than
    all else, so that it shows. A unit that never fires has its zeros at the first tokens.

    Attributes:
        k: Values per unit.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> with al.capture(model, {"layers.0.mlp.hook_post": al.reducers.TopK(2)}) as stats:
        ...     output = model(**batch)
        >>> best = stats["layers.0.mlp.hook_post"]
        >>> bool((best.values[:, 0] >= best.values[:, 1]).all())
        True
    """

    k: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("k", self.k, least=1)

    @property
    def asks(self) -> tuple[str, ...]:
        return ("positions", "seen")

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        size = (*shape, self.k)
        return {
            "values": torch.full(size, -torch.inf, dtype=torch.float32, device=device),
            "rows": torch.full(size, -1, dtype=torch.int64, device=device),
            "positions": torch.full(size, -1, dtype=torch.int64, device=device),
            "rows_read": torch.zeros((), dtype=torch.int64, device=device),
            "tokens": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_mask: Bool[Tensor, "batch pos"],
        *,
        positions: Int[Tensor, "batch pos"],
        seen: int | Tensor,
        **asked: Any,
    ) -> None:
        batch, length = token_mask.shape
        # The next call of the same sequences, with a cache, brings no new ones; but the cache may
        # have been filled before there was a state.
        fresh = (seen == 0).long() if isinstance(seen, Tensor) else int(seen == 0)
        state["rows_read"].add_(batch * fresh).clamp_(min=batch)
        state["tokens"] += token_mask.sum()
        rows = torch.arange(batch, device=x.device) - batch + state["rows_read"]
        row_of = rows[:, None].expand(batch, length).flatten()
        position_of, start = positions.flatten(), 0
        views = {name: state[name].view(-1, self.k) for name in _LISTS}
        # Without a cache all rows are new, so that an equal value enters no full list.
        flat = x.flatten(0, 1).flatten(1)
        apart = isinstance(seen, int) and seen == 0
        if (
            apart
            and largest_on_cpu.fits(flat, token_mask, self.k)
            and largest_on_cpu.add_largest(views, flat, token_mask, row_of, position_of)
        ):
            return
        for piece, mask in pieces(x, token_mask):
            span = slice(start, start + len(piece))
            start += len(piece)
            values, index = _largest(
                torch.where(mask[:, None], piece.float(), -torch.inf).t(), self.k
            )
            there = mask[index]
            found = {
                "values": values,
                "rows": torch.where(there, row_of[span][index], -1),
                "positions": torch.where(there, position_of[span][index], -1),
            }
            for name, tensor in self._best(views, found).items():
                views[name].copy_(tensor)

    def merge(self, a: State, b: State) -> State:
        later = torch.where(b["rows"] >= 0, b["rows"] + a["rows_read"], -1)
        return self._best(a, {**b, "rows": later}) | {
            name: a[name] + b[name] for name in ("rows_read", "tokens")
        }

    def finalize(self, state: State) -> Largest:
        where = {name: state[name] for name in _LISTS}
        return Largest(int(state["tokens"]), int(state["rows_read"]), **where)

    def check(self, state: State) -> None:
        values, rows, positions = state["values"], state["rows"], state["positions"]
        if state["tokens"] < 0 or state["rows_read"] < 0:
            raise SettingError("tokens or rows_read is negative")
        if (rows < -1).any() or (rows >= state["rows_read"]).any() or (positions < -1).any():
            raise SettingError("rows or positions point outside of what was read")
        if ((rows < 0) != (positions < 0)).any() or (values[rows < 0] != -torch.inf).any():
            raise SettingError("values, rows and positions do not fit each other")
        if (_ordered(values).diff(dim=-1) > 0).any():
            raise SettingError("values do not fall")

    def _best(self, a: State, b: State) -> State:
        """The largest of two lists; of equal values the smaller row, then the smaller position."""
        both = {name: torch.cat([a[name], b[name]], dim=-1) for name in _LISTS}
        place = (both["rows"] << _POSITION_BITS) | both["positions"]
        place = torch.where(both["rows"] < 0, torch.iinfo(torch.int64).max, place)
        order = place.argsort(dim=-1)
        both = {name: tensor.gather(-1, order) for name, tensor in both.items()}
        _, index = _largest(both["values"], self.k)
        return {name: tensor.gather(-1, index) for name, tensor in both.items()}


def _ordered(values: Float[Tensor, "*rest"]) -> Int[Tensor, "*rest"]:
    """Whole numbers of 32 bits that stand in the order of fp32 values; NaN is the largest."""
    plain = torch.where(values.isnan(), torch.nan, values + 0.0)  # one NaN, one zero
    bits = plain.view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _largest(
    values: Float[Tensor, "*rest place"], k: int
) -> tuple[Float[Tensor, "*rest k"], Int[Tensor, "*rest k"]]:
    """The k largest along the last axis, of equal ones the first, and their places."""
    # topk alone leaves open which of equal values it takes.
    places = torch.arange(values.shape[-1], device=values.device)
    keys = (_ordered(values) << 32) - places
    index = keys.topk(min(k, values.shape[-1]), dim=-1).indices
    return values.gather(-1, index), index
