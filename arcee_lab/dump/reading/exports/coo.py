"""Token, unit and value of each nonzero, in safetensors; exact."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.manifest import shard_path
from arcee_lab.dump.reading.exports import Export
from arcee_lab.runs import storage

if TYPE_CHECKING:
    from arcee_lab.dump.reading.reader import Reader


def write(store: "Reader", out: Path, sites: Sequence[str]) -> Export:
    """Writes, for each site, one file per shard: `indices` int64 [2, n], `values` and `shape` [2].

    The first row of `indices` are tokens, counted over the whole store, the second units. They are
    sorted, so `torch.sparse_coo_tensor(indices, values, tuple(shape), is_coalesced=True)` is the
    shard within a matrix of all tokens, and the matrices of all shards add up to the whole.
    """
    files, entries = [], 0
    for name in sites:
        site, _ = store.find(name)
        shape = torch.tensor([len(store), site.width])
        for number, shard in enumerate(store.manifest.shards):
            rows = store.span(name, number, 0, len(shard))
            tensors = {
                "indices": torch.stack(
                    [torch.from_numpy(rows.row + shard.start), torch.from_numpy(rows.index).long()]
                ),
                "values": sparse.from_bits(rows.values.copy(), site.torch_dtype),
                "shape": shape,
            }
            path = out / shard_path(name, number)
            path.parent.mkdir(exist_ok=True)
            storage.write_atomic(path, lambda part, tensors=tensors: save_file(tensors, part))
            files.append(path)
            entries += len(rows.values)
    return Export("coo", out, tuple(files), entries)
