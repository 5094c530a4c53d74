"""Stores behind fsspec: the same bytes, the same answers, one writer."""

import json
import time
import uuid

import fsspec
import pytest
import torch
from jobs import NEURONS, Numbers, digest, numbers

import arcee_lab as al
from arcee_lab.dump import DumpConfig
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.writing.job import DumpJob

TEXTS = numbers(14, seed=9)
CONFIG = DumpConfig(sites=(NEURONS, "layers.0.hook_mlp_out"), batch_size=4, shard_tokens=96)


@pytest.fixture(scope="module")
def model(tiny):
    torch.manual_seed(12)
    return tiny()


@pytest.fixture(scope="module")
def local(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local") / "s"
    return al.dump.write(model, Numbers(), TEXTS, folder, CONFIG)


@pytest.fixture
def url():
    name = f"memory://stores/{uuid.uuid4().hex}"
    yield name
    fs, path = fsspec.core.url_to_fs(name)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def content(url):
    fs, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(root + "/"): fs.cat_file(path) for path in fs.find(root)}


def test_a_remote_store_has_the_bytes_of_a_local_one(model, local, url):
    store = al.dump.write(model, Numbers(), TEXTS, url, CONFIG)
    folder = local.folder.path
    assert content(url) == {path: (folder / path).read_bytes() for path in digest(folder)}
    again = al.dump.open(url)
    for answer in (store, again):
        assert torch.equal(answer.neuron(1, 5).tokens, local.neuron(1, 5).tokens)
        assert torch.equal(
            answer.tokens(slice(3, 90), "layers.0.hook_mlp_out"),
            local.tokens(slice(3, 90), "layers.0.hook_mlp_out"),
        )
    assert torch.equal(again.stats().fired, local.stats().fired)
    assert al.dump.verify(url).intact


def test_a_file_url_is_a_local_folder(model, local, tmp_path):
    al.dump.write(model, Numbers(), TEXTS, f"file://{tmp_path}/s", CONFIG)
    assert digest(tmp_path / "s") == digest(local.folder.path)
    assert isinstance(folder_of(f"file://{tmp_path}/s"), LocalFolder)
    assert len(al.dump.open(f"file://{tmp_path}/s")) == len(local)


def test_a_remote_store_goes_on(model, local, url):
    job = DumpJob(model, Numbers(), TEXTS, CONFIG)
    folder = folder_of(url)
    folder.claim(job.provenance.settings)
    job.compute(folder, job.plan.shards[:2])
    computed = []
    compute = job.compute

    def watched(target, shards, **options):
        computed.extend(shard.number for shard in shards)
        compute(target, shards, **options)

    job.compute = watched
    job.run(url)
    assert computed == list(range(2, len(job.plan.shards)))
    assert set(content(url)) == set(digest(local.folder.path))


def test_another_run_or_another_writer_is_refused(model, url):
    job = DumpJob(model, Numbers(), TEXTS, CONFIG)
    folder = folder_of(url)
    folder.claim(job.provenance.settings)
    other = DumpJob(model, Numbers(), TEXTS[:-1], CONFIG)
    with pytest.raises(ValueError, match="holds another run"):
        other.run(url)
    with (
        folder.exclusive(),
        pytest.raises(ValueError, match="another process is writing to memory://stores"),
    ):
        job.run(url)
    folder.write("lock.json", json.dumps({"writer": "x", "time": time.time() - 1e4}).encode())
    job.run(url)  # a writer that gave no sign of life for hours is dead
    assert "lock.json" not in content(url)


def test_files_in_the_way_and_unknown_protocols(model, url):
    folder_of(url).write("mine.txt", b"something")
    with pytest.raises(ValueError, match="holds other files"):
        al.dump.write(model, Numbers(), TEXTS, url, CONFIG)
    with pytest.raises(ValueError, match=r"nonsense:// cannot be opened"):
        al.dump.open("nonsense://bucket/store")


def test_a_damaged_copy_is_not_believed(model, local, url):
    al.dump.write(model, Numbers(), TEXTS, url, CONFIG)
    path = "layers.1.mlp.hook_relu/00000.safetensors"
    damaged = bytearray(content(url)[path])
    damaged[-2] ^= 1
    folder_of(url).write(path, bytes(damaged))
    with pytest.raises(ValueError, match="checksum is not the manifest's"):
        al.dump.open(url).neuron(1, 0)
    (damage,) = al.dump.verify(url).damages
    assert damage.path == path
    assert al.dump.repair(url, model, Numbers(), TEXTS).intact
