"""What a report gives by name: its results, tables and figures, each built when it is asked for."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pandas as pd

from arcee_lab.errors import UnknownName
from arcee_lab.results import Result
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.coverage import Coverage
from arcee_lab.sparsity.core.positions import Positions
from arcee_lab.sparsity.core.savings import Saving, Weights
from arcee_lab.sparsity.core.state import State
from arcee_lab.sparsity.core.thresholds import Thresholds
from arcee_lab.sparsity.core.token_ids import Vocabulary
from arcee_lab.sparsity.report import figures, tables
from arcee_lab.sparsity.streamed.predictors import PredictorsResult

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

Item = TypeVar("Item")
FROM_COUNTS = ("coverage", "thresholds", "positions", "ids", "saving")


class _ByName(Mapping[str, Item], Generic[Item]):
    """A read-only mapping whose items are built on access; its keys complete in notebooks."""

    kind = "item"

    @abstractmethod
    def _names(self) -> tuple[str, ...]:
        """The keys, in order."""

    @abstractmethod
    def _build(self, name: str) -> Item:
        """The item of a name that exists."""

    def __getitem__(self, name: str) -> Item:
        names = self._names()
        if name in names:
            return self._build(name)
        if name in registry.STREAMED or name in registry.FURTHER:
            raise UnknownName(
                f"{name!r} was not measured; ask for it with measure(..., analyses=[{name!r}])."
            )
        raise UnknownName(
            f"The report has no {self.kind} {name!r}; expected one of {', '.join(names)}."
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._names())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._names())})"


class Results(_ByName[Result]):
    """Every result by name: of the core, of the streamed analyses, and the further ones.

    Args:
        states: What was counted, by analysis.
        further: Results of analyses with forward passes of their own.
        weights: What a token reads of the model.
    """

    kind = "result"

    def __init__(
        self, states: Mapping[str, State], further: Mapping[str, Result], weights: Weights
    ):
        self.counts = CoreCounts(states["core"])
        self.further = further
        self._states = states
        self._weights = weights
        self._built: dict[str, Result] = {}

    def _names(self) -> tuple[str, ...]:
        streamed = (name for name in self._states if name != "core")
        return (*FROM_COUNTS[:-1], *streamed, FROM_COUNTS[-1], *self.further)

    def _build(self, name: str) -> Result:
        if name not in self._built:
            self._built[name] = self._made(name)
        return self._built[name]

    def _made(self, name: str) -> Result:
        counts = self.counts
        state, d_mlp = counts.state, counts.fired.shape[1]
        core: dict[str, Callable[[], Result]] = {
            "coverage": lambda: Coverage.from_rates(counts.rates.numpy(), counts.n_tokens),
            "thresholds": lambda: Thresholds(counts.sized, d_mlp, counts.n_tokens),
            "positions": lambda: Positions.from_counts(
                state["position_active"].numpy(), state["position_tokens"].numpy(), d_mlp
            ),
            "ids": lambda: Vocabulary.from_counts(
                state["id_active"].numpy(), state["id_tokens"].numpy(), d_mlp
            ),
            "saving": self._saving,
        }
        if name in core:
            return core[name]()
        if name in self.further:
            return self.further[name]
        return registry.streamed(name).result(self._states[name], counts)

    def _saving(self) -> Saving:
        batches, used = np.array([1]), np.array([1 - self.counts.zeros.mean().item()])
        unions: Any = self["unions"] if "unions" in self._states else None
        if unions is not None and len(unions.sizes) > 1:
            # One sequence is known from all N tokens; several only from the kept ones.
            batches = unions.sizes
            used = np.concatenate([used, unions.across.value[1:].mean(1)])
        return Saving(self._weights, batches, used)


class Frames(_ByName[pd.DataFrame]):
    """Tables by name, one for every result and four more.

    `layers` has one row per layer, `neurons` one row per neuron, `tokens` the active neurons at
    each of the first 131,072 tokens, and `costs` the seconds per analysis.

    Args:
        results: The results.
        costs: Seconds per analysis; "pass" is the pass as a whole.
        n_sampled: N of the analyses that look at the sample.
    """

    kind = "table"

    def __init__(self, results: Results, costs: Mapping[str, float], n_sampled: int):
        self._results = results
        self._spent = costs
        self._n_sampled = n_sampled

    def _names(self) -> tuple[str, ...]:
        return (*tables.PLAIN, *self._results)

    def _build(self, name: str) -> pd.DataFrame:
        plain: dict[str, Callable[[], pd.DataFrame]] = {
            "layers": lambda: tables.layers(self._results.counts),
            "neurons": lambda: tables.neurons(self._results.counts),
            "tokens": lambda: tables.tokens(self._results.counts),
            "costs": self._costs,
        }
        return plain[name]() if name in plain else self._results[name].frame()

    def _costs(self) -> pd.DataFrame:
        sampled = dict(self._results.further) | {
            name: result
            for name, result in self._results.items()
            if isinstance(result, PredictorsResult)
        }
        n_tokens = self._results.counts.n_tokens
        return tables.costs(self._spent, sampled, n_tokens=n_tokens, n_sampled=self._n_sampled)


class Figures(_ByName["Figure"]):
    """Figures by name, one for every result and three more; `draw` takes options.

    `layers` shows exact zeros by layer, `rates` how often neurons fire, and `tokens` the active
    neurons by layer and token.

    Args:
        results: The results.
    """

    kind = "figure"

    def __init__(self, results: Results):
        self._results = results

    def draw(self, name: str, *, dark: bool = False, **options: Any) -> "Figure":
        """One figure with options.

        Args:
            name: A key of this mapping.
            dark: For a dark page.
            **options: Of that figure: `start=` and `most=` of `tokens`, or what the result's
                `figure` takes, such as `what=` of `truncation`.

        Raises:
            UnknownName: No such figure, or an analysis that was not asked for.
        """
        plain = {"layers": figures.layers, "rates": figures.rates, "tokens": figures.tokens}
        if name in plain:
            return plain[name](self._results.counts, dark=dark, **options)
        return self._results[name].figure(dark=dark, **options)

    def _names(self) -> tuple[str, ...]:
        return (*figures.PLAIN, *self._results)

    def _build(self, name: str) -> "Figure":
        return self.draw(name)
