"""Reducers inside a compiled model: their sums are part of its graph."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arcee_lab.errors import SettingError
from arcee_lab.hooks.call import Call
from arcee_lab.hooks.graph import CompiledRecorder, Hook, Running
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.reducers.reducer import Reducer, ReducerSpec, State
from arcee_lab.reducers.running.context import (
    NO_LABELS,
    PARTIAL_FORWARD,
    CountedTokens,
    accumulate,
    check_labels,
)
from arcee_lab.reducers.running.requests import features
from arcee_lab.reducers.running.statistics import Statistics


class CompiledReducing(CompiledRecorder, Statistics):
    """A compiled model with statistics: call it like the model, index it like `Statistics`.

    Every call adds its tokens.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        requests: Mapping[str, ReducerSpec],
        *,
        batch: int,
        length: int,
        cache_length: int | None,
        backend: Any,
    ):
        CompiledRecorder.__init__(
            self, anatomy, batch=batch, length=length, cache_length=cache_length, backend=backend
        )
        device = anatomy.model.device
        shapes = {name: features(anatomy, name) for name in requests}
        Statistics.__init__(self, anatomy.legend, requests, shapes, {}, model=anatomy.model)
        for name in self.requests:
            reducers = self.reducers(name)
            self.states[name] = tuple(one.init(shapes[name], device) for one in reducers)
        self._hooks = {
            name: _adds(self.reducers(name), states, self._running)
            for name, states in self.states.items()
        }
        self._partial_forward = False
        self._labels = torch.full((batch, cache_length or length), -1, device=device)
        self._labelled = not any(
            "labels" in one.asks for name in self for one in self.reducers(name)
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the model, compiled; see `CompiledRecorder`."""
        if not self._labelled:
            raise SettingError(NO_LABELS)
        self._check(args, kwargs)
        try:
            return super().__call__(*args, **kwargs)
        except BaseException:
            self._partial_forward = True
            raise

    def _check_whole(self) -> None:
        if self._partial_forward:
            raise SettingError(PARTIAL_FORWARD)
        if not self._has_run:
            raise SettingError("Nothing has been counted yet: call the recorder like the model.")

    def set_labels(self, labels: Tensor) -> None:
        """As `set_labels` of the block that `al.capture` gives; one label per token of the call.

        Under a cache one per token of the cache.

        Raises:
            ValueError: If they are not whole numbers, or of another shape than the calls.
        """
        check_labels(labels)
        rows, columns = labels.shape
        if rows not in (1, self._shape[0]) or columns != self._labels.shape[1]:
            raise SettingError(
                f"labels are {list(labels.shape)}; expected {list(self._labels.shape)}, as the "
                "calls."
            )
        self._labels.copy_(labels)
        self._labelled = True

    def _prepare(self) -> Callable[[Call], Any]:
        labels = self._labels
        return lambda call: CountedTokens(call, labels)


def _adds(reducers: tuple[Reducer, ...], states: tuple[State, ...], running: Running) -> Hook:
    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        running.require_own_thread()
        for reducer, state in zip(reducers, states, strict=True):
            accumulate(reducer, state, output, running.now)

    return hook
