"""The block in which interventions act: `intervene`, and everything put back afterwards."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from threading import get_ident
from typing import Any, NamedTuple, SupportsIndex

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from arcee_lab.errors import SiteError
from arcee_lab.hooks.call import Call, read_call
from arcee_lab.hooks.restore import replace_method, without_compiled_code
from arcee_lab.hooks.selection import position_axis
from arcee_lab.hooks.tensor_parallel import shards_of
from arcee_lab.hooks.threads import OneThread, in_backward
from arcee_lab.interventions.base import Change, Intervention, Place, table_of
from arcee_lab.interventions.call_state import Forward
from arcee_lab.interventions.conditions import Where
from arcee_lab.interventions.device_cache import Placed
from arcee_lab.interventions.slices import write
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.results import counted, page

CHECKPOINT = "_gradient_checkpointing_func"  # where transformers keeps how a layer is checkpointed


class _Bound(NamedTuple):
    """An intervention at one site."""

    change: Change
    place: Place
    where: Where | None

    def __call__(self, x: Tensor, now: Forward) -> Tensor:
        part, hit = self.place.part, None
        if self.where is not None:
            now.check_length(x, position_axis(part.axes), part.axes, self.place.name)
            hit = now.hits(self.where, x.device)
        return write(
            x, lambda chosen: self.change(chosen, now), part=part, hit=hit, placed=now.placed
        )


class Intervening:
    """The block that `intervene` gives.

    Attributes:
        interventions: Its values, in the order in which they act.
    """

    def __init__(self, anatomy: Anatomy, interventions: tuple[Intervention, ...]):
        self.interventions = interventions
        self._anatomy = anatomy  # deleted when the block ends, like all that is bound to it
        self._placed = Placed()
        self._shards = shards_of(anatomy)
        self._bound: dict[str, list[_Bound]] = {}
        for one in interventions:
            where = None if one.where.everywhere else one.where
            for place in one.places(anatomy, self._placed):
                bound = _Bound(one.bind(place), place, where)
                self._bound.setdefault(place.name, []).append(bound)
        wheres = [one.where for one in interventions if not one.where.everywhere]
        self._wheres = list(dict.fromkeys(wheres))
        self._tags: Tensor | None = None
        self._matched: dict[Where, Tensor] = {}
        self._misplaced: dict[str, Tensor] = {}
        self._fired: set[str] = set()
        self._names = tuple(self._bound)
        self._calls = self._generating = self._inside = 0
        self._now = self._forward(Call())
        self._undo: ExitStack | None = None
        self._open = self._checkpointing = False

    def set_tags(self, tags: Shaped[Tensor, "batch columns"]) -> None:
        """Gives the tags of the next forwards, for interventions with `tags=`.

        Args:
            tags: One whole number per token, `[batch or 1, columns]`, over the whole sequence,
                padding and cache included. Tokens past its end have no tag.

        Raises:
            ValueError: If they are not whole numbers.
        """
        if tags.is_floating_point() or tags.dtype == torch.bool or not tags.numel():
            raise SiteError(f"tags must be whole numbers [batch, columns]; got {tags.dtype}.")
        self._tags = tags

    def __enter__(self) -> "Intervening":
        if self._undo is not None:
            raise SiteError("These interventions have run already; call al.intervene(...) again.")
        with ExitStack() as undo:
            undo.enter_context(without_compiled_code())
            self._thread = OneThread("al.intervene")
            backbone = self._anatomy.backbone
            handle = backbone.register_forward_pre_hook(self._begin, with_kwargs=True)
            undo.callback(handle.remove)
            undo.callback(backbone.register_forward_hook(self._end, always_call=True).remove)
            self._checkpointing = backbone.gradient_checkpointing
            for layer in backbone.layers if self._checkpointing else ():
                checkpoint: Any = layer._gradient_checkpointing_func
                replace_method(layer, CHECKPOINT, self._remembering(checkpoint), undo)
            for name, bound in self._bound.items():
                point = self._anatomy.hook_point(name)
                undo.callback(point.register_forward_hook(self._hook(name, bound)).remove)
            if hasattr(self._anatomy.model, "generate"):
                model: Any = self._anatomy.model
                replace_method(model, "generate", self._generate(model.generate), undo)
            self._undo = undo.pop_all()
            self._open = True
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self._undo is not None
        self._undo.close()
        self._open = False
        del self._anatomy
        self._bound.clear()
        if kind is None:
            self._check_effect()

    def __deepcopy__(self, memo: dict) -> "Intervening":
        raise SiteError(
            "A model cannot be copied inside al.intervene: its hooks would come along; copy it "
            "before or after the block."
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        if not self._open:
            return super().__reduce_ex__(protocol)
        raise SiteError(
            "A model cannot be pickled inside al.intervene: its hooks would come along; do it "
            "before or after the block, or save its state_dict()."
        )

    def __repr__(self) -> str:
        return f"Intervening({list(self.interventions)})"

    def _repr_html_(self) -> str:
        return page(
            f"{counted(len(self.interventions), 'intervention')}, in the order in which they act.",
            table_of(self.interventions),
        )

    # ------------------------------------------------------------------ while the model runs

    def _forward(self, call: Call) -> Forward:
        return Forward(
            call,
            self._calls,
            self._generating > 0,
            self._placed,
            self._tags,
            self._matched,
            self._misplaced,
        )

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._thread.begin()
        self._inside += 1
        call = read_call(args, kwargs, seen=True)
        for where in self._wheres:
            where.check(call, self._tags)
        if self._anatomy.backbone.gradient_checkpointing and not self._checkpointing:
            raise SiteError(
                "Gradient checkpointing was enabled inside al.intervene; enable it before."
            )
        self._now = self._forward(call)
        self._calls += 1

    def _end(self, module: nn.Module, args: tuple, output: object) -> None:
        if self._thread.end():
            self._inside -= 1

    def _acts(self, outside: bool) -> bool:
        """Whether a hook sees a forward of this block, or a layer of one that is computed again."""
        if not self._thread.own():
            return False
        # A backward may compute layers again of a forward that was made before the block.
        return self._inside > 0 or outside or not in_backward()

    def _remembering(self, checkpoint: Callable) -> Callable:
        """Has a layer that is computed again for its gradient meet its own forward again."""

        def checkpointed(run: Callable, *args: Any, **kwargs: Any) -> Any:
            now = self._now

            def run_as_then(*inputs: Any, **named: Any) -> Any:
                if not self._open:
                    raise SiteError(
                        "Backward after al.intervene has ended: gradient checkpointing would "
                        "compute the layers again without the interventions. Call backward() "
                        "inside the block."
                    )
                self._now = now
                running, self._thread.running = self._thread.running, get_ident()
                self._inside += 1
                try:
                    return run(*inputs, **named)
                finally:
                    self._inside -= 1
                    self._thread.running = running

            return checkpoint(run_as_then, *args, **kwargs)

        return checkpointed

    def _hook(self, name: str, bound: list[_Bound]) -> Callable:
        def change(x: Tensor) -> Tensor:
            for one in bound:
                x = one(x, self._now)
            return x

        outside = name == "hook_logits"

        def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
            if not self._acts(outside):
                return output
            self._fired.add(name)
            if self._shards is not None:
                return self._shards.change(name, output, change)
            return change(output)

        # Pickle meets this hook before those of the backbone, and has to meet the block first.
        return partial(_call_hook, self, hook) if outside else hook

    def _generate(self, inner: Callable) -> Callable:
        def generate(*args: Any, **kwargs: Any) -> Any:
            self._generating += 1
            try:
                return inner(*args, **kwargs)
            finally:
                self._generating -= 1

        return generate

    # ------------------------------------------------------------------ when it has run

    def _check_effect(self) -> None:
        silent = [name for name in self._names if name not in self._fired]
        if silent:
            raise SiteError(
                f"{len(silent)} of {len(self._names)} sites never fired, e.g. {silent[0]!r}. "
                "Expected the model to run inside the block: call it there, that same object."
            )
        for name, misplaced in self._misplaced.items():
            if not misplaced.is_meta and bool(misplaced):
                raise SiteError(
                    f"A source was patched into other tokens at {name}: its run was padded "
                    "otherwise than the call. Pad both on one side and to one layout, or cut the "
                    "source to the tokens meant: source[:, 3:4] with positions=3."
                )
        for one in self.interventions:
            matched = self._matched.get(one.where)
            # The only reads from the device; on the meta device there is nothing to read.
            if matched is not None and not matched.is_meta and not bool(matched):
                raise SiteError(
                    f"No token met the conditions of {one!r} in {self._calls} forwards; padding "
                    "never does. Check positions, tokens, tags and mask against the batch."
                )


def _call_hook(block: object, hook: Callable, *args: object) -> object:
    return hook(*args)


def intervene(
    model: nn.Module, interventions: Intervention | Iterable[Intervention]
) -> Intervening:
    """Changes activations while the model runs inside the block.

    Works with any call of the model: every head, `generate` with and without a cache, autocast,
    gradients (which flow through what is changed) and gradient checkpointing (call `backward()`
    inside the block). `al.capture` records the final values. Blocks nest: the outer one acts first.
    At one site interventions act in the order of the list. An intervention on `hook_scores` or
    `hook_pattern` makes that layer run the eager kernel, whose data flows through them. Inside the
    block code compiled by torch runs eagerly. Afterwards, also after an exception, hooks are as
    before and the model is unchanged bit for bit.

    Args:
        model: One of arcee_lab's models.
        interventions: `al.Ablate`, `al.Scale`, `al.Clamp`, `al.Add`, `al.ProjectOut`, `al.TopK`,
            `al.Threshold`, `al.Cett`, `al.Patch` or `al.Replace`; an empty list changes nothing.

    Returns:
        A context manager; its `set_tags` serves interventions with `tags=`.

    Raises:
        ValueError: Before any forward, an intervention does not fit the model; during a call, it
            does not fit the call; when the block ends, a site never fired or no token met a
            condition.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        >>> half = al.Scale("layers.0.self_attn.hook_z", 0.5, heads=[0], positions=-1)
        >>> with al.intervene(model, [half, al.Ablate("layers.1.mlp.hook_post", units=[17])]):
        ...     logits = model(**batch).logits
    """
    several = isinstance(interventions, Iterable)
    given = tuple(interventions) if several else (interventions,)
    strange = [one for one in given if not isinstance(one, Intervention)]
    if strange:
        raise SiteError(
            f"Expected interventions such as al.Ablate(...); got {type(strange[0]).__name__}."
        )
    return Intervening(anatomy_of(model), given)
