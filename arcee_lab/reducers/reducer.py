"""What a reducer is: settings, and four functions over a state that is a dict of tensors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from arcee_lab.errors import SettingError

State = dict[str, Tensor]
First = Literal["include", "exclude", "only"]


@dataclass(frozen=True, kw_only=True)
class Reducer(ABC):
    """Settings of one statistic. It holds no numbers itself: those are in a state.

    A state is a plain dict of tensors on the model's device, of shapes that the settings and the
    site fix, so that any two add up. A subclass is a frozen dataclass with `init` and `update`;
    `merge` adds the tensors of two states and `finalize` returns the state unless it says
    otherwise. Nothing in `update` may read from the device (`.item()`, `if tensor`, boolean
    indexing): that would make the device wait for the host at every layer.

    Attributes:
        first: Whether first tokens of a sequence (BOS, or the first real token; under packing that
            of each document) are counted with the others, left out, or counted alone.
    """

    first: First = "include"

    def __post_init__(self) -> None:
        if self.first not in get_args(First):
            raise SettingError(
                f"first={self.first!r}: expected one of {', '.join(get_args(First))}."
            )

    @property
    def asks(self) -> tuple[str, ...]:
        """Further keywords that `update` wants of the call.

        "labels": `[batch, pos]`, what `set_labels` gave. "positions": `[batch, pos]`, attended
        tokens before each in its sequence, those in the cache included. "seen": tokens in the
        cache before the call, padding included; an int, or a tensor on the device.
        """
        return ()

    @abstractmethod
    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        """The state before any token.

        Args:
            shape: Of one token's activation, e.g. `(d_mlp,)` or `(head, d_head)`.
            device: Where the model computes the site.

        Raises:
            ValueError: The settings do not fit the shape, e.g. a unit out of range.
        """

    @abstractmethod
    def update(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_mask: Bool[Tensor, "batch pos"],
        **asked: Any,
    ) -> None:
        """Adds one call's activations to a state, in place.

        Args:
            state: Changed in place.
            x: The activations, detached, as the model computed them. Where `token_mask` is False
                anything may stand, NaN too.
            token_mask: Tokens that count.
            **asked: What `asks` names.
        """

    def merge(self, a: State, b: State) -> State:
        """The state of all tokens of `a`, then those of `b`; neither is changed."""
        return {name: a[name] + b[name] for name in a}

    def finalize(self, state: State) -> Any:
        """The result, from a state on the CPU."""
        return state

    def check(self, state: State) -> None:
        """Refuses a state, read from a file, that no run leaves; its shapes are right already.

        Raises:
            ValueError: What is wrong, without a full stop.
        """
        return

    def update_groups(
        self,
        state: State,
        x: Float[Tensor, "batch pos *features"],
        token_masks: Bool[Tensor, "group batch pos"],
        **asked: Any,
    ) -> None:
        """As `update`, for several masks at once; tensors of the state lead with a group axis."""
        for group, token_mask in enumerate(token_masks):
            views = {name: tensor[group] for name, tensor in state.items()}
            after = dict(views)
            self.update(after, x, token_mask, **asked)
            for name, view in views.items():
                if after[name] is not view:  # an update that put a new tensor in
                    view.copy_(after[name])


def check_whole(what: str, value: object, *, least: int) -> None:
    """Refuses a setting that is no whole number, or too small.

    Raises:
        ValueError: It names the setting.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingError(f"{what}={value!r}: expected a whole number from {least} up.")


def check_counts(state: State) -> None:
    """Refuses counts below 0.

    Raises:
        ValueError: It names the tensor.
    """
    for name, tensor in state.items():
        if (tensor < 0).any():
            raise SettingError(f"{name} holds counts below 0")


def settings_of(reducer: Reducer) -> dict[str, Any]:
    """A reducer as JSON values; `reducer_of` reads them."""
    settings = {field.name: getattr(reducer, field.name) for field in fields(reducer) if field.init}
    return {
        "type": type(reducer).__name__,
        **{name: _plain(value) for name, value in settings.items()},
    }


def reducer_of(settings: object, classes: Mapping[str, type[Reducer]]) -> Reducer:
    """The reducer that `settings_of` described.

    Args:
        settings: JSON values.
        classes: The classes it may be of, by name. Nothing is imported by a name out of a file.

    Raises:
        ValueError: An unknown class, or settings that it does not take.
    """
    if not isinstance(settings, dict) or not isinstance(settings.get("type"), str):
        raise SettingError(f"{settings!r} describes no reducer")
    kind = settings["type"]
    if kind not in classes:
        raise SettingError(
            f"no reducer is called {kind!r}; expected one of {', '.join(sorted(classes))}. Your "
            "own classes go in load(folder, reducers=[...])"
        )
    values = {name: value for name, value in settings.items() if name != "type"}
    for name, value in values.items():
        if isinstance(value, dict):
            values[name] = reducer_of(value, classes)
        elif isinstance(value, list):
            values[name] = tuple(value)
    try:
        return classes[kind](**values)
    except TypeError as error:
        said = str(error).splitlines()[0]
        raise SettingError(f"{kind} does not take these settings: {said}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Reducer):
        return settings_of(value)
    return list(value) if isinstance(value, tuple) else value


# What is reduced at a site: one reducer, or several.
ReducerSpec = Reducer | tuple[Reducer, ...]
