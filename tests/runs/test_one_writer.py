"""Two processes that write the same run: the second is told, and the first goes on."""

import subprocess
import sys
import textwrap

import pytest

from arcee_lab.errors import FileError
from arcee_lab.runs.one_writer import only_writer

HOLDS = """
    import sys
    from arcee_lab.runs.one_writer import only_writer
    with only_writer(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.readline()
"""


def test_another_process_is_told(tmp_path):
    folder = tmp_path / "out"
    command = [sys.executable, "-c", textwrap.dedent(HOLDS), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(FileError, match=r"another process is writing to .*out; .*\.$"),
            only_writer(folder),
        ):
            raise AssertionError("never entered")
        assert folder.is_dir()  # it is the other's
        other.kill()  # a lock ends with its process
        other.wait()
    with only_writer(folder):
        (folder / "a").write_text("x")
    assert (folder / "a").read_text() == "x"


def test_an_empty_new_folder_does_not_stay(tmp_path):
    with only_writer(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with only_writer(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()
    with only_writer(tmp_path / "new"):
        (tmp_path / "new" / "kept").write_text("x")
    assert (tmp_path / "new" / "kept").exists()


def test_two_identical_trainings_at_once(tmp_path):
    """The second ended in "[Errno 2]" once the first removed its state."""
    words = [sys.executable, "-m", "arcee_lab", "train-head", "demo", "--head", "sequence"]
    words += ["--train", "demo:train", "--limit", "40", "--epochs", "1", "--out", str(tmp_path)]
    twice = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [child.communicate(timeout=300)[1] for child in twice]
    codes = [child.returncode for child in twice]
    # Either they met, or one was over before the other began; both are right.
    assert 0 in codes
    for code, errors in zip(codes, said, strict=True):
        assert code == 0 or (code == 2 and "another process is writing to" in errors), errors
    assert (tmp_path / "checkpoint" / "model.safetensors").is_file()
    assert not (tmp_path / "unfinished").exists()
