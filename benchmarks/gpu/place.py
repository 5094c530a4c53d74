"""Where the proof runs: times, host waits, memory, and the most that the device can do."""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

_REPEATS = 5


@dataclass(frozen=True)
class Place:
    """A device, and what was measured of it alone.

    Attributes:
        device: "cuda", or "cpu" in a dry run.
        dry: Whether this is a dry run: tiny shapes, times without meaning.
        name: Of the card.
        bandwidth: Bytes per second, read and written, of a large copy on the device.
        flops: Floating-point operations per second of a large bf16 product.
    """

    device: torch.device
    dry: bool
    name: str
    bandwidth: float
    flops: float

    @classmethod
    def find(cls, *, dry: bool) -> "Place":
        """Measures the device."""
        device = torch.device("cpu" if dry else "cuda")
        name = "CPU (dry run)" if dry else torch.cuda.get_device_name()
        bare = cls(device, dry, name, 1.0, 1.0)
        size = 2**20 if dry else 2**31
        a = torch.zeros(size, dtype=torch.uint8, device=device)
        b = torch.empty_like(a)
        bandwidth = 2 * size / bare.seconds(partial(b.copy_, a))
        del a, b
        width = 256 if dry else 8192
        x = torch.randn(width, width, device=device, dtype=torch.bfloat16)
        flops = 2 * width**3 / bare.seconds(lambda: x @ x)
        return cls(device, dry, name, bandwidth, flops)

    def seconds(self, work: Callable[[], Any], *, repeats: int = _REPEATS) -> float:
        """Median time of a call, after one that warms up; by events of the card."""
        work()
        found = []
        for _ in range(1 if self.dry else repeats):
            if self.dry:
                began = time.perf_counter()
                work()
                found.append(time.perf_counter() - began)
                continue
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1000)
        return statistics.median(found)

    def waits(self, work: Callable[[], Any]) -> int | None:
        """How often the host waits for the card in a call; None in a dry run."""
        if self.dry:
            work()
            return None
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(one.message) for one in said)

    def peak(self, work: Callable[[], Any]) -> int | None:
        """Most bytes that a call adds to what is allocated before it; None in a dry run."""
        if self.dry:
            work()
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def tidy(self) -> None:
        """Gives memory back that no tensor holds."""
        if not self.dry:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
