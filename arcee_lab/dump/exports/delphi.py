"""The latent cache of delphi (EleutherAI), as its `LatentDataset` loads it.

Source of the format: Paulo et al., "Automatically Interpreting Millions of Features in Large
Language Models", arXiv:2410.13928, and the program's `LatentCache.save_splits`.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from arcee_lab import storage
from arcee_lab.dump import sparse
from arcee_lab.dump.exports import Export
from arcee_lab.dump.manifest import StoredSite

if TYPE_CHECKING:
    from arcee_lab.dump.store import Store

_CUT = 1e-5  # delphi itself keeps no activation up to this


def write(store: "Store", out: Path, sites: Sequence[str], *, splits: int = 5) -> Export:
    """Writes `latents/SITE/FIRST_LAST.safetensors` and a `config.json` a site.

    A row is a window of the store; shorter ones are filled with token 0, at which nothing fires.
    Activations are relu(u) in float16, not its square, whose range float16 lacks. As delphi does,
    values up to 1e-5 are left out; both losses are counted.

    Args:
        store: The store.
        out: The folder; its `latents` is delphi's `raw_dir`.
        sites: The sites.
        splits: Files a site; delphi reads a file whole.
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}; expected at least 1")
    known = store.token_data()
    _, row, counts = torch.unique_consecutive(
        known.windows, return_inverse=True, return_counts=True
    )
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(known)) - starts[row]
    context = int(counts.max()) if len(counts) else 0
    ids = torch.zeros(len(counts), context, dtype=torch.int32)
    ids[row, place] = known.ids
    attended = known.attended.numpy()

    files, entries, dropped, rounded = [], 0, 0, 0
    for name in sites:
        site, _ = store.find(name)
        folder = out / "latents" / name
        folder.mkdir(parents=True)
        n_splits = min(splits, site.width)
        bounds = torch.linspace(0, site.width, steps=n_splits + 1).long().tolist()
        for first, behind in itertools.pairwise(bounds):
            latent, token, values = _nonzeros(store, site, first, behind)
            kept = attended[token] & (values.abs().double() > _CUT).numpy()
            latent, token, values = latent[kept], token[kept], values[torch.from_numpy(kept)]
            dropped += int((~kept).sum())
            half = values.half()
            rounded += int((half.double() != values.double()).sum())
            where = np.stack([row.numpy()[token], place.numpy()[token], latent], axis=1)
            narrow = where.size == 0 or where.max() < 2**16
            tensors = {
                "locations": torch.from_numpy(where.astype(np.uint16 if narrow else np.uint32)),
                "activations": half,
                "tokens": ids,
            }
            path = folder / f"{first}_{behind - 1}.safetensors"
            storage.write_atomic(path, lambda part, tensors=tensors: save_file(tensors, part))
            files.append(path)
            entries += len(half)
        files.append(storage.write_json(folder / "config.json", _config(store, context, n_splits)))
    lost = {
        "values up to 1e-5, or at padding, left out": dropped,
        "values rounded to float16": rounded,
    }
    return Export("delphi", out, tuple(files), entries, lost)


def _nonzeros(
    store: "Store", site: StoredSite, first: int, behind: int
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Latent within the split, token, and value of its nonzeros."""
    parts = [
        store.units(site.name, number, slice(first, behind))
        for number in range(len(store.manifest.shards))
    ]
    rows = sparse.beside(parts) if parts else sparse.compress(np.zeros((0, 0), dtype=np.uint16))
    return (
        rows.row,
        rows.index.astype(np.int64),
        sparse.from_bits(rows.values.copy(), site.torch_dtype),
    )


def _config(store: "Store", context: int, splits: int) -> dict[str, object]:
    data, settings = store.manifest.data, store.manifest.settings
    return {
        "dataset_repo": str(data.get("name", "")),
        "dataset_split": str(data.get("split", "")),
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": settings.get("batch_size", 0),
        "cache_ctx_len": context,
        "n_tokens": len(store),
        "n_splits": splits,
        "model_name": store.manifest.model["name"],
    }
