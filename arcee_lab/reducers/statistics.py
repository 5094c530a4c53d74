"""Statistics of the sites of one model: what a block of reducers found, or what a file held."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from arcee_lab.reducers.reducer import Reducer, State
from arcee_lab.reducers.result import Result
from arcee_lab.sites import Legend

if TYPE_CHECKING:
    import pandas as pd

# What is reduced at a site: one reducer, or several.
Asked = Reducer | tuple[Reducer, ...]


class Statistics(Mapping[str, Any]):
    """Canonical site name -> result, or tuple of results where several reducers were asked for.

    Any accepted spelling indexes it; iteration gives canonical names in forward order.

    Attributes:
        legend: Names and order of the model's hook points.
        asked: Site -> its reducer, or tuple of reducers.
        states: Site -> the state of each of its reducers.
    """

    def __init__(
        self, legend: Legend, asked: Mapping[str, Asked], states: Mapping[str, tuple[State, ...]]
    ):
        self.legend = legend
        self.asked = dict(asked)
        self.states = dict(states)

    def __getitem__(self, name: str) -> Any:
        site = self.legend.canonical(name)
        if site not in self.asked:
            raise KeyError(f"{site} was not reduced; reduced are {list(self)[:4]} ...")
        if site not in self.states:
            raise ValueError(f"{site} has not fired yet: call the model inside the block first.")
        results = tuple(
            reducer.finalize({name: tensor.cpu().clone() for name, tensor in state.items()})
            for reducer, state in zip(self.reducers(site), self.states[site], strict=True)
        )
        return results[0] if isinstance(self.asked[site], Reducer) else results

    def __iter__(self) -> Iterator[str]:
        return iter(self.asked)

    def __len__(self) -> int:
        return len(self.asked)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self.legend.canonical(name) in self.asked
        except ValueError:
            return False

    def reducers(self, name: str) -> tuple[Reducer, ...]:
        """The reducers of a site, in the order asked for."""
        asked = self.asked[self.legend.canonical(name)]
        return (asked,) if isinstance(asked, Reducer) else asked

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of all tokens of this, then of the other; neither is changed.

        Raises:
            ValueError: If the other's sites, reducers or model differ.
        """
        self._check_same(other)
        states = {}
        for site in self:
            mine, theirs = self.states.get(site), other.states.get(site)
            if mine is None or theirs is None:  # no forward yet
                if mine or theirs:
                    states[site] = tuple(dict(state) for state in mine or theirs or ())
                continue
            states[site] = tuple(
                reducer.merge(a, {name: tensor.to(a[name].device) for name, tensor in b.items()})
                for reducer, a, b in zip(self.reducers(site), mine, theirs, strict=True)
            )
        return Statistics(self.legend, self.asked, states)

    def frame(self, which: int = 0) -> "pd.DataFrame":
        """The rows of all sites, with the columns `site` and `layer` before them.

        Args:
            which: Of several reducers at a site, the number of the one meant.
        """
        import pandas as pd

        tables = []
        for site, found in self.items():
            result = found[which] if isinstance(found, tuple) else found
            table = result.frame()
            table.insert(0, "site", site)
            if site.startswith("layers."):
                table.insert(1, "layer", int(site.split(".")[1]))
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def __repr__(self) -> str:
        lines = [f"Statistics of {len(self)} sites"]
        lines += [f"  {site}: {self._headline(site)}" for site in list(self)[:6]]
        return "\n".join(lines + (["  ..."] if len(self) > 6 else []))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(site)}</td><td>{escape(self._headline(site))}</td></tr>"
            for site in self
        )
        return f"<table><tr><th>site</th><th>found</th></tr>{rows}</table>"

    def _headline(self, site: str) -> str:
        if site not in self.states:
            return "nothing yet"
        found = self[site]
        results = found if isinstance(self.asked[site], tuple) else (found,)
        return "; ".join(
            result.headline if isinstance(result, Result) else repr(result) for result in results
        )

    def _check_same(self, other: "Statistics") -> None:
        if self.legend != other.legend:
            raise ValueError(
                f"Statistics of another model: {_shape(other)}; expected {_shape(self)}, as here."
            )
        if list(self) != list(other):
            strange = set(self).symmetric_difference(other)
            raise ValueError(
                f"Statistics of other sites: {sorted(strange)[0]!r} is in one and not in the "
                "other. Merge what was asked for with the same filters."
            )
        for site in self:
            if self.asked[site] != other.asked[site]:
                raise ValueError(
                    f"{site} was reduced by {other.asked[site]!r}; expected {self.asked[site]!r}, "
                    "as here."
                )


def _shape(statistics: Statistics) -> str:
    return f"{statistics.legend.n_layers} layers and the head {statistics.legend.head!r}"
