"""One process and several: each knows its place, and gets what the others have."""

import pytest
import torch
from launch import torchrun

from arcee_lab.runs import ranks


def test_one_process_is_rank_0_of_1(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with ranks.joined("cpu") as here:
        assert (here.rank, here.size, here.first) == (0, 1, True)
        assert list(here.share([5, 6, 7])) == [5, 6, 7]
        here.barrier()
        x = torch.arange(3)
        (same,) = here.gather({"x": x, "y": x, "z": x.half().view(3, 1).t()})
    assert torch.equal(same["x"], x)
    assert torch.equal(same["y"], x)
    assert same["z"].shape == (1, 3)
    assert not torch.distributed.is_initialized()
    same["x"] += 1
    assert torch.equal(x, torch.arange(3)), "the copy is the caller's own"


def test_every_item_belongs_to_one_rank():
    cpu = torch.device("cpu")
    shares = [ranks.Ranks(rank, 3, rank, cpu).share(range(8)) for rank in range(3)]
    assert [list(share) for share in shares] == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_an_unconnected_or_half_started_rank_is_an_error(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert ranks.current("cpu").rank == 1
    with pytest.raises(ValueError, match=r"Rank 1 of 2 is not connected.*ranks\.joined"):
        ranks.current("cpu").gather({})
    with pytest.raises(ValueError, match=r"MASTER_ADDR.*torchrun"), ranks.joined("cpu"):
        pass


def test_gpus_are_taken_by_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(ranks, "read_device", torch.device)  # there is none to compute on
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks.current().device == torch.device("cuda:1")
    assert ranks.current("cuda:0").device == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"Rank 2 .* torch sees 2\. Start 2 processes"):
        ranks.current()


def test_two_processes(tmp_path):
    torchrun(
        """
        from arcee_lab.runs import ranks
        with ranks.joined() as here:
            assert here.size == 2
            name = "ab"[here.rank]
            mine = {name: torch.full((here.rank + 1, 2), here.rank, dtype=torch.bfloat16)}
            both = here.gather(mine | {"none": torch.empty(0, 3)})
            assert [sorted(d) for d in both] == [["a", "none"], ["b", "none"]]
            assert both[1]["b"].tolist() == [[1, 1], [1, 1]]
            assert both[1]["b"].dtype == torch.bfloat16
            with ranks.joined() as again:  # joins what is there, and leaves it
                again.barrier()
            here.barrier()
        assert not torch.distributed.is_initialized()
        """,
        tmp_path,
    )
