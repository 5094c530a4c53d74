"""Activations recorded inside a compiled model, into buffers that are there before it runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from arcee_lab.calls import read_call
from arcee_lab.model.anatomy import Anatomy, anatomy
from arcee_lab.planning import Plan, plan
from arcee_lab.selection import Selection
from arcee_lab.sharding import shards_of
from arcee_lab.sites import Axes


class CompiledCapture(Mapping[str, Any]):
    """A compiled model that records: call it like the model, index it like a capture.

    Every call overwrites the buffers that indexing gives; `clone()` what has to outlive the next.

    Attributes:
        plan: Shapes and dtypes of the buffers.
    """

    def __init__(self, parts: Anatomy, plan: Plan, selection: Selection, *, backend: str):
        self.plan = plan
        self._parts = parts
        self._backend = backend
        self._sites = parts.legend.sites()
        self._modules = list(parts.model.modules())
        self._buffers = {
            site.site: torch.empty(site.shape, dtype=site.dtype, device=parts.model.device)
            for site in plan.sites
        }
        self._real = _Box()
        self._hooks = {
            name: _writes(buffer, selection, self._sites[name].axes, self._real)
            for name, buffer in self._buffers.items()
        }
        self._masked = selection.positions is not None
        self._graphs: dict[tuple, Callable] = {}
        self._has_run = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the compiled model; the first call compiles it.

        A torch hook added to the model or removed since makes it compile anew.

        Raises:
            ValueError: If the call has another batch or length than the buffers, a cache, or
                `logits_to_keep`.
        """
        self._check(args, kwargs)
        run = self._graphs.get(state := self._foreign_hooks())
        if run is None:
            run = _compile(self._parts.model, self._real, masked=self._masked, to=self._backend)
            self._graphs[state] = run
        self._has_run = False
        with ExitStack() as undo:
            for name, hook in self._hooks.items():
                undo.callback(self._parts.hook_point(name).register_forward_hook(hook).remove)
                if self._sites[name].on_request:
                    attention = self._parts.attention(name)
                    attention.capture_hooks += 1
                    undo.callback(_forget_hook, attention)
            output = run(*args, **kwargs)
        self._has_run = True
        return output

    def __getitem__(self, name: str) -> Tensor:
        canonical = self._parts.legend.canonical(name)
        if canonical not in self._buffers:
            raise KeyError(f"{canonical} is not recorded; recorded are {list(self)[:4]} ...")
        if not self._has_run:
            raise ValueError(f"{canonical} holds nothing yet: call the recorder like the model.")
        return self._buffers[canonical]

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)

    def __repr__(self) -> str:
        return f"CompiledCapture of {self.plan}"

    def _check(self, args: tuple, kwargs: dict) -> None:
        model = self._parts.model
        if model.training and self._parts.backbone.gradient_checkpointing:
            raise ValueError(
                "Under gradient checkpointing layers run twice and make no single graph. Turn it "
                "off, call eval(), or use al.capture."
            )
        call = read_call(args, kwargs, seen=False)
        if (call.batch, call.length) != (self.plan.batch, self.plan.length):
            raise ValueError(
                f"The buffers are for {self.plan.batch} x {self.plan.length} tokens; got "
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


class _Box:
    """Which tokens of the running call are real."""

    def __init__(self):
        self.mask: Tensor | None = None  # on the instance: graphs guard on its dictionary


def _writes(buffer: Tensor, selection: Selection, axes: Axes, real: _Box) -> Callable:
    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        x = selection.cut(output.detach(), axes, real.mask)
        assert x.shape == buffer.shape  # copy_ would broadcast
        buffer.copy_(x)

    return hook


def _compile(model: PreTrainedModel, real: _Box, *, masked: bool, to: str) -> Callable:
    def run(*args, **kwargs):
        if masked:
            call = read_call(args, kwargs, seen=False)
            real.mask = call.attended(model.device)
        output = model(*args, **kwargs)
        real.mask = None
        return output

    # Compiled code is kept with the code object and looked up without regard to hooks: one that
    # is shared would run the graph of another recorder.
    own = FunctionType(run.__code__.replace(), run.__globals__, "run", None, run.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False, backend=to)


def _forget_hook(attention: Any) -> None:
    attention.capture_hooks -= 1


def capture_compiled(
    model: nn.Module,
    sites: str | Sequence[str],
    *,
    batch: int,
    length: int,
    dtype: torch.dtype | None = None,
    positions: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    units: int | Sequence[int] | None = None,
    backend: str = "inductor",
) -> CompiledCapture:
    """Compiles a model together with the recording of some of its sites, in one graph.

    For long runs over batches of one shape. `al.capture` takes any call and runs eagerly; this
    takes one shape and keeps the compiled speed. Values agree with the eager ones within the
    compiler's rounding. Inside `al.capture` and `al.intervene` it runs eagerly and records all the
    same. The model itself is left as it is, compiled or not.

    Args:
        model: One of arcee_lab's models, on one device.
        sites: As for `al.capture`.
        batch: Sequences of every call.
        length: Tokens a sequence of every call.
        dtype: As for `al.capture`.
        positions: As for `al.capture`.
        heads: As for `al.capture`.
        units: As for `al.capture`.
        backend: Of `torch.compile`.

    Returns:
        What to call in place of the model, and to index by site afterwards.

    Raises:
        ValueError: As `al.capture`; and for a model that is spread over devices or ranks, which
            makes no single graph.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> record = al.capture_compiled(
        ...     model, "*.hook_post", batch=1, length=8, backend="aot_eager"
        ... )
        >>> inputs = tokenizer("The dogs sleep .", return_tensors="pt", padding="max_length",
        ...                    max_length=8)
        >>> output = record(**inputs)
        >>> record["layers.0.mlp.hook_post"].shape[:2]
        torch.Size([1, 8])
    """
    parts = anatomy(model)
    if len(set(getattr(parts.model, "hf_device_map", {}).values())) > 1:
        raise ValueError(
            "A model spread over several devices makes no single graph. Load it on one device, or "
            "use al.capture."
        )
    if shards_of(parts) is not None:
        raise ValueError(
            "A tensor-parallel model cannot be recorded compiled: its ranks exchange parts between "
            "layers. Use al.capture, which gathers them."
        )
    planned = plan(
        model,
        sites,
        batch=batch,
        length=length,
        dtype=dtype,
        positions=positions,
        heads=heads,
        units=units,
    )
    selection = Selection.of(positions=positions, heads=heads, units=units, dtype=dtype)
    return CompiledCapture(parts, planned, selection, backend=backend)
