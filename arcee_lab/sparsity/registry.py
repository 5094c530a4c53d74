"""The analyses by name: what `measure(..., analyses=[...])` and `--analyses` take."""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from arcee_lab.errors import SettingError
from arcee_lab.sparsity.streamed.analysis import Analysis

# Streamed on a share of the windows: name -> module and class. The core is none: it always runs.
STREAMED = {
    "unions": "arcee_lab.sparsity.streamed.unions:Unions",
    "overlap": "arcee_lab.sparsity.streamed.overlap:Overlap",
    "spikes": "arcee_lab.sparsity.streamed.spikes:Spikes",
    "concentration": "arcee_lab.sparsity.streamed.concentration:Concentration",
    "losses": "arcee_lab.sparsity.streamed.loss:Losses",
    "predictors": "arcee_lab.sparsity.streamed.predictors:Predictors",
    "low_rank": "arcee_lab.sparsity.streamed.predictors:LowRank",
    "neighbours": "arcee_lab.sparsity.streamed.across_layers:AcrossLayers",
    "blocks": "arcee_lab.sparsity.streamed.blocks:Blocks",
}
# With forward passes of their own, after the pass: name -> module and function; see `analysis`.
FURTHER: dict[str, str] = {
    "cett": "arcee_lab.sparsity.sampled._cett:cett",
    "cett_ppl": "arcee_lab.sparsity.sampled.cett_perplexity:cett_ppl",
    "truncation": "arcee_lab.sparsity.sampled.truncation:truncation",
}
# About how often each of these reads its sample; for the estimate before a run.
READINGS = {"cett": 3, "cett_ppl": 28, "truncation": 72}
# Takes long to prepare, so only when it is named.
_PREPARED = {"low_rank"}
GROUPS = {
    "core": (),
    "all": tuple(name for name in STREAMED if name not in _PREPARED),
    "further": tuple(FURTHER),
}


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """The names that are meant, groups written out, in the order of the registry.

    Raises:
        ValueError: A single string in place of a list, or an unknown name.
    """
    if isinstance(names, str):
        raise SettingError(f"analyses is one string; expected a list, so pass [{names!r}].")
    wanted: set[str] = set()
    for name in names:
        if name not in STREAMED and name not in FURTHER and name not in GROUPS:
            known = ", ".join([*GROUPS, *STREAMED, *FURTHER])
            raise SettingError(f"no analysis is called {name!r}; expected some of {known}.")
        wanted |= set(GROUPS.get(name, (name,)))
    return tuple(name for name in (*STREAMED, *FURTHER) if name in wanted)


def streamed(name: str) -> Analysis:
    """A new streamed analysis of a name; it may hold what it prepared for one pass."""
    return _found(STREAMED[name])()


def further(name: str) -> Callable[..., Any]:
    """The function of an analysis with forward passes of its own."""
    return _found(FURTHER[name])


def _found(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)
