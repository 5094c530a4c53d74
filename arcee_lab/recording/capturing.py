"""Read activations: `capture` while a model runs, in any call style, and put everything back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from arcee_lab.errors import SiteError
from arcee_lab.hooks.call import Call
from arcee_lab.hooks.request import Request
from arcee_lab.hooks.selection import AttentionSelection, position_axis
from arcee_lab.hooks.watch import Watch
from arcee_lab.model.attention import edits_of
from arcee_lab.model.attention_pattern import AttentionMatrices
from arcee_lab.recording.resolve import resolve
from arcee_lab.reducers.running.context import Reducing
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.devices import read_device

if TYPE_CHECKING:
    import pandas as pd


_MOST_SHAPES = 3  # of one site, that a table shows


# A named tuple, not a dataclass: one is made per forward and site.
class _Record(NamedTuple):
    value: Tensor
    edits: int | None
    call: Call


class Capture(Watch, Result, Mapping[str, Any]):
    """What `capture` recorded: canonical site name -> tensor, or list with one per forward.

    Any accepted spelling indexes it; iteration gives canonical names in forward order. One forward
    in the block gives one tensor per site; several (a loop, or the steps of `generate`) give a
    list.
    """

    def __init__(self, request: Request, *, device: torch.device | None, grad: bool):
        names, selection = request.names, request.selection
        # Autograd gives the gradient of this rank's part; the parts come together when read.
        super().__init__(
            request.anatomy,
            names,
            stop=request.stop,
            seen=selection.positions is not None,
            whole=not grad,
        )
        self._selection = selection
        self._device = device
        self._grad = grad
        self._sites = self._legend.sites()
        self._uncut = selection.is_whole and selection.dtype is None and device is None
        self._records: dict[str, list[_Record]] = {name: [] for name in names}
        self._last: tuple[Tensor, Tensor] | None = None
        self._attention: tuple[Call, torch.device, AttentionSelection] | None = None
        self._copies: list[Any] = []

    # ------------------------------------------------------------------ the block

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._synchronise()
        super().__exit__(kind, error, trace)

    def _on_activation(self, name: str, x: Tensor) -> None:
        if self._grad:
            # Kept whole and cut when read: autograd gives the gradient of the tensor that later
            # layers use, and a cut here would be missing from a checkpointed layer's recomputation.
            if x.requires_grad:
                x.retain_grad()
            kept = x
        elif self._last is not None and self._last[0] is x:
            kept = self._last[1]  # one tensor under two names is stored once
        else:
            kept = x.detach() if self._uncut else self._cut(name, x.detach(), self._call)
            self._last = (x, kept)
        self._records[name].append(_Record(kept, edits_of(kept), self._call))

    def _computes_partially(self, name: str) -> bool:
        # The heads of a rank are numbered among its own: there the whole comes together first.
        cut = self._selection.positions is not None or self._selection.heads is not None
        return cut and not self._grad and self._shards is None

    def _on_attention(self, name: str, matrices: AttentionMatrices) -> None:
        call, device = self._call, matrices.device
        if (
            self._attention is None
            or self._attention[0] is not call
            or self._attention[1] != device
        ):
            real = call.attended(device) if self._selection.positions is not None else None
            self._attention = call, device, AttentionSelection.of(self._selection, real, device)
        with torch.no_grad():
            x = self._attention[2].take(matrices, name)
            x = x if self._selection.dtype is None else x.to(self._selection.dtype)
            x = x if self._device is None or x.device == self._device else self._to_device(x)
        self._records[name].append(_Record(x, edits_of(x), call))

    def _cut(self, name: str, x: Tensor, call: Call) -> Tensor:
        selection, axes = self._selection, self._sites[name].axes
        if self._grad and self._shards is not None:
            x = self._shards.whole(name, x.detach())
        if selection.positions is not None:
            length = x.shape[position_axis(axes) or 0]
            if length != call.length:
                raise SiteError(
                    f"positions count the {call.length} tokens of a call, but {name} holds "
                    f"{length} of them (logits_to_keep, which generate sets too). Capture it "
                    "without positions."
                )
            x = selection.cut(x, axes, call.attended(x.device))
        elif not selection.is_whole or selection.dtype is not None:
            x = selection.cut(x, axes, None)
        if self._device is not None and x.device != self._device:
            x = self._to_device(x)
        return x

    def _to_device(self, x: Tensor) -> Tensor:
        assert self._device is not None
        if self._device.type != "cpu" or x.device.type != "cuda":
            return x.to(self._device)
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        host.copy_(x, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(x.device))
        self._copies.append(event)
        return host

    def _synchronise(self) -> None:
        for event in self._copies:
            event.synchronize()
        self._copies.clear()

    def _forward_done(self) -> None:
        self._last = self._attention = None

    # ------------------------------------------------------------------ the records

    def __getitem__(self, name: str) -> Any:
        records = self._read(self._recorded(name))
        return records[0] if len(records) == 1 else records

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self._legend.canonical(name) in self._records
        except ValueError:
            return False

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    @property
    def headline(self) -> str:
        """How many sites, and how many forwards of the model."""
        forwards = max(map(len, self._records.values()))
        return f"{counted(len(self), 'site')}, {counted(forwards, 'forward')}"

    def frame(self) -> "pd.DataFrame":
        """One row per site: site, shape, dtype, forwards; several shapes where forwards differ."""
        import pandas as pd

        rows = []
        for name in self._names:
            values = self._read(name)
            shapes = list(dict.fromkeys(str(list(x.shape)) for x in values))
            more = "; ..." if len(shapes) > _MOST_SHAPES else ""
            dtypes = dict.fromkeys(str(x.dtype) for x in values)
            shown = "; ".join(shapes[:_MOST_SHAPES]) + more
            rows.append((name, shown, "; ".join(dtypes), len(values)))
        return pd.DataFrame(rows, columns=["site", "shape", "dtype", "forwards"])

    def __repr__(self) -> str:
        lines = [f"Capture of {counted(len(self), 'site')}"]
        for name in self._names[:6]:
            records = self._records[name]
            first = records[0].value if records else None
            shape = "nothing yet" if first is None else f"{list(first.shape)} {first.dtype}"
            lines.append(f"  {name}: {len(records)} x {shape}")
        return "\n".join(lines + (["  ..."] if len(self) > 6 else []))

    def take(self) -> dict[str, list[Tensor]]:
        """Hands over what has been recorded since the last call and forgets it.

        For long loops: one capture around all forwards, `take()` after each.
        """
        taken = {name: self._read(name) for name in self._names}
        self._records = {name: [] for name in self._names}
        return taken

    @property
    def attended(self) -> Tensor | None:
        """Which columns of the recorded forward are real, `[batch, pos]`.

        None where columns are not those of the call (`positions=`), and where the block saw several
        forwards, none with a mask, or one with a cache.
        """
        records = next(iter(self._records.values()))
        mask = records[0].call.mask if len(records) == 1 else None
        if self._selection.positions is not None or not isinstance(mask, Tensor):
            return None
        call = records[0].call
        whole = mask.shape[-1] == call.length and (mask.ndim == 2 or mask.shape[-2] == call.length)
        return call.attended(mask.device) if whole else None

    def grad(self, name: str) -> Any:
        """Gradient of what was backpropagated with respect to a captured activation.

        Args:
            name: Any spelling of a captured site.

        Returns:
            A tensor of the shape of `acts[name]`, or a list of them, one per forward.

        Raises:
            ValueError: If the capture lacks `grad=True`, or no backward reached the site.
        """
        if not self._grad:
            raise SiteError("No gradients were kept: call al.capture(..., grad=True).")
        canonical = self._recorded(name)
        grads = []
        for record in self._records[canonical]:
            if record.value.grad is None:
                raise SiteError(
                    f"{canonical} has no gradient. Expected a backward from this forward, "
                    "run with gradients enabled (reentrant checkpointing runs layers without them)."
                )
            grads.append(self._cut(canonical, record.value.grad, record.call))
        return grads[0] if len(grads) == 1 else grads

    def _read(self, name: str) -> list[Tensor]:
        self._synchronise()
        for record in self._records[name]:
            if record.edits != edits_of(record.value):
                raise SiteError(
                    f"{name} was changed in place after it was recorded, by a hook at a later site "
                    "that holds the same tensor. Return a new tensor there, or capture with "
                    "dtype=, device= or a cut, which copy."
                )
        values = [record.value for record in self._records[name]]
        if not self._grad:
            return values
        return [self._cut(name, r.value, r.call) for r in self._records[name]]

    def _recorded(self, name: str) -> str:
        canonical = self._legend.key(name, self._records, are="captured")
        if not self._records[canonical]:
            raise SiteError(
                f"{canonical} has not fired yet: call the model inside the block first."
            )
        return canonical


@overload
def capture(
    model: nn.Module,
    sites: Mapping[Any, Any],
    *,
    stop_at: bool | int | str | None = None,
) -> Reducing: ...


@overload
def capture(
    model: nn.Module,
    sites: str | Sequence[str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    positions: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    units: int | Sequence[int] | None = None,
    stop_at: bool | int | str | None = None,
    grad: bool = False,
) -> Capture: ...


@checked
def capture(
    model: nn.Module,
    sites: str | Sequence[str] | Mapping[Any, Any],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    positions: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    units: int | Sequence[int] | None = None,
    stop_at: bool | int | str | None = None,
    grad: bool = False,
) -> Capture | Reducing:
    """Records activations, or statistics of them, while the model runs inside the block.

    Works with any call of the model: forward in any style, several forwards, `generate` (one entry
    per step; beams and an assistant's candidates are recorded as they run), autocast, gradient
    checkpointing (a recomputation is not recorded again), quantised linears, nested captures. What
    is recorded is the final value, after every other hook. Logits stay bit-identical;
    afterwards, also after an exception, hooks are as before. Inside the block code compiled by
    torch runs eagerly, because a compiled graph does not look at hooks.

    Args:
        model: One of arcee_lab's models.
        sites: Names, globs or layer ranges, e.g. `["layers.4:8.mlp.hook_post"]`; see
            `arcee_lab.sites.Legend.resolve`. Or a mapping of these, or of tuples of these, to
            reducers, or lists of reducers, of `al.reducers`: then statistics are kept and no
            activation is, padding does not count, and none of the arguments below applies but
            `stop_at`.
        device: Where tensors are put; the model's device by default. From a GPU to "cpu" the copy
            is asynchronous into pinned memory and complete when it is read.
        dtype: Floating dtype to store; as computed by default.
        positions: Attended tokens to keep, counted within each sequence of the call, negative from
            its end: with left padding 0 is the first real token. NaN where a sequence is too short.
        heads: Heads to keep (kv heads at k and v sites).
        units: Indices to keep on the last axis, e.g. neurons. Cuts are new contiguous tensors.
        stop_at: Ends the forward early; the model call returns None. True: after the last site
            requested; a layer number: after that layer; or a site.
        grad: Keeps the graph, and gives `acts.grad(site)` after a backward.

    Returns:
        A context manager that yields a `Capture`; for a mapping `al.reducers.Statistics`.

    Raises:
        ValueError: For a filter that matches nothing, an index out of range or a device that is not
            there, before any forward; and, when the block ends, for a site that never fired.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> with al.capture(model, "layers.*.mlp.hook_post") as acts:
        ...     output = model(**batch)
        >>> acts["layers.0.mlp.hook_post"].shape[-1] == model.config.intermediate_size
        True
    """
    request = resolve(
        model,
        sites,
        stop_at=stop_at,
        positions=positions,
        heads=heads,
        units=units,
        dtype=dtype,
        others={"device": device, "grad": grad or None},
    )
    if request.reducers:
        return Reducing(request)
    where = None if device is None else read_device(device, computes=False)
    return Capture(request, device=where, grad=grad)
