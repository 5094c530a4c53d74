"""Activation stores: small, exact, hard to break, quick to ask.

Writing
    config     what to dump, the same for Python and the command line
    batching   which windows go into which batch and shard: a pure function
    sink       the activations of a forward, handed on as they appear
    conveyor   threads that convert and write meanwhile, with a bound on what waits
    filling    one shard being filled
    job        a dump: `write`, `plan`
    resuming   what a killed run left, and who may go on with it
    provenance what a store says of where it came from
Files
    sparse, int8, block, layouts    a site's activations as tensors, exactly
    tokens, manifest, shards        what is known of each token; what lies where
    folder, remote, lock            local or remote, and one writer at a time
    checking, repairing             `verify`, `repair`
Reading
    store      `open`: by neuron, by token, as frames
    firings, stats, dataset, exports
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arcee_lab.dump.config import DumpConfig
    from arcee_lab.dump.integrity.checking import verify
    from arcee_lab.dump.integrity.repairing import repair
    from arcee_lab.dump.reading.store import Store, open
    from arcee_lab.dump.writing.job import plan, write

__all__ = ["DumpConfig", "Store", "open", "plan", "repair", "verify", "write"]

# Loaded at first use: the command line reads `config` and must not wait for torch.
_HOMES = {
    "DumpConfig": "config",
    "Store": "store",
    "open": "store",
    "plan": "job",
    "repair": "repairing",
    "verify": "checking",
    "write": "job",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"arcee_lab.dump.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'arcee_lab.dump' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
