"""The ranks of a job that `torchrun` or `accelerate launch` started, and their communication.

with joined() as ranks:  # a single process is rank 0 of 1; nothing is started
    model = model.to(ranks.device)
    ...                       # compute ranks.share(shards)
    states = ranks.gather(state)  # on every rank: one dict per rank, in rank order
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from arcee_lab.errors import DeviceError
from arcee_lab.runs.devices import read_device

Item = TypeVar("Item")

# A rank may wait hours for a slower one. If a rank dies, the launcher ends all the others.
_TIMEOUT = timedelta(days=2)


@dataclass(frozen=True)
class Ranks:
    """This process among those of the job.

    Attributes:
        rank: Number of this process, from 0.
        size: Processes in the job, on all nodes.
        local_rank: Number of this process on its node.
        device: The device for its model.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which prints and writes for all ranks."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's items: each item belongs to one rank, by its index only."""
        return items[self.rank :: self.size]

    def barrier(self) -> None:
        """Waits until every rank has called this."""
        if self.size > 1:
            self.gather({})

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Sends the tensors of each rank to every rank.

        They are sent as safetensors, so names, shapes and dtypes may differ between ranks.

        Args:
            tensors: Tensors of this rank, on any device.

        Returns:
            One dict per rank, in rank order, on the CPU; also a copy for this rank.

        Raises:
            DeviceError: There are other ranks, and no process group connects them.
        """
        # Cloned because safetensors refuses tensors that share memory.
        plain = {
            name: x.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, x in tensors.items()
        }
        mine = torch.frombuffer(bytearray(safetensors.torch.save(plain)), dtype=torch.uint8)
        return [safetensors.torch.load(x.numpy().tobytes()) for x in self._exchange(mine)]

    def _exchange(self, mine: Tensor) -> list[Tensor]:
        """Bytes of every rank; they may differ in length."""
        if self.size == 1:
            return [mine]
        if not dist.is_initialized():
            raise DeviceError(
                f"Rank {self.rank} of {self.size} is not connected to the others. Expected this "
                "call inside `with ranks.joined():`."
            )
        # nccl sends only tensors on a GPU.
        over = torch.device("cpu") if "gloo" in dist.get_backend_config() else self.device
        length = torch.tensor([len(mine)], device=over)
        lengths = [torch.empty_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        sizes = [int(x) for x in lengths]
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=over)
        padded[: len(mine)] = mine.to(over)
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return [part[:size].cpu() for part, size in zip(parts, sizes, strict=True)]


def current(device: str | torch.device | None = None) -> Ranks:
    """The rank of this process; starts nothing.

    Args:
        device: "cpu", "cuda" (the GPU of this rank on its node), or one device by name. By default
            the rank's GPU, or the CPU if torch finds none.

    Raises:
        DeviceError: The node has fewer GPUs than ranks.

    Example:
        >>> from arcee_lab.runs import ranks
        >>> ranks.current("cpu").size
        1
    """
    if dist.is_available() and dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    else:
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return Ranks(rank, size, local_rank, _device(device, local_rank))


@contextmanager
def joined(device: str | torch.device | None = None) -> Iterator[Ranks]:
    """Connects the ranks of the job inside the block.

    An existing process group (accelerate's, transformers') is used and left as it is.

    Args:
        device: As for `current`.

    Raises:
        DeviceError: As for `current`, or the launcher's environment is incomplete.
    """
    mine = current(device)
    starts = mine.size > 1 and not dist.is_initialized()
    if starts:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise DeviceError(
                f"WORLD_SIZE is {mine.size}, but {', '.join(missing)} is not set. Start the job "
                "with torchrun or `accelerate launch`, which set all of it."
            )
        if mine.device.type == "cuda":
            torch.cuda.set_device(mine.device)
        backend = "cpu:gloo,cuda:nccl" if mine.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=mine.rank, world_size=mine.size, timeout=_TIMEOUT)
    try:
        yield mine
    finally:
        if starts:
            dist.destroy_process_group()


def _device(wanted: str | torch.device | None, local_rank: int) -> torch.device:
    if wanted is None:
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    # Of "cuda" only the type counts here; each rank has a GPU of its own.
    device = read_device(wanted)
    if device.type != "cuda" or device.index is not None:
        return device
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise DeviceError(
            f"Rank {local_rank} of this node has no GPU of its own: torch sees {count}. Start "
            f"{max(count, 1)} processes per node, or pass device='cpu'."
        )
    return torch.device("cuda", local_rank)
