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

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.reading.exports import Export
from arcee_lab.dump.reading.exports.packing import PackedRows, pack
from arcee_lab.errors import SettingError
from arcee_lab.runs import storage

if TYPE_CHECKING:
    from arcee_lab.dump.reading.reader import Reader

_CUT = 1e-5  # delphi itself keeps no activation up to this
_HALF_MAX = torch.finfo(torch.float16).max


def write(
    store: "Reader",
    out: Path,
    sites: Sequence[str],
    *,
    context: int = 256,
    example: int = 32,
    splits: int = 5,
) -> Export:
    """Writes `latents/SITE/FIRST_LAST.safetensors` and a `config.json` per site.

    All documents follow one another in rows of `context` tokens; the tokens after the last full
    row are left out. So an example that delphi cuts from a row may begin with the end of another
    document, which the model did not read before it; how many do is stated.

    Activations are relu(u) in float16, not its square, whose range float16 lacks. As delphi does,
    values up to 1e-5 are left out. All losses are counted.

    Where the store was opened with a tokenizer, it is saved to `tokenizer/`, which is the
    `model_name` of the configs: delphi loads it without a request. Otherwise, or where the folder
    was moved since, give `LatentDataset` its `tokenizer=`.

    Args:
        store: The store.
        out: The folder; its `latents` is delphi's `raw_dir`.
        sites: The sites.
        context: Tokens per row, a multiple of `example`.
        example: Tokens of an example: the `example_ctx_len` that delphi is given.
        splits: Files per site; delphi reads a file whole.

    Raises:
        SettingError: Settings out of their range, or a store that does not fill one row.
    """
    if splits < 1:
        raise SettingError(f"splits is {splits}; expected at least 1.")
    if example < 1 or context % example:
        raise SettingError(
            f"context is {context} and example {example}; expected a context that is a multiple of "
            "the example, e.g. 256 and 32."
        )
    known = store.token_data()
    packed = pack(known, context)
    # The place of each token in the rows, counted through; -1 for what is in none.
    place = np.full(len(known), -1, dtype=np.int64)
    place[packed.tokens.reshape(-1)] = np.arange(packed.tokens.size)
    ids = known.ids[torch.from_numpy(packed.tokens)]

    files, tokenizer = _save_tokenizer(store, out)
    entries, dropped, rounded = 0, 0, 0
    for name in sites:
        site, _ = store.find(name)
        folder = out / "latents" / name
        folder.mkdir(parents=True)
        n_splits = min(splits, site.width)
        bounds = torch.linspace(0, site.width, steps=n_splits + 1).long().tolist()
        for first, stop in itertools.pairwise(bounds):
            latent, token, values = _nonzeros(store, site, first, stop)
            kept = (place[token] >= 0) & (values.double() > _CUT).numpy()
            latent, token, values = latent[kept], token[kept], values[torch.from_numpy(kept)]
            dropped += int((~kept).sum())
            half = values.clamp(max=_HALF_MAX).half()
            rounded += int((half.double() != values.double()).sum())
            where = np.stack([*np.divmod(place[token], context), latent], axis=1)
            narrow = where.size == 0 or where.max() < 2**16
            tensors = {
                "locations": torch.from_numpy(where.astype(np.uint16 if narrow else np.uint32)),
                "activations": half,
                "tokens": ids,
            }
            path = folder / f"{first}_{stop - 1}.safetensors"
            storage.write_atomic(path, lambda part, tensors=tensors: save_file(tensors, part))
            files.append(path)
            entries += len(half)
        config = _config(store, packed, n_splits, tokenizer)
        files.append(storage.write_json(folder / "config.json", config))
    lost = {
        "tokens after the last full row": packed.n_left_out,
        "values up to 1e-5, at padding or after the last full row": dropped,
        "values rounded to float16": rounded,
        f"examples of {example} tokens that span two windows": packed.n_spanning(
            known.windows.numpy(), example
        ),
    }
    return Export("delphi", out, tuple(files), entries, lost)


def _save_tokenizer(store: "Reader", out: Path) -> tuple[list[Path], Path]:
    # An absolute path, which is never taken for a name on the Hub, whether it exists or not.
    folder = (out / "tokenizer").resolve()
    if hasattr(store.tokenizer, "save_pretrained"):
        store.tokenizer.save_pretrained(folder)
    made = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [out / "tokenizer" / name for name in made], folder


def _nonzeros(
    store: "Reader", site: StoredSite, first: int, stop: int
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Latent within the split, token, and value of its nonzeros."""
    parts = [
        store.units(site.name, number, slice(first, stop))
        for number in range(len(store.manifest.shards))
    ]
    rows = (
        sparse.concat_columns(parts)
        if parts
        else sparse.compress(np.zeros((0, 0), dtype=np.uint16))
    )
    return (
        rows.row,
        rows.index.astype(np.int64),
        sparse.from_bits(rows.values.copy(), site.torch_dtype),
    )


def _config(store: "Reader", packed: PackedRows, splits: int, tokenizer: Path) -> dict[str, object]:
    data, settings = store.manifest.data, store.manifest.settings
    return {
        "dataset_repo": str(data.get("name", "")),
        "dataset_split": str(data.get("split", "")),
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": settings.get("batch_size", 0),
        "cache_ctx_len": packed.tokens.shape[1],
        "n_tokens": packed.tokens.size,
        "n_splits": splits,
        "model_name": str(tokenizer),
    }
