"""Bins of magnitudes that grow by a constant factor: powers of two, or finer."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError


class Bins(NamedTuple):
    """Bins of magnitudes from 2^low to 2^high.

    Bin 0 is what is below 2^low, zero too; the last is what reaches 2^high, infinity too.

    Attributes:
        low: Octave where the first proper bin begins.
        high: Octave where the last proper bin ends.
        per_octave: Bins from a power of two to the next.
    """

    low: int
    high: int
    per_octave: int = 1

    @property
    def size(self) -> int:
        """Bins, the first and the last included."""
        return (self.high - self.low) * self.per_octave + 2

    def of(self, x: Float[Tensor, "token width"]) -> Int[Tensor, "token width"]:
        """The bin of each magnitude; exact at powers of two. That of NaN means nothing."""
        magnitude = x.abs() if x.dtype == torch.float64 else x.float().abs()
        proper = (magnitude > 0) & (magnitude < torch.inf)
        # Of 0 and infinity frexp says nothing of use; of the others mantissa · 2^exponent is exact.
        mantissa, exponent = torch.frexp(torch.where(proper, magnitude, 1.0))
        index = (exponent.long() - 1 - self.low) * self.per_octave + 1
        if self.per_octave > 1:
            part = (mantissa.log2() + 1) * self.per_octave  # the mantissa is from 1/2 to 1
            index += part.long().clamp(0, self.per_octave - 1)
        index = torch.where(magnitude == torch.inf, self.size - 1, index)
        index = torch.where(magnitude == 0, 0, index)
        return index.clamp(0, self.size - 1)

    def edges(self) -> Float[Tensor, " edge"]:
        """Where bins meet: edge i is between bin i and bin i + 1; fp64."""
        steps = torch.arange(self.size - 1, dtype=torch.float64)
        return torch.exp2(self.low + steps / self.per_octave)


def check_octaves(low: int, high: int) -> None:
    """Checks the settings of bins.

    Raises:
        ValueError: If they leave no bin, or reach past what floats hold.
    """
    whole = all(isinstance(octave, int) for octave in (low, high))
    if not whole or not -150 <= low < high <= 150:
        raise SettingError(
            f"low={low!r}, high={high!r}: expected whole octaves, -150 <= low < high <= 150."
        )
