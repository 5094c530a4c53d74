"""What goes into the down projections, seen or replaced while a model runs; then all as before."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from arcee_lab.hooks.restore import without_compiled_code
from arcee_lab.hooks.threads import OneThread
from arcee_lab.sparsity.sampled.mlps import Mlp

# (layer, activation, pre-activation) -> the activation to continue with, or None to leave it.
Change = Callable[[int, Tensor, Tensor], Tensor | None]


@contextmanager
def at_down(mlps: Sequence[Mlp], change: Change) -> Iterator[None]:
    """Calls `change` at each MLP's down projection, forward after forward.

    It comes after hook points, captures and interventions: it gets the activation that the
    projection would have got, and the output of the up projection as the model computed it.

    Args:
        mlps: The MLPs of a model, in order.
        change: Gets the number of the layer, the activation `[batch, pos, d_mlp]` and the
            pre-activation of the same shape.
    """
    pre: dict[int, Tensor] = {}
    thread = OneThread("a measurement on it")

    def keep(layer: int) -> Callable:
        def hook(module: nn.Module, args: object, u: Tensor) -> None:
            if thread.own():
                pre[layer] = u

        return hook

    def replace(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if not thread.own():
                return None
            new = change(layer, args[0], pre.pop(layer))
            return None if new is None else (new, *args[1:])

        return hook

    with ExitStack() as undo:
        undo.enter_context(without_compiled_code())
        for layer, mlp in enumerate(mlps):
            undo.callback(mlp.up.register_forward_hook(keep(layer)).remove)
            undo.callback(mlp.down.register_forward_pre_hook(replace(layer)).remove)
        yield
