"""How nnsight sees our hook points: as modules with our errors, which fire when they are read."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from nnsight.intervention.envoy import Envoy
from nnsight.intervention.interleaver import Mediator, OutOfOrderError

from arcee_lab.errors import ModelError
from arcee_lab.model.attention import ArceeAttention

Value = TypeVar("Value")
_ON_REQUEST = ("hook_scores", "hook_pattern")


def _asking(served: Any) -> Any:
    """The same value, but asked for through `PointEnvoy.ask`."""

    def get(self: "PointEnvoy") -> Any:
        return self.ask(lambda: served.__get__(self), f"{self.path}.{served.key}", reads=True)

    def put(self: "PointEnvoy", value: Any) -> None:
        self.ask(lambda: served.__set__(self, value), f"{self.path}.{served.key}", reads=False)

    return property(get, put, doc=served.__doc__)


class PointEnvoy(Envoy):
    """Envoy of a hook point.

    Naming scores or pattern makes them fire: to read them puts the layer in read mode, to assign
    to them in write mode, until the model has reached them.
    """

    output = _asking(Envoy.output)  # type: ignore[assignment]
    input = _asking(Envoy.input)  # type: ignore[assignment]
    inputs = _asking(Envoy.inputs)  # type: ignore[assignment]

    @property
    def site(self) -> str:
        """Canonical name."""
        return re.sub(r"^(model\.)+", "", self.path)

    def ask(self, serve: Callable[[], Value], location: str, *, reads: bool) -> Value:
        """Waits until the model reaches the point.

        Raises:
            ValueError: If it has run past it, or ends without.
        """
        mediator = Mediator.current(location)
        try:
            if self.path.rsplit(".", 1)[-1] in _ON_REQUEST:
                assert self.parent is not None
                attention: Any = self.parent._module
                with _firing(attention, self._module, reads=reads):
                    return serve()
            return serve()
        except OutOfOrderError:
            if mediator.iteration != 0:
                raise  # a loop over steps ends so, by nnsight's design
            why = (
                "the model had run past it. Ask in forward order, or for all sites at once with "
                "al.trace.read(wrapper, [...])."
                if mediator.occurrence(location)
                else "it never fired: its layer was skipped, or the traced call does not reach it."
            )
            raise ModelError(f"{self.site} was asked for, but {why}") from None


@contextmanager
def _firing(attention: ArceeAttention, point: Any, *, reads: bool) -> Iterator[None]:
    """An idle hook marks the point as read, so the attention needs no knowledge of nnsight."""
    handle = point.register_forward_hook(_idle)
    attention.capture_hooks += reads
    try:
        yield
    finally:
        attention.capture_hooks -= reads
        handle.remove()


def _idle(module: object, args: object, output: object) -> None:
    return
