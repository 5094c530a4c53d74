"""The block in which reducers observe activations: masks, groups and caches of each call."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.hooks.call import Call
from arcee_lab.hooks.request import Request
from arcee_lab.hooks.watch import Watch
from arcee_lab.reducers.reducer import First, Reducer, State
from arcee_lab.reducers.running.statistics import Statistics
from arcee_lab.runs.ranks import Ranks

NO_LABELS = (
    "Grouped needs labels: call stats.set_labels(tensor) inside the block, before the model."
)
PARTIAL_FORWARD = (
    "A forward failed after some sites had counted its tokens, so that a second try would count "
    "them twice. Run the texts again in a new block."
)


class CountedTokens:
    """Which tokens of one call count, made once for all sites; never reads from the device."""

    def __init__(self, call: Call, labels: Tensor | None = None):
        self._call = call
        self._labels = labels
        self._made: dict[tuple[str, torch.device], Any] = {}

    def mask(self, first: First, device: torch.device) -> Bool[Tensor, "batch pos"]:
        """Tokens that count."""
        real = self._once("attended", device, self._call.attended)
        if first == "include":
            return real
        firsts = self._once("firsts", device, lambda _: self._call.firsts(real))
        return firsts if first == "only" else real & ~firsts

    def needs(self, reducer: Reducer, device: torch.device) -> dict[str, Any]:
        """What a reducer asks for besides."""
        if not reducer.asks:
            return {}
        makers = {"labels": self._own_labels, "seen": self._seen, "positions": self._positions}
        return {what: self._once(what, device, makers[what]) for what in reducer.asks}

    def precise(self, device: torch.device) -> AbstractContextManager:
        """Sums and products as written: autocast would take products of masks in half precision."""
        if self._once("autocast", device, _autocasts):
            return torch.autocast(device.type, enabled=False)
        return nullcontext()

    def _once(self, what: str, device: torch.device, make: Any) -> Any:
        if (what, device) not in self._made:
            self._made[what, device] = make(device)
        return self._made[what, device]

    def _seen(self, device: torch.device) -> int | Tensor:
        seen = self._call.seen
        return seen.to(device) if isinstance(seen, Tensor) else seen

    def _positions(self, device: torch.device) -> Tensor:
        real = self.mask("include", device)
        return real.cumsum(dim=1) - 1 + self._call.attended_before(real)

    def _own_labels(self, device: torch.device) -> Tensor:
        assert self._labels is not None
        labels, inside = self._call.own_columns(self._labels.to(device))
        return torch.where(inside, labels, -1).expand(self._call.batch, -1)


class Reducing(Watch, Statistics):
    """The block that `capture` gives for a mapping site -> reducer; afterwards its statistics."""

    def __init__(self, request: Request):
        anatomy = request.anatomy
        Watch.__init__(self, anatomy, request.names, stop=request.stop, seen=True)
        Statistics.__init__(
            self, anatomy.legend, request.reducers, request.shapes, {}, model=anatomy.model
        )
        self._reducers = {site: self.reducers(site) for site in self.requests}
        self._labels: Tensor | None = None
        self._wants_labels = any(
            "labels" in one.asks for several in self._reducers.values() for one in several
        )
        self._tokens = CountedTokens(Call())
        self._counted_sites = 0  # in the running forward
        self._partial_forward = False

    def set_labels(self, labels: Tensor) -> None:
        """Gives the labels of the tokens of the next forwards, for `Grouped`.

        Args:
            labels: One whole number per token, `[batch or 1, columns]`, over the whole sequence,
                padding and cache included. Tokens past its end, and tokens whose label is none of
                0 to groups - 1, are in no group.

        Raises:
            ValueError: If they are not whole numbers.
        """
        check_labels(labels)
        self._labels = labels

    def __enter__(self) -> "Reducing":
        super().__enter__()
        assert self._undo is not None
        if self._anatomy.model is not self._anatomy.backbone and self._stop is None:
            ended = self._anatomy.model.register_forward_hook(self._model_ended, always_call=True)
            self._undo.append(ended.remove)
        return self

    def gather(self, ranks: Ranks) -> Statistics:
        if self._shards is not None:
            raise SettingError(
                "The ranks of a tensor-parallel model all have the same statistics, those of the "
                "whole; to gather them would count every token again. Use those of one rank."
            )
        return super().gather(ranks)

    def _check_whole(self) -> None:
        if self._partial_forward:
            raise SettingError(PARTIAL_FORWARD)

    def _begin(self, module: Any, args: tuple, kwargs: dict) -> None:
        super()._begin(module, args, kwargs)
        self._counted_sites = 0
        if self._wants_labels:
            self._check_labels()
        self._tokens = CountedTokens(self._call, self._labels)

    def _check_labels(self) -> None:
        if self._labels is None:
            raise SettingError(NO_LABELS)
        rows, batch = self._labels.shape[0], self._call.batch
        if rows not in (1, batch):
            raise SettingError(
                f"set_labels got {rows} rows and the call has {batch} sequences; give one row a "
                "sequence (with beams, one per beam), or a single row for all."
            )

    def _forward_done(self) -> None:
        inside = len(self._names) - ("hook_logits" in self._names)
        self._partial_forward |= 0 < self._counted_sites < inside

    def _model_ended(self, module: Any, args: tuple, output: object) -> None:
        # What fails after the backbone, such as memory for the logits, is tried again by callers.
        self._partial_forward |= output is None and self._counted_sites > 0
        self._counted_sites = 0

    def _on_activation(self, name: str, x: Tensor) -> None:
        call = self._call
        if x.shape[:2] != (call.batch, call.length):
            raise SettingError(
                f"Reducers count the {call.batch} x {call.length} tokens of a call, but {name} "
                f"holds {tuple(x.shape[:2])} of them (logits_to_keep, which generate sets too). "
                "Reduce norm.hook_normalized, or call without it."
            )
        reducers = self._reducers[name]
        if name not in self.states:
            self.states[name] = tuple(_init(reducer, x) for reducer in reducers)
        self._counted_sites += 1
        for reducer, state in zip(reducers, self.states[name], strict=True):
            accumulate(reducer, state, x, self._tokens)


def check_labels(labels: Tensor) -> None:
    """Refuses labels that are not whole numbers in two axes."""
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if not whole or labels.ndim != 2 or not labels.numel():
        raise SettingError(
            f"labels must be whole numbers [batch, columns]; got {labels.dtype} "
            f"{list(labels.shape)}."
        )


def accumulate(reducer: Reducer, state: State, x: Tensor, tokens: CountedTokens) -> None:
    """Adds one call's activations to a state, in place, whatever mode the model runs in."""
    device = x.device
    mask, needed = tokens.mask(reducer.first, device), tokens.needs(reducer, device)
    after = dict(state)
    with torch.no_grad() if torch.is_grad_enabled() else nullcontext(), tokens.precise(device):
        reducer.update(after, x.detach() if x.requires_grad else x, mask, **needed)
        for name, tensor in state.items():
            if after[name] is not tensor:  # an update that put a new tensor in
                tensor.copy_(after[name])


def _init(reducer: Reducer, x: Tensor) -> State:
    shape, device = tuple(x.shape[2:]), x.device
    if not torch.is_inference_mode_enabled():
        return reducer.init(shape, device)
    # A tensor made in inference mode could not be changed outside of it.
    with torch.inference_mode(False):
        return reducer.init(shape, device)


def _autocasts(device: torch.device) -> bool:
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
