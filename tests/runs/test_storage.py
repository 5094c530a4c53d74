"""Files that are whole or absent, folders that belong to one run."""

import hashlib
import json
import os
import subprocess
import sys

import pytest


def test_write_atomic_writes_bytes_text_and_by_function(tmp_path):
    from arcee_lab.runs.storage import sha256, write_atomic

    path = tmp_path / "a.bin"
    assert write_atomic(path, b"\x00\xff") == path
    assert path.read_bytes() == b"\x00\xff"
    write_atomic(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    write_atomic(path, lambda part: part.write_bytes(b"by function"))
    assert sha256(path) == hashlib.sha256(b"by function").hexdigest()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_failing_writer_leaves_the_old_file_and_no_part(tmp_path):
    from arcee_lab.runs.storage import write_atomic

    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def fail(part):
        part.write_bytes(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from arcee_lab.runs.storage import write_atomic\n"
        "def die(part): part.write_bytes(b'ne'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(sys.argv[1], die)"
    )
    child = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert child.returncode == -9
    assert path.read_bytes() == b"old"


def test_new_files_have_the_usual_mode(tmp_path):
    from arcee_lab.runs.storage import write_atomic

    write_atomic(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_write_json_refuses_nan(tmp_path):
    from arcee_lab.runs.storage import write_json

    write_json(tmp_path / "a.json", {"ü": [1, 2.5]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ü": [1, 2.5]}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_the_same_run_may_come_back_and_another_may_not(tmp_path):
    from arcee_lab.runs.storage import check_claim, claim

    folder = tmp_path / "deep" / "run"
    settings = {"command": "sparsity", "text": ("a.txt",), "seed": 0}
    check_claim(folder, settings)
    assert not folder.exists()
    assert claim(folder, settings) == folder
    (folder / "result.json").write_text("{}")
    before = (folder / "run.json").read_bytes()
    claim(folder, settings)
    assert (folder / "run.json").read_bytes() == before
    with pytest.raises(ValueError, match=r"holds another run \(seed is 0, not 1\)"):
        claim(folder, settings | {"seed": 1})
    nested = settings | {"recipe": {"rate": 0.1, "stages": list(range(99))}}
    claim(tmp_path / "other", nested)
    with pytest.raises(
        ValueError, match=r"holds another run \(recipe\.rate is 0\.1, not 0\.2, rec"
    ):
        claim(tmp_path / "other", settings | {"recipe": {"rate": 0.2, "stages": []}})
    with pytest.raises(ValueError, match=r"recipe\.stages is \[0, 1, 2, [\d, ]+\.\.\., not \[\]\)"):
        claim(tmp_path / "other", settings | {"recipe": {"rate": 0.1, "stages": []}})
    with pytest.raises(ValueError, match="command is 'sparsity', not 'dump'"):
        check_claim(folder, {"command": "dump"})
    assert (folder / "run.json").read_bytes() == before


def test_folders_that_are_not_ours_are_refused(tmp_path):
    from arcee_lab.runs.storage import claim

    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"comm')
    for name, match in [
        ("file", "is a file"),
        ("full", "holds other files"),
        ("torn", "is damaged"),
        ("file/below", "cannot be written|is a file"),
    ]:
        with pytest.raises(ValueError, match=match):
            claim(tmp_path / name, {"command": "sparsity"})
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    from arcee_lab.runs.storage import claim

    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        claim(tmp_path / "run", {})
    tmp_path.chmod(0o700)


def test_fresh_folders_count_up(tmp_path):
    from arcee_lab.runs.storage import fresh_folder

    names = [fresh_folder(tmp_path / "out", "tour").name for _ in range(3)]
    assert names == ["tour-1", "tour-2", "tour-3"]
