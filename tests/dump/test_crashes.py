"""A dump that is killed at any moment resumes, and ends with the bytes of one that was not."""

import os
import random
import shutil
import signal
import socket
import time

import pytest
import torch
from jobs import digest, ended, forked, killed

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.dump import DumpConfig
from arcee_lab.dump.writing.job import DumpJob
from arcee_lab.runs import storage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
CONFIG = DumpConfig(
    sites=("layers.1:3.mlp.hook_post", "layers.3.hook_resid_post"),
    batch_size=4,
    shard_tokens=160,
)


@pytest.fixture(scope="module")
def job(demo):
    """A job on the demo; warm, so that a forked child starts to write at once."""
    model, tokenizer = demo
    texts = [document.text for document in documents(n=28, seed=4, split="test")]
    job = DumpJob(model, tokenizer, texts, CONFIG)
    job.estimate()
    return job


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory):
    """The folder of a run that nothing interrupted, and its seconds."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    began = time.monotonic()
    job.run(folder)
    return folder, time.monotonic() - began


def test_forked_runs_are_like_the_parent(job, whole, tmp_path):
    assert ended(forked(lambda: job.run(tmp_path / "s"))) == 0
    assert digest(tmp_path / "s") == digest(whole[0])


def check_whole(job, folder, whole):
    """After the last resume: the same bytes, no token lost, none doubled."""
    store = job.run(folder)
    assert digest(folder) == digest(whole)
    known = store.token_data()
    assert torch.equal(known.ids, torch.from_numpy(job.plan.windows.ids))
    assert al.dump.verify(folder).intact


def kills(job, folder, whole, seconds, *, count, seed):
    """Kills `count` runs, each at a random moment, starting over when one got through."""
    moments, n_killed, n_resumed = random.Random(seed), 0, 0
    while n_killed < count:
        code = killed(forked(lambda: job.run(folder)), moments.uniform(0, 0.6 * seconds))
        n_killed += code == -signal.SIGKILL
        if (folder / "progress").is_dir() and any((folder / "progress").iterdir()):
            n_resumed += 1
        if (folder / "manifest.json").is_file():
            check_whole(job, folder, whole)
            shutil.rmtree(folder)
    check_whole(job, folder, whole)
    return n_resumed


def test_random_kills(job, whole, tmp_path):
    kills(job, tmp_path / "s", *whole, count=4, seed=1)


@pytest.mark.slow
def test_fifty_random_kills(job, whole, tmp_path):
    assert kills(job, tmp_path / "s", *whole, count=50, seed=2) > 10


def killed_at(job, folder, *, call, when):
    """A run that kills itself right before or after a file gets its name, at the n-th one."""
    renamed, replace = [0], os.replace

    def replace_and_die(source, target):
        renamed[0] += 1
        dies = renamed[0] == call
        if dies and when == "before":
            os.killpg(0, signal.SIGKILL)
        replace(source, target)
        if dies:
            os.killpg(0, signal.SIGKILL)

    def work():
        storage.os.replace = replace_and_die
        job.run(folder)

    return ended(forked(work))


def n_renames(job, whole):
    """Files that get their names in a run: a shard's and its record, indexes, the manifest."""
    indexes = len(list((whole / "index").iterdir()))
    return len(job.plan.shards) * (len(job.sites) + 2) + indexes + 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_the_manifest(job, whole, tmp_path, when):
    folder = tmp_path / "s"
    assert killed_at(job, folder, call=n_renames(job, whole[0]), when=when) == -signal.SIGKILL
    assert (folder / "manifest.json").exists() == (when == "after")
    assert len(list((folder / "progress").iterdir())) == len(job.plan.shards)
    check_whole(job, folder, whole[0])


def test_a_kill_between_the_files_of_a_shard_and_its_record(job, whole, tmp_path):
    folder = tmp_path / "s"
    shard = len(job.sites) + 2
    code = killed_at(job, folder, call=2 * shard, when="before")
    assert code == -signal.SIGKILL
    assert list(folder.rglob("*.part")), "the killed run has left the beginning of a file"
    check_whole(job, folder, whole[0])


def test_a_kill_inside_the_writer_of_safetensors(job, whole, tmp_path):
    folder = tmp_path / "s"
    assert killed_at(job, folder, call=1, when="after") == -signal.SIGKILL
    shard = next(folder.rglob("*.safetensors"))
    beginning = shard.with_name(f".{shard.name}.0123abcd.part")
    beginning.mkdir()
    (beginning / ".tmp7bAsSt").touch()
    check_whole(job, folder, whole[0])
    assert not beginning.exists()


@pytest.mark.slow
def test_a_kill_at_every_file(job, whole, tmp_path):
    for call in range(1, n_renames(job, whole[0]) + 1):
        for when in ("before", "after"):
            folder = tmp_path / f"{call}-{when}"
            assert killed_at(job, folder, call=call, when=when) == -signal.SIGKILL
            check_whole(job, folder, whole[0])
            shutil.rmtree(folder)


def slowly(job):
    """Makes a forked child's dump wait in its second shard, until it is killed."""
    compute = job._forward
    calls = [0]

    def forward(rows):
        calls[0] += 1
        if calls[0] > len(job.plan.shards[0].batches) + 1:
            time.sleep(600)
        compute(rows)

    job._forward = forward


def test_a_second_writer_is_refused_until_the_first_is_dead(job, whole, tmp_path):
    folder = tmp_path / "s"

    def work():
        slowly(job)
        job.run(folder)

    first = forked(work)
    try:
        until = time.monotonic() + 300
        while not (folder / "progress").is_dir() and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(ValueError, match="another process is writing to"):
            job.run(folder)
    finally:
        assert killed(first, 0) == -signal.SIGKILL
    check_whole(job, folder, whole[0])


# ---------------------------------------------------------------------- two ranks


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def rank_of_two(job, folder, rank, port):
    def work():
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        job.run(folder)

    return forked(work)


def two_ranks(job, folder):
    port = free_port()
    return [rank_of_two(job, folder, rank, port) for rank in (0, 1)]


def test_two_ranks_write_the_store_of_one(job, whole, tmp_path):
    children = two_ranks(job, tmp_path / "s")
    assert [ended(child) for child in children] == [0, 0]
    assert digest(tmp_path / "s") == digest(whole[0])


@pytest.mark.parametrize("dies", [0, 1])
def test_the_shards_of_a_dead_rank_are_taken_up(job, whole, tmp_path, dies):
    folder = tmp_path / "s"
    children = two_ranks(job, folder)
    until = time.monotonic() + 300
    while not (folder / "progress").is_dir() and time.monotonic() < until:
        time.sleep(0.002)
    # One rank dies; a launcher then ends the other, which may be at any point too.
    assert killed(children[dies], 0) in (-signal.SIGKILL, 0)
    killed(children[1 - dies], 0.05)
    children = two_ranks(job, folder)
    assert [ended(child) for child in children] == [0, 0]
    assert digest(folder) == digest(whole[0])
    check_whole(job, folder, whole[0])


def test_a_second_job_of_ranks_is_refused(job, whole, tmp_path):
    folder = tmp_path / "s"
    port = free_port()
    first = []
    for rank in (0, 1):

        def work(rank=rank):
            slowly(job)
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            job.run(folder)

        first.append(forked(work))
    until = time.monotonic() + 300
    while not (folder / "progress").is_dir() and time.monotonic() < until:
        time.sleep(0.01)
    killed(first[0], 0)
    with pytest.raises(ValueError, match="another process is writing to"):
        job.run(folder)  # the second rank of the first job still lives
    killed(first[1], 0)
    check_whole(job, folder, whole[0])
