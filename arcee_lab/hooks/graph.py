"""One compiled graph of a model and of the hooks that record in it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from threading import get_ident
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StaticCache

from arcee_lab.errors import ModelError
from arcee_lab.hooks.call import Call, given_cache, read_call
from arcee_lab.hooks.tensor_parallel import shards_of
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.attention import Reader

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
            raise ModelError(
                "The model ran in another thread while a compiled recorder was called, which would "
                "mix their activations. Let one thread use the model at a time."
            )


class CompiledRecorder(ABC):
    """A compiled model that records: call it like the model.

    Subclasses set `_hooks`: what is done at each site, in the graph; and `_readers`, for sites of
    scores and pattern of which only a part is computed.

    Args:
        anatomy: Of the model, on one device.
        batch: Sequences of every call.
        length: Tokens per sequence of every call.
        cache_length: Tokens that the static cache of every call holds; None for calls without one.
        backend: Of `torch.compile`.

    Raises:
        ValueError: For a model that is spread over devices or ranks, which makes no single graph.
    """

    def __init__(
        self, anatomy: Anatomy, *, batch: int, length: int, cache_length: int | None, backend: str
    ):
        if cache_length is not None and cache_length < length:
            raise ModelError(
                f"cache_length={cache_length} holds fewer than the {length} tokens of one call; "
                "expected room for all tokens of a sequence."
            )
        if len(set(getattr(anatomy.model, "hf_device_map", {}).values())) > 1:
            raise ModelError(
                "A model spread over several devices makes no single graph. Load it on one device, "
                "or use al.capture."
            )
        if shards_of(anatomy) is not None:
            raise ModelError(
                "A tensor-parallel model cannot be recorded compiled: its ranks exchange parts "
                "between layers. Use al.capture, which gathers them."
            )
        self._anatomy = anatomy
        self._shape = batch, length
        self._cache_length = cache_length
        self._backend = backend
        self._sites = anatomy.legend.sites()
        self._modules = list(anatomy.model.modules())
        self._graphs: dict[tuple, Callable] = {}
        self._has_run = False
        self._hooks: Mapping[str, Hook] = {}
        self._readers: Mapping[str, Reader] = {}
        self._running = Running()

    @abstractmethod
    def _prepare(self) -> Callable[[Call], Any]:
        """Makes of a call what hooks find in `self._running.now`, in the graph."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the compiled model; the first call compiles it.

        A torch hook added to the model or removed since makes it compile anew.

        Raises:
            ValueError: If the call has another batch, length or cache than the recorder, or
                `logits_to_keep`.
        """
        self._check(args, kwargs)
        if self._running.thread:
            raise ModelError(
                "This recorder is running already, in another thread or inside of itself; call it "
                "from one thread at a time."
            )
        run = self._graphs.get(state := self._foreign_hooks())
        if run is None:
            run = _compile(
                self._anatomy.model,
                self._prepare(),
                self._running,
                seen=self._cache_length is not None,
                to=self._backend,
            )
            self._graphs[state] = run
        self._has_run = False
        with ExitStack() as undo:
            self._running.thread = get_ident()
            undo.callback(setattr, self._running, "thread", 0)
            for name, hook in self._hooks.items():
                undo.callback(self._anatomy.hook_point(name).register_forward_hook(hook).remove)
                if self._sites[name].on_request:
                    attention = self._anatomy.attention(name)
                    attention.capture_hooks += 1
                    undo.callback(_forget_hook, attention)
            for name, read in self._readers.items():
                readers = self._anatomy.attention(name).readers
                readers.append(read)
                undo.callback(readers.remove, read)
            output = run(*args, **kwargs)
        self._has_run = True
        return output

    def _check(self, args: tuple, kwargs: dict) -> None:
        model = self._anatomy.model
        if model.training and self._anatomy.backbone.gradient_checkpointing:
            raise ModelError(
                "Under gradient checkpointing layers run twice and make no single graph. Turn it "
                "off, call eval(), or use al.capture."
            )
        call = read_call(args, kwargs, seen=False)
        if (call.batch, call.length) != self._shape:
            raise ModelError(
                f"This recorder is for {self._shape[0]} x {self._shape[1]} tokens; got "
                f"{call.batch} x {call.length}. Pad the batch, with zeros in its attention_mask, "
                "or make a second recorder."
            )
        if kwargs.get("logits_to_keep") is not None:
            raise ModelError(
                "A compiled recorder takes whole forwards; got logits_to_keep. Use al.capture, or "
                "leave it out."
            )
        cache = given_cache(args, kwargs)
        if self._cache_length is not None:
            self._check_cache(cache, call.mask)
        elif cache is not None:
            raise ModelError(
                "This recorder is for calls without a cache; got one. Give capture_compiled "
                "cache_length=, the length of a StaticCache, or use al.capture."
            )

    def _check_cache(self, cache: object, mask: object) -> None:
        batch, size = self._shape[0], self._cache_length
        layers: list[Any] = cache.layers if isinstance(cache, StaticCache) else []
        sizes = {layer.max_cache_len for layer in layers}
        if sizes != {size} or not all(layer.is_compileable for layer in layers):
            got = "none" if cache is None else type(cache).__name__
            got += f" of {min(sizes)} tokens" if sizes else ""
            raise ModelError(
                f"This recorder is for calls with a StaticCache of {size} tokens; got {got}. Pass "
                f"cache=StaticCache(model.config, max_cache_len={size})."
            )
        assert isinstance(cache, StaticCache)
        if cache.is_initialized:
            rows = layers[0].keys.shape[0]
            if rows != batch:
                raise ModelError(
                    f"The cache holds {rows} sequences; expected {batch}, as the calls."
                )
        else:
            # In the graph it would become one graph for the first call and another for the rest.
            model = self._anatomy.model
            heads, width = self._anatomy.size("kv_head"), self._anatomy.size("d_head")
            cache.early_initialization(batch, heads, width, model.dtype, model.device)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] != size:
            raise ModelError(
                f"attention_mask has {mask.shape[1]} columns; expected {size}, one per token of "
                "the cache, so that its shape is the same at every step. Fill it up with ones."
            )

    def _foreign_hooks(self) -> tuple:
        """What a graph was traced with and does not look at again."""
        return tuple(
            (place, *module._forward_hooks, None, *module._forward_pre_hooks)
            for place, module in enumerate(self._modules)
            if module._forward_hooks or module._forward_pre_hooks
        )


def _compile(
    model: nn.Module, prepare: Callable[[Call], Any], running: Running, *, seen: bool, to: str
) -> Callable:
    def run(*args, **kwargs):
        running.now = prepare(read_call(args, kwargs, seen=seen))
        output = model(*args, **kwargs)
        running.now = None
        return output

    # Compiled code is kept with the code object and looked up without regard to hooks: one that
    # is shared would run the graph of another recorder.
    own = FunctionType(run.__code__.replace(), run.__globals__, "run", None, run.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False, backend=to)


def _forget_hook(attention: Any) -> None:
    attention.capture_hooks -= 1
