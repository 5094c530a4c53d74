"""Activation stores: exact values, sparse on disk, safe to interrupt, fast to query.

`write` dumps the activations of many hook points, `plan` estimates a dump, `open` reads a store,
`verify` checks it and `repair` computes damaged files again.

config     what to dump; the same fields are the flags of `arcee-lab dump`
writing    a dump in progress: batches, recorder, writer threads, shards, resuming
format     the files: manifest, shards, layouts, sparse encodings
folders    local or remote folders, one writer at a time
integrity  `verify` and `repair`
reading    `open`: queries by neuron and by token, statistics, data sets, exports
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.dump.config import DumpConfig
    from arcee_lab.dump.integrity.checking import verify
    from arcee_lab.dump.integrity.repairing import repair
    from arcee_lab.dump.reading.store import Store, open
    from arcee_lab.dump.writing.job import plan, write
    from arcee_lab.dump.writing.tags import Tag

__all__ = [
    "DumpConfig",
    "Store",
    "Tag",
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
        "writing.tags": ("Tag",),
    },
)
