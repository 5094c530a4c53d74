"""Exemplars of two processes are those of one, byte for byte."""

import hashlib
import os

import pytest
from children import as_rank, ended, forked, free_port

from arcee_lab.cli import main

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
RUN = ["neurons", "demo", "--world", "story", "--max-tokens", "900", "--batch-size", "4"]


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_processes_write_what_one_writes(tmp_path):
    def work(out, rank=None, port=0):
        if rank is not None:
            as_rank(rank, 2, port)
        assert main([*RUN, "--out", str(out)]) == 0

    assert ended(forked(lambda: work(tmp_path / "one"))) == 0
    port = free_port()
    children = [forked(lambda rank=rank: work(tmp_path / "two", rank, port)) for rank in (0, 1)]
    assert [ended(child) for child in children] == [0, 0]
    assert digests(tmp_path / "two") == digests(tmp_path / "one")
    assert any(name.endswith(".safetensors") for name in digests(tmp_path / "one"))
