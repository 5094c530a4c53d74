"""Any statistic, apart for each label of a token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError, UnknownName
from arcee_lab.reducers.reducer import Reducer, State, check_counts, check_whole
from arcee_lab.reducers.running.result import ReducerResult, table_of

if TYPE_CHECKING:
    import pandas as pd

TOKENS = "tokens_by_group"  # last those in no group


class Groups(Mapping[int | str, Any], ReducerResult):
    """Results by label: its number, or its name where names were given.

    Attributes:
        names: The labels, in order.
        results: The result of each.
        counts: Tokens of each group, and last those in none.
        tokens: N, the tokens in any group.
    """

    def __init__(
        self,
        names: tuple[int | str, ...],
        results: tuple[Any, ...],
        counts: tuple[int, ...],
    ):
        self.names = names
        self.results = results
        self.counts = counts
        self.tokens = sum(counts[:-1])

    def __getitem__(self, name: int | str) -> Any:
        if name not in self.names:
            raise UnknownName(f"{name!r} is no group; groups are {list(self.names)[:8]}.")
        return self.results[self.names.index(name)]

    def __iter__(self) -> Iterator[int | str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def _ipython_key_completions_(self) -> list[int | str]:
        return list(self)

    @property
    def headline(self) -> str:
        several = zip(self.names[:6], self.counts, strict=False)
        shown = ", ".join(f"{name}: {count:,}" for name, count in several)
        more = ", ..." if len(self) > 6 else ""
        return (
            f"N = {self.tokens:,} tokens in {len(self)} groups ({shown}{more}), "
            f"{self.counts[-1]:,} in none"
        )

    def frame(self) -> "pd.DataFrame":
        """The rows of every group, with the column `group` before them."""
        import pandas as pd

        tables = []
        for name, result in self.items():
            table = table_of(result)
            table.insert(0, "group", name)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Grouped(Reducer):
    """A reducer kept apart for each label, e.g. a domain or a tag.

    Labels come from `stats.set_labels(tensor)`, called inside the block before each call of the
    model: whole numbers over the whole sequence. Tokens with another label are in no group.

    Attributes:
        reducer: What is kept for each group.
        groups: Labels are 0 to groups - 1.
        names: Names of the labels, in their order.

    Example:
        >>> import torch
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs sleep .", "Nipu likes olives ."], return_tensors="pt",
        ...                   padding=True)
        >>> by_text = al.reducers.Grouped(al.reducers.FiringRate(), groups=2)
        >>> with al.capture(model, {"layers.0.mlp.hook_post": by_text}) as stats:
        ...     stats.set_labels(torch.tensor([[0], [1]]).expand_as(batch["input_ids"]))
        ...     output = model(**batch)
        >>> stats["layers.0.mlp.hook_post"][1].tokens == batch["attention_mask"][1].sum()
        tensor(True)
    """

    reducer: Reducer
    groups: int
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.reducer, Reducer) or "labels" in self.reducer.asks:
            raise SettingError(f"{self.reducer!r}: expected a reducer that asks for no labels.")
        if self.reducer.first != "include":
            raise SettingError("Give first= to Grouped, not to the reducer in it.")
        check_whole("groups", self.groups, least=1)
        if self.names is not None:
            object.__setattr__(self, "names", tuple(self.names))
            if len(set(self.names)) != self.groups:
                raise SettingError(f"names={self.names}: expected {self.groups} different ones.")

    @property
    def asks(self) -> tuple[str, ...]:
        return ("labels", *self.reducer.asks)

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        state = self.reducer.init(shape, device)
        apart = {
            name: tensor.expand(self.groups, *tensor.shape).clone()
            for name, tensor in state.items()
        }
        return apart | {TOKENS: torch.zeros(self.groups + 1, dtype=torch.int64, device=device)}

    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_mask: Bool[Tensor, "batch pos"],
        *,
        labels: Int[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        groups = torch.arange(self.groups, device=labels.device)[:, None, None]
        masks = (labels == groups) & token_mask
        counts = masks.sum((1, 2))
        state[TOKENS] += torch.cat([counts, (token_mask.sum() - counts.sum())[None]])
        inner = {name: tensor for name, tensor in state.items() if name != TOKENS}
        self.reducer.update_groups(inner, x, masks, **asked)

    def merge(self, a: State, b: State) -> State:
        merged = [
            self.reducer.merge(one, other)
            for one, other in zip(self._apart(a), self._apart(b), strict=True)
        ]
        together = {name: torch.stack([one[name] for one in merged]) for name in merged[0]}
        return together | {TOKENS: a[TOKENS] + b[TOKENS]}

    def finalize(self, state: State) -> Groups:
        results = tuple(self.reducer.finalize(one) for one in self._apart(state))
        names: tuple[int | str, ...] = tuple(self.names or range(self.groups))
        return Groups(names, results, tuple(state[TOKENS].tolist()))

    def check(self, state: State) -> None:
        check_counts({TOKENS: state[TOKENS]})
        for one in self._apart(state):
            self.reducer.check(one)

    def _apart(self, state: State) -> list[State]:
        inner = {name: tensor for name, tensor in state.items() if name != TOKENS}
        return [{name: x[group] for name, x in inner.items()} for group in range(self.groups)]
