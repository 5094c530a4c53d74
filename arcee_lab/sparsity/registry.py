"""The analyses by name: what `measure(..., analyses=[...])` and `--analyses` take."""

from collections.abc import Iterable
from functools import cache
from importlib import import_module

from arcee_lab.sparsity.analysis import Analysis

# Streamed on a share of the windows: name -> module and class. The core is not listed: it always runs.
STREAMED = {
    "octaves": "arcee_lab.sparsity.octaves:Octaves",
    "unions": "arcee_lab.sparsity.unions:Unions",
    "overlap": "arcee_lab.sparsity.overlap:Overlap",
    "spikes": "arcee_lab.sparsity.spikes:Spikes",
    "losses": "arcee_lab.sparsity.losses:Losses",
    "predictors": "arcee_lab.sparsity.predictors:Predictors",
    "neighbours": "arcee_lab.sparsity.neighbours:Neighbours",
    "blocks": "arcee_lab.sparsity.blocks:Blocks",
}
# With forwards of their own, after the pass: name -> module with `run`; see `analysis`.
FURTHER: dict[str, str] = {}
GROUPS = {"core": (), "all": tuple(STREAMED), "further": tuple(FURTHER)}


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """The names that are meant, groups written out, in the order of the registry.

    Raises:
        ValueError: A single string in place of a list, or an unknown name.
    """
    if isinstance(names, str):
        raise ValueError(f"analyses is one string; expected a list, so pass [{names!r}]")
    wanted: set[str] = set()
    for name in names:
        if name not in STREAMED and name not in FURTHER and name not in GROUPS:
            known = ", ".join([*GROUPS, *STREAMED, *FURTHER])
            raise ValueError(f"no analysis is called {name!r}; expected some of {known}")
        wanted |= set(GROUPS.get(name, (name,)))
    return tuple(name for name in (*STREAMED, *FURTHER) if name in wanted)


@cache
def streamed(name: str) -> Analysis:
    """The streamed analysis of a name."""
    module, cls = STREAMED[name].split(":")
    return getattr(import_module(module), cls)()
