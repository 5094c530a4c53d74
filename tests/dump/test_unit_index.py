"""One neuron is read through the index of its site: the same answers, and nothing is trusted."""

import gc
import itertools
import json
import os
import pickle
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import NEURONS, Numbers, digest, numbers
from safetensors.numpy import load_file, save_file
from stores import make_store

import arcee_lab as al
from arcee_lab.dump import DumpConfig
from arcee_lab.dump.format import unit_index
from arcee_lab.dump.format.block import Block
from arcee_lab.dump.format.manifest import Manifest
from arcee_lab.dump.reading import indexed_site
from arcee_lab.dump.reading.indexed_site import MOST_UNITS, IndexedSite

SITE = "layers.0.mlp.hook_relu"
BOUNDS = (0, 300, 640, 1_000)


def sparse_store(folder, **options):
    return make_store(folder, bounds=BOUNDS, sites={SITE: ("neuron", 0.02)}, **options)


@pytest.fixture
def only_index(monkeypatch):
    """Fails any read of a shard that does not go through an index."""

    def refuse(*_):
        raise AssertionError("a shard was read without the index")

    monkeypatch.setattr(Block, "units", refuse)


def test_random_stores_give_what_was_written(tmp_path, only_index):
    random = np.random.default_rng(3)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for trial in range(9):
        steps = random.integers(120, 700, size=random.integers(1, 5))
        bounds = tuple(np.concatenate(([0], np.cumsum(steps))).tolist())
        layouts = {SITE: ("neuron", 0.02), "layers.2.mlp.hook_relu": ("both", 0.01)}
        width, dtype = int(random.integers(2, 90)), dtypes[trial % 3]
        folder = tmp_path / str(trial)
        known = make_store(folder, bounds=bounds, width=width, dtype=dtype, sites=layouts)
        assert known.manifest.indexes.keys() == layouts.keys()
        store = al.dump.open(folder)
        for site, layer in itertools.product(layouts, (0, 2)):
            if f".{layer}." not in site:
                continue
            units = random.integers(0, width, size=random.integers(1, MOST_UNITS + 1)).tolist()
            firings = store.neurons(layer, units)
            dense = torch.zeros(bounds[-1], len(units), dtype=dtype)
            place = torch.repeat_interleave(torch.arange(len(units)), firings.offsets.diff())
            dense[firings.tokens, place] = firings.relu
            assert torch.equal(dense, known.acts[site][:, units])


def test_stores_of_more_tokens_than_two_bytes_number(tmp_path, only_index):
    known = make_store(
        tmp_path, bounds=(0, 60_000, 70_000), width=3, sites={SITE: ("neuron", 0.001)}
    )
    firings = al.dump.open(tmp_path).neuron(0, 1)
    assert torch.equal(firings.tokens, known.acts[SITE][:, 1].nonzero()[:, 0])


def test_a_neuron_that_never_fires(tmp_path, only_index):
    make_store(tmp_path, sites={SITE: ("neuron", 0.0)})
    assert len(al.dump.open(tmp_path).neuron(0, 2)) == 0


def test_dense_and_mixed_sites_have_none(tmp_path):
    sites = {SITE: ("neuron", 0.7), "layers.1.mlp.hook_post": ("dense", 1.0)}
    known = make_store(tmp_path, sites=sites)
    assert known.manifest.indexes == {}
    acts = known.acts[SITE][:, 4]
    assert torch.equal(al.dump.open(tmp_path).neuron(0, 4).tokens, acts.nonzero()[:, 0])


def test_a_store_without_indexes_answers_alike(tmp_path):
    sparse_store(tmp_path)
    with_index = al.dump.open(tmp_path).neurons(0, [7, 0])
    path = tmp_path / "manifest.json"
    value = json.loads(path.read_text())
    del value["indexes"]
    path.write_text(json.dumps(value | {"version": 1}))  # as older releases wrote it
    store = al.dump.open(tmp_path)
    assert store.manifest.indexes == {}
    without = store.neurons(0, [7, 0])
    assert torch.equal(with_index.tokens, without.tokens)
    assert torch.equal(with_index.relu, without.relu)


def test_many_shards_are_not_kept_open(tmp_path, monkeypatch, only_index):
    known = sparse_store(tmp_path)
    monkeypatch.setattr(indexed_site, "MOST_SHARDS", 2)
    store = al.dump.open(tmp_path)
    assert torch.equal(store.neuron(0, 5).tokens, known.acts[SITE][:, 5].nonzero()[:, 0])
    assert store._indexes[SITE].n_open == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list files")
def test_files_are_closed_with_the_store(tmp_path):
    sparse_store(tmp_path)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    store = al.dump.open(tmp_path)
    store.neuron(0, 1)
    assert len(os.listdir("/proc/self/fd")) == before + len(BOUNDS) - 1
    del store
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_process_opens_its_own_files(tmp_path):
    sparse_store(tmp_path)
    store = al.dump.open(tmp_path)
    expected = store.neuron(0, 1)
    again = pickle.loads(pickle.dumps(store))
    assert again._indexes == {}
    assert torch.equal(again.neuron(0, 1).tokens, expected.tokens)


# ---------------------------------------------------------------------- damage


def test_a_dump_writes_indexes_and_a_repair_makes_them_again(tiny, tmp_path):
    torch.manual_seed(11)
    model, texts = tiny(intermediate_size=200), numbers(60, seed=7)
    config = DumpConfig(sites=(NEURONS,), batch_size=4, shard_tokens=400)
    config = replace(config, layout="both")
    with al.intervene(model, [al.Ablate("layers.*.mlp.hook_relu", units=range(2, 200))]):
        al.dump.write(model, Numbers(), texts, tmp_path, config)
        manifest = Manifest.load(tmp_path)
        assert len(manifest.indexes) == 3
        before = digest(tmp_path)
        path = tmp_path / manifest.indexes["layers.1.mlp.hook_relu"].path
        raw = bytearray(path.read_bytes())
        raw[-9] ^= 4
        path.write_bytes(raw)
        found = al.dump.verify(tmp_path)
        (damage,) = found.damages
        assert (damage.shard, damage.site) == (None, "layers.1.mlp.hook_relu")
        assert "index, index/layers.1.mlp.hook_relu.safetensors: its checksum" in repr(found)
        with pytest.raises(al.errors.ShardDamaged, match="its checksum is not the manifest's"):
            al.dump.open(tmp_path).neuron(1, 0)
        assert al.dump.repair(tmp_path, model, Numbers(), texts).intact
    assert digest(tmp_path) == before


def vouched(folder, change):
    """Changes the tensors of the index, and lets the manifest vouch for the new file."""
    manifest = Manifest.load(folder)
    file = manifest.indexes[SITE]
    path = folder / file.path
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    save_file(change(tensors) or tensors, path)
    raw = path.read_bytes()
    new = file._replace(bytes=len(raw), sha256=sha256(raw).hexdigest())
    replace(manifest, indexes={SITE: new}).save(folder)


def _put(name, place, value):
    def change(tensors):
        tensors[name][place] = value

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_put("offsets", (2, 1), 2**32 - 1), "its index names entries beyond it"),
        (_put("offsets", (1, 1), 2**32 - 1), "its index names entries beyond it"),
        (_put("starts", (1, 0), -(10**6)), "its index names byte -"),
        (_put("starts", (1, 1), 2**40), "it ends after byte"),
        (_put("starts", (1, 0), 8), "its tokens do not rise within it"),
        (lambda t: {"offsets": t["offsets"][:-1], "starts": t["starts"]}, "it holds"),
        (lambda t: {**t, "offsets": t["offsets"].astype(np.float32)}, "it holds"),
        (lambda t: {**t, "more": t["starts"]}, "it holds"),
    ],
)
def test_a_strangers_index_reads_nothing_else(tmp_path, change, why):
    sparse_store(tmp_path)
    vouched(tmp_path, change)
    with pytest.raises(al.errors.ShardDamaged, match=why):
        al.dump.open(tmp_path).neuron(0, 1)
    (damage,) = al.dump.verify(tmp_path).damages
    assert damage.path == f"index/{SITE}.safetensors"


@pytest.mark.parametrize("field", ["unknown", "large", "small", "shared"])
def test_a_manifest_states_indexes_that_can_be(tmp_path, field):
    sparse_store(tmp_path)
    path = tmp_path / "manifest.json"
    value = json.loads(path.read_text())
    entry = value["indexes"][SITE]
    if field == "unknown":
        value["indexes"]["layers.5.mlp.hook_relu"] = entry
    elif field == "shared":
        entry["path"] = value["shards"][0]["tokens"]["path"]
    else:
        entry["bytes"] = 2**40 if field == "large" else 7
    path.write_text(json.dumps(value))
    with pytest.raises(al.errors.StoreDamaged, match="index"):
        al.dump.open(tmp_path)


def _link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.unlink(), "it is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "expected"),
        (_link, "symbolic link"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "expected"),
    ],
)
def test_a_shard_that_is_not_the_one_of_the_manifest(tmp_path, change, why):
    known = sparse_store(tmp_path)
    change(tmp_path / known.manifest.shards[2].sites[SITE].path)
    with pytest.raises(al.errors.ShardDamaged, match=why):
        al.dump.open(tmp_path).neuron(0, 1)


def test_a_shard_that_shrinks_while_it_is_open(tmp_path):
    known = sparse_store(tmp_path)
    store = al.dump.open(tmp_path)
    firings = store.neuron(0, 1)
    assert len(firings)
    os.truncate(tmp_path / known.manifest.shards[0].sites[SITE].path, 100)
    with pytest.raises(al.errors.ShardDamaged, match="it ends after byte"):
        store.neuron(0, 1)


def test_an_index_is_only_as_wide_as_what_it_was_made_of(tmp_path):
    known = sparse_store(tmp_path)
    folder = al.dump.open(tmp_path).folder
    site = known.manifest.sites[0]
    built = unit_index.build(folder, site, known.manifest.shards)
    counts = [shard.sites[SITE].nonzeros for shard in known.manifest.shards]
    assert built.offsets[-1].tolist() == counts
    assert isinstance(IndexedSite(folder, known.manifest, site), IndexedSite)
