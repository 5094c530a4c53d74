"""Activations recorded inside a compiled model, into buffers that are there before it runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from arcee_lab.errors import SiteError, UnknownName
from arcee_lab.hooks.call import Call
from arcee_lab.hooks.graph import CompiledRecorder, Hook, Running
from arcee_lab.hooks.selection import AttentionSelection, Selection
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.attention import Reader
from arcee_lab.model.attention_pattern import AttentionMatrices
from arcee_lab.recording.memory import CapturePlan, plan
from arcee_lab.reducers.running.compiled_context import CompiledReducing
from arcee_lab.reducers.running.requests import resolve_requests
from arcee_lab.runs.arguments import checked
from arcee_lab.sites import Axes


class CompiledCapture(CompiledRecorder, Mapping[str, Any]):
    """A compiled model that records: call it like the model, index it like a capture.

    Every call overwrites the buffers that indexing gives; `clone()` what has to outlive the next.

    Attributes:
        plan: Shapes and dtypes of the buffers.
    """

    def __init__(self, anatomy: Anatomy, plan: CapturePlan, selection: Selection, *, backend: Any):
        super().__init__(
            anatomy,
            batch=plan.batch,
            length=plan.length,
            cache_length=plan.cache_length,
            backend=backend,
        )
        self.plan = plan
        self._masked = selection.positions is not None
        self._buffers = {
            site.site: torch.empty(site.shape, dtype=site.dtype, device=anatomy.model.device)
            for site in plan.sites
        }
        part = selection.positions is not None or selection.heads is not None
        self._readers = {
            name: _writes_part(buffer, selection, name, self._running)
            for name, buffer in self._buffers.items()
            if part and self._sites[name].on_request
        }
        self._hooks = {
            name: _writes(buffer, selection, self._sites[name].axes, self._running)
            for name, buffer in self._buffers.items()
            if name not in self._readers
        }

    def _prepare(self) -> Callable[[Call], Any]:
        device = self._anatomy.model.device
        masked = self._masked
        return lambda call: call.attended(device) if masked else None

    def __getitem__(self, name: str) -> Tensor:
        canonical = self._anatomy.legend.key(name, self._buffers, are="recorded")
        if not self._has_run:
            raise SiteError(f"{canonical} holds nothing yet: call the recorder like the model.")
        return self._buffers[canonical]

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)

    def __contains__(self, name: object) -> bool:
        try:
            return self._anatomy.legend.key(name, self._buffers, are="recorded") in self._buffers
        except UnknownName:
            return False

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        return f"CompiledCapture of {self.plan}"


def _writes(buffer: Tensor, selection: Selection, axes: Axes, running: Running) -> Hook:
    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        running.require_own_thread()
        x = selection.cut(output.detach(), axes, running.now)
        assert x.shape == buffer.shape  # copy_ would broadcast
        buffer.copy_(x)

    return hook


def _writes_part(buffer: Tensor, selection: Selection, name: str, running: Running) -> Reader:
    """Computes no scores but those that are kept, as `al.capture` does."""

    def read(matrices: AttentionMatrices) -> None:
        with torch.no_grad():
            x = AttentionSelection.of(selection, running.now, matrices.device).take(matrices, name)
            assert x.shape == buffer.shape  # copy_ would broadcast
            buffer.copy_(x)

    return read


@overload
def capture_compiled(
    model: nn.Module,
    sites: Mapping[str, Any],
    *,
    batch: int,
    length: int,
    cache_length: int | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> CompiledReducing: ...


@overload
def capture_compiled(
    model: nn.Module,
    sites: str | Sequence[str],
    *,
    batch: int,
    length: int,
    cache_length: int | None = None,
    dtype: torch.dtype | None = None,
    positions: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    units: int | Sequence[int] | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> CompiledCapture: ...


@checked
def capture_compiled(
    model: nn.Module,
    sites: str | Sequence[str] | Mapping[str, Any],
    *,
    batch: int,
    length: int,
    cache_length: int | None = None,
    dtype: torch.dtype | None = None,
    positions: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    units: int | Sequence[int] | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> CompiledCapture | CompiledReducing:
    """Compiles a model together with the recording of some of its sites, in one graph.

    For long runs over batches of one shape. `al.capture` takes any call and runs eagerly; this
    takes one shape and keeps the compiled speed. Values agree with the eager ones within the
    compiler's rounding, and are the same bit for bit under `backend="eager"` wherever transformers
    takes the same attention kernel in both (a single token with grouped heads under SDPA does not).
    Inside `al.capture` and `al.intervene` it runs eagerly and records all the same. The model
    itself is left as it is, compiled or not.

    Args:
        model: One of arcee_lab's models, on one device.
        sites: As for `al.capture`; a mapping to reducers adds up every call that is made.
        batch: Sequences of every call.
        length: Tokens per sequence of every call; 1 for the steps of a decoding loop.
        cache_length: Length of the `StaticCache` that every call brings as `cache=`; None for
            calls without a cache. Prompt and steps take one recorder each and share the cache. A
            2-D `attention_mask` covers the whole cache at every call. `cache.reset()` begins anew.
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
    anatomy = anatomy_of(model)
    selection = Selection.of(positions=positions, heads=heads, units=units, dtype=dtype)
    if isinstance(sites, Mapping):
        if selection != Selection():
            raise SiteError(
                "Reducers read whole activations; leave dtype=, positions=, heads= and units= out."
            )
        asked = resolve_requests(anatomy, sites)
        return CompiledReducing(
            anatomy,
            asked,
            batch=batch,
            length=length,
            cache_length=cache_length,
            backend=backend,
        )
    planned = plan(
        model,
        sites,
        batch=batch,
        length=length,
        cache_length=cache_length,
        dtype=dtype,
        positions=positions,
        heads=heads,
        units=units,
    )
    return CompiledCapture(anatomy, planned, selection, backend=backend)
