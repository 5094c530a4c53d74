"""The disk is full at the n-th write, for every n: a clear error, and the same bytes afterwards."""

import errno
import os
import shutil
from pathlib import Path

import fsspec
import pytest
import torch
from jobs import Numbers, digest, numbers
from safetensors import SafetensorError
from stores import make_store

import arcee_lab as al
from arcee_lab.dump import DumpConfig
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format import shard_files
from arcee_lab.dump.reading.exports import coo, delphi
from arcee_lab.dump.writing.job import DumpJob

FULL = "No space left on device"


class Disk:
    """Counts what is written, and is full at one of the writes.

    Args:
        full_at: The write that fails, counted from 1.

    Attributes:
        n_writes: Writes so far, the failed one included.
    """

    def __init__(self, full_at):
        self.full_at = full_at
        self.n_writes = 0

    def is_full(self):
        self.n_writes += 1
        return self.n_writes == self.full_at

    def put_in_place(self, patch):
        """Stands in for all that changes the disk; a file that fails is left half."""
        for owner, name in ((os, "fsync"), (os, "replace"), (shutil, "rmtree")):
            patch.setattr(owner, name, self.refusing(getattr(owner, name)))
        patch.setattr(os, "mkdir", self.making(os.mkdir))
        patch.setattr(Path, "write_bytes", self.cutting(Path.write_bytes))
        for module in (shard_files, coo, delphi):
            patch.setattr(module, "save_file", self.saving(module.save_file))

    def refusing(self, act):
        def refuse(*args, **options):
            if not options.get("ignore_errors") and self.is_full():
                raise OSError(errno.ENOSPC, FULL)
            return act(*args, **options)

        return refuse

    def making(self, act):
        def make(path, *args, **options):
            if not os.path.isdir(path) and self.is_full():  # else nothing is written
                raise OSError(errno.ENOSPC, FULL)
            return act(path, *args, **options)

        return make

    def cutting(self, act):
        def cut(path, content):
            if self.is_full():
                act(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, FULL)
            return act(path, content)

        return cut

    def saving(self, act):
        def save(tensors, path):
            if self.is_full():
                Path(path).write_text("half")
                # What the package in Rust raises, which is no OSError.
                raise SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)")
            return act(tensors, path)

        return save


@pytest.fixture(scope="module")
def job(tiny):
    torch.manual_seed(13)
    config = DumpConfig(
        sites=("layers.1.mlp.hook_post", "layers.1.hook_resid_post"), batch_size=4, shard_tokens=96
    )
    job = DumpJob(tiny(), Numbers(), numbers(8, longest=30, seed=2), config)
    job.estimate()
    return job


def test_a_dump_on_a_disk_that_is_full_at_any_write(job, tmp_path, monkeypatch):
    whole = digest(job.run(tmp_path / "whole").folder.path)
    n_files = len(job.plan.shards) * (len(job.sites) + 2) + 1
    full_at = 0
    while True:
        full_at += 1
        out, disk = tmp_path / str(full_at), Disk(full_at)
        with monkeypatch.context() as patch:
            disk.put_in_place(patch)
            try:
                job.run(out)
            except ValueError as error:
                said = str(error)
            else:
                break
        assert FULL in said, (full_at, said)
        assert said.count("cannot be written") == 1, said
        assert str(out) in said
        assert "repeat the same" in said or said.startswith("output folder"), (full_at, said)
        assert not list(out.rglob("*.part")), full_at
        assert digest(job.run(out).folder.path) == whole, full_at
        assert al.dump.verify(out).intact
        shutil.rmtree(out)
    assert disk.n_writes == full_at - 1, "the last run was not the whole one"
    assert disk.n_writes >= 4 * n_files, "a file takes its content, two syncs and a rename"
    assert digest(out) == whole


def test_the_error_names_the_file(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Disk(1).refusing(os.replace))
        with pytest.raises(ValueError, match=r"s/a/b\.json cannot be written: No space left"):
            LocalFolder(tmp_path / "s").write("a/b.json", b"{}")
    assert not list(tmp_path.rglob("*.json*"))


def test_a_bucket_that_is_full_at_any_write(job, tmp_path, monkeypatch):
    whole = digest(job.run(tmp_path / "whole").folder.path)
    fs, _ = fsspec.core.url_to_fs("memory://full")
    full_at = 0
    while True:
        full_at += 1
        url, disk = f"memory://full/{full_at}", Disk(full_at)
        with monkeypatch.context() as patch:
            for name in ("put_file", "rm"):
                patch.setattr(fs, name, disk.refusing(getattr(fs, name)))
            try:
                job.run(url)
            except ValueError as error:
                said = str(error)
            else:
                break
        assert said.startswith(f"memory://full/{full_at}/"), said
        assert "cannot be written: No space left on device" in said
        assert said.count("cannot be written") == 1, said
        if fs.exists(f"/full/{full_at}/lock.json"):  # it could not be removed either
            folder_of(url).remove("lock.json")
        job.run(url)
        found = fs.find(f"/full/{full_at}")
        assert {path.split("/", 3)[3] for path in found} == set(whole), full_at
        assert {fs.cat_file(path) for path in found} == {
            (tmp_path / "whole" / path).read_bytes() for path in whole
        }
        fs.rm(f"/full/{full_at}", recursive=True)
    fs.rm("/full", recursive=True)
    assert disk.n_writes > len(whole)


@pytest.mark.parametrize("kind", ["parquet", "coo", "delphi"])
def test_an_export_on_a_disk_that_is_full_at_any_write(tmp_path, monkeypatch, kind):
    store = al.dump.open(make_store(tmp_path / "s").folder)
    options = {"context": 4, "example": 4, "splits": 1, "sites": 0} if kind == "delphi" else {}
    whole = {path for path in digest(store.export(kind, tmp_path / "whole", **options).folder)}
    full_at = 0
    while True:
        full_at += 1
        out, disk = tmp_path / str(full_at), Disk(full_at)
        with monkeypatch.context() as patch:
            disk.put_in_place(patch)
            try:
                store.export(kind, out, **options)
            except ValueError as error:
                said = str(error)
            else:
                break
        assert said.startswith(f"export folder {out} cannot be written: "), said
        assert FULL in said
        assert said.count("cannot be written") == 1, said
        assert said.endswith("repeat the same call.")
        assert not out.exists() or not list(out.iterdir())
        assert set(digest(store.export(kind, out, **options).folder)) == whole
    assert disk.n_writes >= 3 * len(whole)
