"""Random seeds of an evaluation; the states of the caller's generators are restored."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from numbers import Integral
from typing import Any

from arcee_lab.errors import SettingError

LARGEST = 2**32 - 1  # numpy takes no larger seed, and one number may be meant for all


@dataclass(frozen=True)
class Seeds:
    """One seed per generator; the defaults are lm-eval's.

    A generator whose seed is None is neither seeded nor restored: it continues from the caller's
    state, as in lm-eval.

    Attributes:
        random: Seed of Python's `random`.
        numpy: Seed of numpy's global generator.
        torch: Seed of torch's generators, on every device.
        fewshot: Seed of lm-eval's generator of few-shot examples; None uses the system's entropy.
    """

    random: int | None = 0
    numpy: int | None = 1234
    torch: int | None = 1234
    fewshot: int | None = 1234

    @classmethod
    def read(cls, value: "int | str | Sequence[int | None] | Seeds | None") -> "Seeds":
        """Parses seeds as users write them.

        Args:
            value: One number (or None) for all four, four of them in the order of the fields, or
                the same as words: "7", "0,1234,None,1234".

        Raises:
            SettingError: It is something else.

        Example:
            >>> Seeds.read("0,None,8,52")
            Seeds(random=0, numpy=None, torch=8, fewshot=52)
        """
        if isinstance(value, cls):
            return value
        parts: list[Any] = [value]
        if isinstance(value, str):
            parts = [_number(word.strip()) for word in value.split(",")]
        elif isinstance(value, Sequence):
            parts = list(value)
        if len(parts) == 1:
            parts *= len(fields(cls))
        numbers = [
            int(one) if isinstance(one, Integral) and not isinstance(one, bool) else one
            for one in parts
        ]
        right = len(numbers) == len(fields(cls)) and all(
            one is None or (type(one) is int and 0 <= one <= LARGEST) for one in numbers
        )
        if not right:
            raise SettingError(
                f"seed={value!r}; expected one whole number from 0 to {LARGEST} or None, or four "
                "of them: for random, numpy, torch and few-shot examples, such as 0,1234,1234,1234."
            )
        return cls(*numbers)

    def __str__(self) -> str:
        return ",".join(map(str, astuple(self)))

    def apply(self) -> None:
        """Seeds the generators of the process. Call it inside `acting`, which restores them."""
        import numpy as np
        import torch

        if self.random is not None:
            random.seed(self.random)
        if self.numpy is not None:
            np.random.seed(self.numpy)
        if self.torch is not None:
            torch.manual_seed(self.torch)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Seeds the generators inside the block and restores the caller's states afterwards."""
        import numpy as np
        import torch

        python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
        device = None if self.torch is None else _accelerator()
        others = None if device is None else _states(device)
        try:
            self.apply()
            yield
        finally:
            if self.random is not None:
                random.setstate(python)
            if self.numpy is not None:
                np.random.set_state(numpy)
            if self.torch is not None:
                torch.set_rng_state(cpu)
            if device is not None:
                _restore(device, others)

    def settled(self) -> "Seeds":
        """Replaces each None by a number, drawn once, for runs that must agree."""
        import numpy as np
        import torch

        draws = {
            "random": lambda: random.randrange(LARGEST + 1),
            "numpy": lambda: int(np.random.randint(0, LARGEST + 1, dtype=np.uint32)),
            "torch": lambda: int(torch.randint(LARGEST + 1, ()).item()),
            "fewshot": lambda: random.SystemRandom().randrange(LARGEST + 1),
        }
        missing = [name for name in draws if getattr(self, name) is None]
        return replace(self, **{name: draws[name]() for name in missing})


SeedsLike = int | str | Sequence[int | None] | Seeds | None
DEFAULT = Seeds()


def _number(word: str) -> Any:
    """The number or None that a word denotes; else the word, which is refused."""
    if word.lower() == "none":
        return None
    return int(word) if word.isdecimal() and len(word) <= len(str(LARGEST)) else word


def _accelerator() -> Any:
    """The torch module of the accelerator that this process can use, or None."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    module = None if kind is None else torch.get_device_module(kind)
    # A forked child cannot use its parent's CUDA; torch.manual_seed leaves it alone too.
    forked = getattr(module, "_is_in_bad_fork", lambda: False)()
    return None if forked else module


def _states(device: Any) -> Any:
    """The states of an accelerator's generators, one per device."""
    several = getattr(device, "get_rng_state_all", None)
    return device.get_rng_state() if several is None else several()


def _restore(device: Any, states: Any) -> None:
    if isinstance(states, list):
        device.set_rng_state_all(states)
    else:
        device.set_rng_state(states)
