"""What a run of exemplars says of itself, in memory and as JSON."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from arcee_lab.errors import SavedDamaged
from arcee_lab.neurons.reading.state import Places

_DTYPES = {str(x).removeprefix("torch."): x for x in (torch.float32, torch.float16, torch.bfloat16)}
_DTYPES["float64"] = torch.float64
_MOST = 2**31 - 1  # of any number in the file


@dataclass(frozen=True)
class Facts:
    """What was run.

    Attributes:
        model: Its name.
        fingerprint: Of its weights.
        tokenizer: The tokenizer's fingerprint.
        dtype: Of the activations.
        layers: Their numbers.
        d_mlp: Neurons of a layer.
        context: Tokens of the longest window.
        n_tokens: Tokens that were counted.
        n_windows: Windows that were read.
        top: Windows with the largest maxima, per neuron.
        strata: Octaves, up to that of a neuron's largest value.
        per_stratum: Windows drawn from each.
        n_negatives: Windows without the neuron, per neuron.
        pool: Windows that these come from.
        role: Which messages count; None counts all tokens.
        seed: Of what was drawn.
    """

    model: str
    fingerprint: str
    tokenizer: str
    dtype: str
    layers: tuple[int, ...]
    d_mlp: int
    context: int
    n_tokens: int
    n_windows: int
    top: int
    strata: int
    per_stratum: int
    n_negatives: int
    pool: int
    role: str | None
    seed: int

    @property
    def places(self) -> Places:
        """The sizes of the states; no more places than there are windows."""
        dtype = _DTYPES[self.dtype]
        return Places(self.top, self.strata, self.per_stratum, self.pool, self.context, dtype)

    def over(self, *, n_tokens: int, n_windows: int) -> "Facts":
        """The same of another part of the text."""
        return replace(self, n_tokens=n_tokens, n_windows=n_windows)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_json(cls, said: Any) -> "Facts":
        """Reads `as_json`.

        Raises:
            SavedDamaged: A field is missing, unknown, of another type or out of its bounds.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(said, dict) or set(said) != set(names):
            raise SavedDamaged("its facts are others")
        wrong = [name for name, value in said.items() if not _right(name, value)]
        if wrong:
            raise SavedDamaged(f"{wrong[0]} is {said[wrong[0]]!r}")
        return cls(**{**said, "layers": tuple(said["layers"])})


def _right(name: str, value: Any) -> bool:
    if name == "layers":
        whole = isinstance(value, list) and all(type(x) is int for x in value)
        return whole and bool(value) and value == sorted(set(value)) and value[0] >= 0
    if name == "dtype":
        return value in _DTYPES
    if name == "role":
        return value is None or isinstance(value, str)
    if name in ("model", "fingerprint", "tokenizer"):
        return isinstance(value, str)
    least = 0 if name in ("pool", "n_negatives", "seed", "n_tokens", "n_windows") else 1
    most = 2**32 - 1 if name == "seed" else _MOST
    return type(value) is int and least <= value <= most
