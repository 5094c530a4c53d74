"""Seeds of the generators that an evaluation draws from, and the caller's generators kept."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from numbers import Integral
from typing import Any

from arcee_lab.errors import ModelError

LARGEST = 2**32 - 1  # numpy takes no larger seed, and one number may be meant for all


@dataclass(frozen=True)
class Seeds:
    """One seed per generator; the defaults are lm-eval's.

    A place that is None leaves its generator alone: it is neither seeded nor put back, so draws go
    on from where the caller left it, as in lm-eval.

    Attributes:
        random: Of Python's `random`.
        numpy: Of numpy's global generator.
        torch: Of torch's generators, on every device.
        fewshot: Of lm-eval's generator that draws few-shot examples; None takes the system's
            entropy.
    """

    random: int | None = 0
    numpy: int | None = 1234
    torch: int | None = 1234
    fewshot: int | None = 1234

    @classmethod
    def read(cls, value: "int | str | Sequence[int | None] | Seeds | None") -> "Seeds":
        """Seeds as a person writes them.

        Args:
            value: One number (or None) for all four, four of them in the order of the fields, or
                the same as words: "7", "0,1234,None,1234".

        Raises:
            ValueError: It is something else.

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
            raise ModelError(
                f"seed={value!r}; expected one whole number from 0 to {LARGEST} or None, or four "
                "of them: for random, numpy, torch and few-shot examples, such as 0,1234,1234,1234."
            )
        return cls(*numbers)

    def __str__(self) -> str:
        return ",".join(map(str, astuple(self)))

    def apply(self) -> None:
        """Seeds the generators of the process. Call it inside `acting`, which puts them back."""
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
        """Seeds the generators for what is inside, and puts the caller's states back after it."""
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
                _put_back(device, others)

    def settled(self) -> "Seeds":
        """With a number in each place that is None, drawn once: for runs that must agree."""
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
    """The number or the None that a word stands for; else the word, which is refused."""
    if word.lower() == "none":
        return None
    return int(word) if word.isdecimal() and len(word) <= len(str(LARGEST)) else word


def _accelerator() -> Any:
    """The module of torch for the accelerator that this process can use, or None."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    module = None if kind is None else torch.get_device_module(kind)
    # A forked child cannot use its parent's CUDA; torch.manual_seed leaves it alone too.
    forked = getattr(module, "_is_in_bad_fork", lambda: False)()
    return None if forked else module


def _states(device: Any) -> Any:
    """The states of an accelerator's generators, of each of its devices where it has several."""
    several = getattr(device, "get_rng_state_all", None)
    return device.get_rng_state() if several is None else several()


def _put_back(device: Any, states: Any) -> None:
    if isinstance(states, list):
        device.set_rng_state_all(states)
    else:
        device.set_rng_state(states)
