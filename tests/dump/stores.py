"""Little stores of known content."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import torch

TAG = "topic"


@dataclass(frozen=True)
class Known:
    """A store on disk and what it must give back."""

    folder: Path
    manifest: object
    acts: dict
    tokens: object


def known_tokens(n, *, seed=0):
    """Windows of 7 tokens, two per document; the second has one token of padding at its end."""
    from arcee_lab.dump.format.token_table import TokenTable

    generator = torch.Generator().manual_seed(seed)
    number = torch.arange(n)
    position = number % 7
    window = number // 7
    return TokenTable(
        ids=torch.randint(3, 50, (n,), generator=generator, dtype=torch.int32),
        positions=position.int(),
        documents=(window // 2).int(),
        windows=window.int(),
        attended=~((position == 6) & (window % 2 == 1)),
        first=position == 0,
        tags={TAG: (window % 3).int()},
    )


def known_acts(n, width, density, dtype, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, width, generator=generator).abs() + 1e-3
    keep = torch.rand(n, width, generator=generator) < density
    return (values * keep).to(dtype)


def make_store(folder, *, bounds=(0, 20, 41, 47), width=23, dtype=torch.bfloat16, sites=None):
    """Writes a store: two layers' neurons and the residual stream between them.

    `sites` maps a name to (layout, density); a shape of two axes for `hook_z`.
    """
    from arcee_lab.dump.folders.open import folder_of
    from arcee_lab.dump.format import shard_files, unit_index
    from arcee_lab.dump.format.layouts import encode
    from arcee_lab.dump.format.manifest import Manifest, StoredShard, shard_path
    from arcee_lab.dump.format.stored_site import StoredSite

    if sites is None:
        sites = {
            "layers.0.mlp.hook_relu": ("neuron", 0.1),
            "layers.1.self_attn.hook_z": ("int8", 1.0),
            "layers.1.mlp.hook_relu": ("both", 0.04),
            "layers.1.hook_resid_post": ("dense", 1.0),
        }
    n = bounds[-1]
    name_of = {dtype: name for name, dtype in _dtypes().items()}
    stored, acts = [], {}
    for seed, (name, (layout, density)) in enumerate(sites.items()):
        shape = (2, 8) if name.endswith("hook_z") else (width,)
        stored.append(StoredSite(name, shape, name_of[dtype], layout))
        acts[name] = known_acts(n, stored[-1].width, density, dtype, seed=seed)
    tokens = known_tokens(n)
    rows = []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        files = {
            site.name: shard_files.write(
                folder,
                shard_path(site.name, number),
                encode(acts[site.name][start:stop], site.layout),
            )
            for site in stored
        }
        at = shard_files.write(folder, shard_path("tokens", number), tokens[start:stop])
        rows.append(StoredShard(start, stop, at, files))
    indexes = {site.name: unit_index.write(folder_of(folder), site, rows) for site in stored}
    manifest = Manifest(
        model={"name": "known", "fingerprint": "m" * 8, "dtype": name_of[dtype], "config": {}},
        tokenizer={"name": "known", "fingerprint": "t" * 8},
        data={"fingerprint": "d" * 8},
        settings={"seed": 0},
        versions={"arcee_lab": "0"},
        sites=tuple(stored),
        shards=tuple(rows),
        tags={TAG: ("one", "two", "three")},
        indexes={name: file for name, file in indexes.items() if file is not None},
    )
    manifest.save(folder)
    return Known(Path(folder), manifest, acts, tokens)


def rewrite(folder, number, site, **tensors):
    """Puts other tensors into one shard, and a manifest without indexes that vouches for them."""
    from safetensors.torch import load_file, save_file

    from arcee_lab.dump.format.manifest import Manifest
    from arcee_lab.runs import storage

    manifest = Manifest.load(folder)
    shard = manifest.shards[number]
    file = shard.sites[site] if site else shard.tokens
    path = Path(folder) / file.path
    content = {name: tensor.clone() for name, tensor in load_file(path).items()} | tensors
    save_file({name: t for name, t in content.items() if t is not None}, path)
    changed = file._replace(bytes=path.stat().st_size, sha256=storage.sha256(path))
    shard = (
        replace(shard, sites={**shard.sites, site: changed})
        if site
        else replace(shard, tokens=changed)
    )
    rows = list(manifest.shards)
    rows[number] = shard
    replace(manifest, shards=tuple(rows), indexes={}).save(folder)


def _dtypes():
    from arcee_lab.dump.format.stored_site import DTYPES

    return DTYPES
