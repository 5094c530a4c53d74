"""One compiled graph of a model and of the hooks that record in it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from threading import get_ident
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from arcee_lab.calls import Call, read_call
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.sharding import shards_of

Hook = Callable[[nn.Module, Any, Tensor], None]


class Running:
    """What the hooks of a graph know of the running call."""

    def __init__(self):
        self.now: Any = None  # on the instance: graphs guard on its dictionary
        self.thread = 0  # of the call; 0 while none runs

    def require_own_thread(self) -> None:
        """Refuses an eager forward in another thread, which the hooks of a call would record.

        Raises:
            ValueError: If this is one.
        """
        if not torch.compiler.is_compiling() and get_ident() != self.thread:
            raise ValueError(
                "The model ran in another thread while a compiled recorder was called, which would "
                "mix their activations. Let one thread use the model at a time."
            )


class CompiledRecorder(ABC):
    """A compiled model that records: call it like the model.

    Subclasses set `_hooks`: what is done at each site, in the graph.

    Args:
        parts: Of the model, on one device.
        batch: Sequences of every call.
        length: Tokens a sequence of every call.
        backend: Of `torch.compile`.

    Raises:
        ValueError: For a model that is spread over devices or ranks, which makes no single graph.
    """

    def __init__(self, parts: Anatomy, *, batch: int, length: int, backend: str):
        if len(set(getattr(parts.model, "hf_device_map", {}).values())) > 1:
            raise ValueError(
                "A model spread over several devices makes no single graph. Load it on one device, "
                "or use al.capture."
            )
        if shards_of(parts) is not None:
            raise ValueError(
                "A tensor-parallel model cannot be recorded compiled: its ranks exchange parts "
                "between layers. Use al.capture, which gathers them."
            )
        self._parts = parts
        self._shape = batch, length
        self._backend = backend
        self._sites = parts.legend.sites()
        self._modules = list(parts.model.modules())
        self._graphs: dict[tuple, Callable] = {}
        self._has_run = False
        self._hooks: Mapping[str, Hook] = {}
        self._running = Running()

    @abstractmethod
    def _prepare(self) -> Callable[[Call], Any]:
        """Makes of a call what hooks find in `self._running.now`, in the graph."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the compiled model; the first call compiles it.

        A torch hook added to the model or removed since makes it compile anew.

        Raises:
            ValueError: If the call has another batch or length than the recorder, a cache, or
                `logits_to_keep`.
        """
        self._check(args, kwargs)
        if self._running.thread:
            raise ValueError(
                "This recorder is running already, in another thread or inside of itself; call it "
                "from one thread at a time."
            )
        run = self._graphs.get(state := self._foreign_hooks())
        if run is None:
            run = _compile(self._parts.model, self._prepare(), self._running, to=self._backend)
            self._graphs[state] = run
        self._has_run = False
        with ExitStack() as undo:
            self._running.thread = get_ident()
            undo.callback(setattr, self._running, "thread", 0)
            for name, hook in self._hooks.items():
                undo.callback(self._parts.hook_point(name).register_forward_hook(hook).remove)
                if self._sites[name].on_request:
                    attention = self._parts.attention(name)
                    attention.capture_hooks += 1
                    undo.callback(_forget_hook, attention)
            output = run(*args, **kwargs)
        self._has_run = True
        return output

    def _check(self, args: tuple, kwargs: dict) -> None:
        model = self._parts.model
        if model.training and self._parts.backbone.gradient_checkpointing:
            raise ValueError(
                "Under gradient checkpointing layers run twice and make no single graph. Turn it "
                "off, call eval(), or use al.capture."
            )
        call = read_call(args, kwargs, seen=False)
        if (call.batch, call.length) != self._shape:
            raise ValueError(
                f"This recorder is for {self._shape[0]} x {self._shape[1]} tokens; got "
                f"{call.batch} x {call.length}. Pad the batch, with zeros in its attention_mask, "
                "or make a second recorder."
            )
        given = ("cache", "past_key_values", "logits_to_keep")
        unfit = [name for name in given if kwargs.get(name) is not None] + list(args[3:4])
        if unfit:
            raise ValueError(
                f"A compiled recorder takes whole forwards; got {unfit[0]}. Use al.capture, or "
                "leave it out."
            )

    def _foreign_hooks(self) -> tuple:
        """What a graph was traced with and does not look at again."""
        return tuple(
            (place, *module._forward_hooks, None, *module._forward_pre_hooks)
            for place, module in enumerate(self._modules)
            if module._forward_hooks or module._forward_pre_hooks
        )


def _compile(
    model: nn.Module, prepare: Callable[[Call], Any], running: Running, *, to: str
) -> Callable:
    def run(*args, **kwargs):
        running.now = prepare(read_call(args, kwargs, seen=False))
        output = model(*args, **kwargs)
        running.now = None
        return output

    # Compiled code is kept with the code object and looked up without regard to hooks: one that
    # is shared would run the graph of another recorder.
    own = FunctionType(run.__code__.replace(), run.__globals__, "run", None, run.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False, backend=to)


def _forget_hook(attention: Any) -> None:
    attention.capture_hooks -= 1
