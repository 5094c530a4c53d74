"""Change activations by any function."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.interventions.base import Change, Intervention, Place
from arcee_lab.interventions.call_state import Forward
from arcee_lab.model.attention import edits_of


@dataclass(frozen=True, repr=False)
class Replace(Intervention):
    """Puts `function(x)` in place of x. Cannot be written as JSON; equal if the function is.

    The shared arguments are those of `Intervention`.

    Attributes:
        function: Takes the part of an activation (`[batch, pos, ...]`, cut to heads and units, all
            tokens) and returns a new tensor of its shape, dtype and device. It may hold parameters
            and be trained. A checkpointed layer calls it again.
    """

    function: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise SettingError(f"Replace takes a function of x; got {self.function!r}.")

    def bind(self, place: Place) -> Change:
        """Calls the function and checks what it gives."""

        def change(x: Tensor, now: Forward) -> Tensor:
            if x.is_inference():
                x = x.clone()  # such a tensor does not tell whether the function changed it
            before = edits_of(x)
            new = self.function(x)
            if edits_of(x) != before:
                raise SettingError(
                    f"The function given to Replace changed {place.name} in place; others hold "
                    "that tensor too. Return a new one, e.g. from x.clone()."
                )
            _check(new, x, place.name)
            return new

        return change


def _check(new: object, x: Tensor, name: str) -> None:
    if not isinstance(new, Tensor):
        raise SettingError(f"Replace at {name}: the function returned {type(new).__name__}.")
    for what in ("shape", "dtype", "device"):
        got, expected = getattr(new, what), getattr(x, what)
        if got != expected:
            expected = list(expected) if isinstance(expected, torch.Size) else expected
            got = list(got) if isinstance(got, torch.Size) else got
            raise SettingError(f"Replace at {name}: got the {what} {got}, expected {expected}.")
