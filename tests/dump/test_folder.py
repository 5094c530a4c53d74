"""No path of a store reaches a file outside of it, whatever is done with it."""

import json
import os
import shutil
import socket

import fsspec
import pytest
from jobs import digest
from stores import make_store

import arcee_lab as al
from arcee_lab.cli import main
from arcee_lab.dump.folders.folder import plain_path
from arcee_lab.dump.folders.local import LocalFolder, inside
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format.manifest import Manifest
from arcee_lab.runs.storage import RUN_FILE

OPERATIONS = {
    "write": lambda folder, path: folder.write(path, b"new"),
    "read": lambda folder, path: folder.read(path),
    "size": lambda folder, path: folder.size(path),
    "local": lambda folder, path: folder.local(path),
    "remove": lambda folder, path: folder.remove(path),
}
BY_WORDS = (
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../outside/file",
    "a/../../outside/file",
    "a/..",
    "a//b",
    "./a",
    "a/",
    "a\\b",
    "C:/file",
    "file\0",
    "a\0b/file",
    "a" * 5000,
)


@pytest.fixture
def places(tmp_path):
    """A store's folder and one that is none of its business, with a file in each."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"precious")
    (tmp_path / "store" / "real").mkdir(parents=True)
    (tmp_path / "store" / "real" / "file").write_bytes(b"old")
    return tmp_path / "store", tmp_path / "outside"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("path", BY_WORDS, ids=lambda path: repr(path[:20]))
def test_a_path_that_its_words_lead_out(places, operation, path):
    store, _ = places
    before = digest(store.parent)
    with pytest.raises(ValueError, match="leads out of the store"):
        OPERATIONS[operation](LocalFolder(store), path)
    assert digest(store.parent) == before


@pytest.mark.parametrize("operation", [*OPERATIONS, "release"])
@pytest.mark.parametrize("path", ["", "../x", "/x", "a/../x", "a\0"])
def test_a_remote_path_that_its_words_lead_out(operation, path):
    folder = folder_of("memory://places/store")
    act = OPERATIONS.get(operation, lambda folder, path: folder.release(path))
    folder.write("mine", b"x")
    folder.local("mine")  # now there is a folder of copies
    with pytest.raises(ValueError, match="leads out of the store"):
        act(folder, path)
    fs, root = fsspec.core.url_to_fs("memory://places")
    fs.rm(root, recursive=True)


def linked_folder(store, outside):
    (store / "w").symlink_to(outside)
    return "w/file"


def linked_file(store, outside):
    (store / "w").symlink_to(outside / "file")
    return "w"


def linked_deep(store, outside):
    (store / "a").mkdir()
    (store / "a" / "w").symlink_to("../../outside")
    return "a/w/file"


def linked_to_be_made(store, outside):
    (store / "w").symlink_to(outside / "new")
    return "w/more/file"


def linked_within(store, outside):
    (store / "w").symlink_to("real")
    return "w/file"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "link", [linked_folder, linked_file, linked_deep, linked_to_be_made, linked_within]
)
def test_a_path_through_a_link(places, operation, link):
    store, outside = places
    path = link(store, outside)
    before = digest(outside), digest(store / "real")
    with pytest.raises(ValueError, match="is a symbolic link"):
        OPERATIONS[operation](LocalFolder(store), path)
    assert (digest(outside), digest(store / "real")) == before
    assert os.listdir(outside) == ["file"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_neither_file_nor_folder(places, monkeypatch, operation, kind):
    store, _ = places
    monkeypatch.chdir(store)  # a socket's name may not be long
    if kind == "pipe":
        os.mkfifo("special")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("special")
    else:
        try:
            os.mknod("special", 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: it never ends
        except OSError as error:
            pytest.skip(f"devices cannot be made here: {error}")
    with pytest.raises(ValueError, match="is a device, a pipe or a socket"):
        OPERATIONS[operation](LocalFolder(store), "special")
    assert (store / "special").exists()


def test_the_folder_itself_may_be_a_link(places):
    store, _ = places
    (store.parent / "link").symlink_to(store)
    folder = LocalFolder(store.parent / "link")
    assert folder.read("real/file") == b"old"
    folder.write("real/file", b"new")
    assert (store / "real" / "file").read_bytes() == b"new"
    folder.remove("real")
    assert not (store / "real").exists()


def test_plain_paths_are_as_before(tmp_path):
    assert plain_path("layers.0.mlp.hook_relu/00000.safetensors") == (
        "layers.0.mlp.hook_relu/00000.safetensors"
    )
    assert inside(tmp_path, "a/b..c/.d") == tmp_path / "a/b..c/.d"
    assert LocalFolder(tmp_path).size("not/there") is None
    LocalFolder(tmp_path).remove("not/there")


@pytest.mark.parametrize(
    "act",
    [
        lambda folder: folder.claim({}),
        lambda folder: folder.check_claim({}),
        lambda folder: folder.exclusive().__enter__(),
    ],
    ids=["claim", "check_claim", "exclusive"],
)
def test_the_file_of_the_run_is_no_link(places, act):
    store, outside = places
    shutil.rmtree(store / "real")
    (outside / RUN_FILE).write_text("{}")
    (store / RUN_FILE).symlink_to(outside / RUN_FILE)
    with pytest.raises(ValueError, match="is a symbolic link"):
        act(LocalFolder(store))
    assert (outside / RUN_FILE).read_text() == "{}"


def test_a_writer_removes_beginnings_and_no_linked_file(places):
    store, outside = places
    (store / RUN_FILE).write_text("{}")
    (outside / ".x.0a1b2c3d.part").touch()
    (store / "w").symlink_to(outside)
    (store / "real" / ".x.0a1b2c3d.part").touch()
    (store / ".tmp_folder").mkdir()
    with LocalFolder(store).exclusive():
        pass
    assert not (store / "real" / ".x.0a1b2c3d.part").exists()
    assert (outside / ".x.0a1b2c3d.part").exists()


def test_verify_and_repair_leave_a_linked_checkpoint_alone(tmp_path, tiny, capsys):
    """The manifest of a stranger names `w/model.safetensors`, and `w` leads to a checkpoint."""
    known = make_store(tmp_path / "store")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "store" / "w").symlink_to(checkpoint)
    value = known.manifest.to_json()
    value["shards"][1]["tokens"]["path"] = "w/model.safetensors"
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(value))
    (tmp_path / "store" / RUN_FILE).write_text("{}")
    found = al.dump.verify(tmp_path / "store")
    (damage,) = found.damages
    assert "is a symbolic link" in damage.why
    with pytest.raises(ValueError, match="is a symbolic link"):
        al.dump.repair(tmp_path / "store", tiny(), None, ["no text is read"], found=found)
    with pytest.raises(ValueError, match="is a symbolic link"):
        al.dump.open(tmp_path / "store").token_data()
    assert main(["verify", str(tmp_path / "store")]) == 2
    assert (checkpoint / "model.safetensors").read_bytes() == b"weights"
    assert os.listdir(checkpoint) == ["model.safetensors"]


def test_a_manifest_that_is_a_link_or_a_pipe(tmp_path):
    make_store(tmp_path / "store")
    (tmp_path / "store" / "manifest.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "store" / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match="is a symbolic link"):
        Manifest.load(tmp_path / "store")
    (tmp_path / "store" / "manifest.json").unlink()
    os.mkfifo(tmp_path / "store" / "manifest.json")
    with pytest.raises(ValueError, match="is a device, a pipe or a socket"):
        Manifest.load(tmp_path / "store")
