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

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.dump.config import DumpConfig
    from arcee_lab.dump.integrity.checking import verify
    from arcee_lab.dump.integrity.repairing import repair
    from arcee_lab.dump.reading.store import Store, open
    from arcee_lab.dump.writing.job import plan, write

__all__ = [
    "DumpConfig",
    "Store",
    "open",
    "plan",
    "repair",
    "verify",
    "write",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "config": ("DumpConfig",),
        "integrity.checking": ("verify",),
        "integrity.repairing": ("repair",),
        "reading.store": ("Store", "open"),
        "writing.job": ("plan", "write"),
    },
)
