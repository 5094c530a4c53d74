"""Statistics of the sites of one model: what a block of reducers found, or what a file held."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint
from arcee_lab.reducers.reducer import Reducer, ReducerSpec, State
from arcee_lab.reducers.running import files
from arcee_lab.reducers.running.result import ReducerResult, table_of
from arcee_lab.results import Result, counted, page
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.ranks import Ranks
from arcee_lab.sites import Legend

if TYPE_CHECKING:
    import pandas as pd

_SAME = "what has to be the same on all ranks"


class Statistics(Result, Mapping[str, Any]):
    """Canonical site name -> result, or tuple of results where several reducers were asked for.

    Any accepted spelling indexes it; iteration gives canonical names in forward order.

    Attributes:
        legend: Names and order of the model's hook points.
        requests: Site -> its reducer, or tuple of reducers.
        shapes: Site -> shape of one token's activation.
        states: Site -> the state of each of its reducers; a site without a forward is missing.
        progress: What `save` was given, of statistics that were loaded.

    Args:
        model: It, which is not kept alive, or its fingerprint.
    """

    def __init__(
        self,
        legend: Legend,
        requests: Mapping[str, ReducerSpec],
        shapes: Mapping[str, tuple[int, ...]],
        states: Mapping[str, tuple[State, ...]],
        *,
        model: str | nn.Module,
        progress: Mapping[str, Any] | None = None,
    ):
        self.legend = legend
        self.requests = dict(requests)
        self.shapes = dict(shapes)
        self.states = dict(states)
        self.progress = dict(progress or {})
        self._model = model if isinstance(model, str) else weakref.ref(model)

    @property
    def fingerprint(self) -> str:
        """Of the model; every weight is read for it. `merge`, `gather` and `save` ask for it.

        Of a tensor-parallel model every rank has to ask, else they wait for each other.

        Raises:
            ValueError: If the model has been deleted since; see `identify`.
        """
        if isinstance(self._model, str):
            return self._model
        model = self._model()
        if model is None:
            raise SettingError(
                "The model of these statistics was deleted before its fingerprint was taken; load "
                "it again and call stats.identify(model), or save before the model goes."
            )
        return model_fingerprint(model)

    def identify(self, model: nn.Module) -> None:
        """Says of which model these are, where that model was deleted and loaded again.

        Args:
            model: With the same weights.

        Raises:
            ValueError: If it has other hook points.
        """
        anatomy = anatomy_of(model)
        if anatomy.legend != self.legend:
            raise SettingError(
                f"The statistics are of a model of {self.legend.n_layers} layers with the head "
                f"{self.legend.head!r}; got {anatomy.legend.n_layers} and {anatomy.legend.head!r}."
            )
        self._model = weakref.ref(anatomy.model)

    def __getitem__(self, name: str) -> Any:
        self._check_whole()
        site = self.legend.key(name, self.requests, are="reduced")
        if site not in self.states:
            raise SettingError(f"{site} has not fired yet: call the model inside the block first.")
        results = tuple(
            reducer.finalize({name: tensor.cpu().clone() for name, tensor in state.items()})
            for reducer, state in zip(self.reducers(site), self.states[site], strict=True)
        )
        return results[0] if isinstance(self.requests[site], Reducer) else results

    def __iter__(self) -> Iterator[str]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self.legend.canonical(name) in self.requests
        except ValueError:
            return False

    def reducers(self, name: str) -> tuple[Reducer, ...]:
        """The reducers of a site, in the order asked for."""
        spec = self.requests[self.legend.canonical(name)]
        return (spec,) if isinstance(spec, Reducer) else spec

    # ------------------------------------------------------------------ putting together

    def merge(self, *others: "Statistics") -> "Statistics":
        """The statistics of all tokens of this one, then of the others; none is changed.

        Raises:
            ValueError: If the sites, reducers or model of another differ.
        """
        self._check_whole()
        word = self.fingerprint
        for other in others:
            other._check_whole()
            self._check_same(other, word)
        states = dict(self.states)
        for other in others:
            for site, theirs in other.states.items():
                mine = states.get(site)
                states[site] = theirs if mine is None else self._merged(site, mine, theirs)
        copies = {
            site: tuple({name: x.clone() for name, x in state.items()} for state in states[site])
            for site in self
            if site in states
        }
        return Statistics(self.legend, self.requests, self.shapes, copies, model=word)

    def gather(self, ranks: Ranks) -> "Statistics":
        """The statistics of all ranks of a job, each of which ran texts of its own; on every rank.

        Args:
            ranks: From `arcee_lab.runs.ranks.joined`.

        Raises:
            ValueError: If a rank has other sites, reducers or another model.
        """
        self._check_whole()
        names = [
            (site, number, name)
            for site in self.requests
            for number, reducer in enumerate(self.reducers(site))
            for name in reducer.init(self.shapes[site], torch.device("meta"))
        ]
        word = self.fingerprint
        same = bytearray(f"{word} {self.legend} {self.requests}".encode())
        mine = {_SAME: torch.frombuffer(same, dtype=torch.uint8)}
        for site, number, name in names:
            if site in self.states:
                mine[f"{site}/{number}/{name}"] = self.states[site][number][name]
        found = ranks.gather(mine)
        for number, tensors in enumerate(found):
            if not torch.equal(tensors[_SAME], mine[_SAME]):
                raise SettingError(
                    f"Rank {number} has statistics of another model, or of other sites or "
                    f"reducers, than rank {ranks.rank}. Run the same on all."
                )
        of_ranks = [
            Statistics(
                self.legend, self.requests, self.shapes, self._states_in(tensors), model=word
            )
            for tensors in found
        ]
        return of_ranks[0].merge(*of_ranks[1:])

    def save(self, folder: str | Path, *, progress: Mapping[str, Any] | None = None) -> Path:
        """Writes the states, so that another process can go on: safetensors, and JSON next to it.

        It may be called again and again, also inside the block: a crash leaves the former state or
        the new one, with its own `progress`.

        Args:
            folder: A new or empty folder, or one that holds earlier statistics of the same model,
                sites and reducers.
            progress: JSON values to keep with them, e.g. how many texts were read.

        Returns:
            The JSON file.

        Raises:
            ValueError: The folder holds something else.
        """
        self._check_whole()
        kept = files.SavedStatistics(
            self.legend, self.requests, self.shapes, self.states, self.fingerprint, progress or {}
        )
        return files.write(kept, Path(folder))

    def _check_whole(self) -> None:
        """Refuses statistics of which some sites counted other tokens than the rest."""

    def _merged(
        self, site: str, mine: tuple[State, ...], theirs: tuple[State, ...]
    ) -> tuple[State, ...]:
        return tuple(
            reducer.merge(a, {name: tensor.to(a[name]) for name, tensor in b.items()})
            for reducer, a, b in zip(self.reducers(site), mine, theirs, strict=True)
        )

    def _states_in(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[State, ...]]:
        states: dict[str, list[State]] = {}
        for full, tensor in tensors.items():
            if full == _SAME:
                continue
            site, number, name = full.split("/", 2)
            of_site = states.setdefault(site, [{} for _ in self.reducers(site)])
            of_site[int(number)][name] = tensor
        return {site: tuple(states[site]) for site in self if site in states}

    def _check_same(self, other: "Statistics", word: str) -> None:
        if list(self) != list(other):
            strange = set(self).symmetric_difference(other)
            raise SettingError(
                f"Statistics of other sites: {sorted(strange)[0]!r} is in one and not in the "
                "other. Merge what was asked for with the same filters."
            )
        for site in self:
            if self.requests[site] != other.requests[site]:
                raise SettingError(
                    f"{site} was reduced by {other.requests[site]!r}; expected "
                    f"{self.requests[site]!r}, as here."
                )
        same = self.legend == other.legend and self.shapes == other.shapes
        if not same or word != other.fingerprint:
            raise SettingError(
                "Statistics of another model: its shape or its weights differ. Merge what one "
                "model gave, in one dtype."
            )

    # ------------------------------------------------------------------ reading

    def frame(self, which: int = 0) -> "pd.DataFrame":
        """The rows of all sites, with the columns `site` and `layer` before them.

        Args:
            which: Of several reducers at a site, the number of the one meant.

        Raises:
            ValueError: If the sites have reducers of different kinds, fewer than that, or one
                whose result has no frame.
        """
        import pandas as pd

        fewest = min(len(self.reducers(site)) for site in self)
        if not 0 <= which < fewest:
            raise SettingError(
                f"which={which}: expected 0 to {fewest - 1}, a reducer of every site."
            )
        kinds = {type(self.reducers(site)[which]).__name__ for site in self}
        if len(kinds) > 1:
            raise SettingError(
                f"The sites have reducers of different kinds ({', '.join(sorted(kinds))}), which "
                "make no one table. Take stats[site].frame()."
            )
        tables = []
        for site, found in self.items():
            result = found[which] if isinstance(found, tuple) else found
            table = table_of(result)
            table.insert(0, "site", site)
            if site.startswith("layers."):
                table.insert(1, "layer", int(site.split(".")[1]))
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    @property
    def headline(self) -> str:
        """How many sites, and what was kept of them; each site has an N of its own."""
        kinds = {type(one).__name__: None for site in self for one in self.reducers(site)}
        return f"Statistics of {counted(len(self), 'site')}: {', '.join(kinds)}"

    def __repr__(self) -> str:
        lines = [self.headline]
        lines += [f"  {site}: {self._headline(site)}" for site in list(self)[:6]]
        return "\n".join(lines + (["  ..."] if len(self) > 6 else []))

    def _repr_html_(self) -> str:
        import pandas as pd

        tokens = {one.tokens for site in self for one in self._found(site)}
        same = len(tokens) == 1 and all(site in self.states for site in self)
        rows = [{"site": site, **self._facts(site, tokens=not same)} for site in self]
        n = f"; N = {counted(tokens.pop(), 'token')}" if same else ""
        return page(f"{self.headline}{n}", pd.DataFrame(rows).fillna(""))

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _found(self, site: str) -> list[ReducerResult]:
        """What the reducers of a site found, without those of the user's own."""
        found = self[site] if site in self.states else ()
        results = found if isinstance(found, tuple) else (found,)
        return [one for one in results if isinstance(one, ReducerResult)]

    def _facts(self, site: str, *, tokens: bool) -> dict[str, str]:
        """The cells of a site's row: numbers where all its reducers have some, else a sentence."""
        results = self._found(site)
        if len(results) < len(self.reducers(site)) or not all(one.facts for one in results):
            return {"found": self._headline(site)}
        row = {"tokens": f"{results[0].tokens:,}"} if tokens else {}
        for one in results:
            row |= one.facts
        return row

    def _headline(self, site: str) -> str:
        if site not in self.states:
            return "nothing yet"
        found = self[site]
        results = found if isinstance(self.requests[site], tuple) else (found,)
        return "; ".join(
            result.headline if isinstance(result, ReducerResult) else repr(result)
            for result in results
        )


@checked
def load(folder: str | Path, *, reducers: Iterable[type[Reducer]] = ()) -> Statistics:
    """Reads what `Statistics.save` wrote, to read from it, or to go on with it by `merge`.

    Args:
        folder: Where they are.
        reducers: Your own classes of reducers that were used.

    Raises:
        ValueError: The folder holds no statistics, or they are damaged: every name, shape, dtype
            and bound is checked before a tensor is read, and every state before it is used.

    Example:
        >>> import tempfile
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> requests = {"layers.*.mlp.hook_post": al.reducers.FiringRate()}
        >>> with al.capture(model, requests) as stats:
        ...     output = model(**tokenizer("The dogs sleep .", return_tensors="pt"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = stats.save(folder)
        ...     twice = al.reducers.load(folder).merge(stats)
        >>> twice["layers.0.mlp.hook_post"].tokens == 2 * stats["layers.0.mlp.hook_post"].tokens
        True
    """
    found = files.read(Path(folder), reducers=reducers)
    return Statistics(
        found.legend,
        found.requests,
        found.shapes,
        found.states,
        model=found.fingerprint,
        progress=found.progress,
    )
