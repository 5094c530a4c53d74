"""The block in which hook points are watched while a model runs, and everything put back after."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from threading import get_ident
from typing import Any, SupportsIndex, TypeVar

from torch import Tensor, nn

from arcee_lab.errors import SiteError
from arcee_lab.hooks.call import Call, read_call
from arcee_lab.hooks.restore import replace_method, without_compiled_code
from arcee_lab.hooks.tensor_parallel import shards_of
from arcee_lab.hooks.threads import OneThread
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.attention import ArceeAttention
from arcee_lab.model.attention_pattern import AttentionMatrices

# Not typing.Self: beartype refuses it on single methods.
Watching = TypeVar("Watching", bound="Watch")


_NO_CALL = Call()


class _Stop(Exception):
    """Ends a forward at `stop_at`; never leaves this file."""


class Watch(ABC):
    """Observes every activation at the requested hook points, in forward order.

    It sees the final value, after every other hook. A layer that gradient checkpointing
    computes again is not observed again. Compiled code runs eagerly inside, because a compiled
    graph does not look at hooks. What the ranks of a tensor-parallel model compute in parts is
    observed whole, on every rank. A forward in another thread is an error. When the block has
    ended, it holds nothing of the model. Subclasses implement `_on_activation`.

    Args:
        anatomy: Of the model.
        names: Canonical names of the sites.
        stop: Site after which every forward ends.
        seen: Whether `self._call` knows how many tokens the cache held.
        whole: Whether `_on_activation` gets the whole of what ranks compute in parts, or only
            this rank's part.
    """

    _opened_by = "al.capture"  # for errors

    def __init__(
        self,
        anatomy: Anatomy,
        names: list[str],
        *,
        stop: str | None = None,
        seen: bool = False,
        whole: bool = True,
    ):
        self._anatomy = anatomy  # gone when the block has ended
        self._legend = anatomy.legend
        self._names = names
        self._stop = stop
        self._seen = seen
        self._call = _NO_CALL
        self._shards = shards_of(anatomy)
        self._whole = whole
        self._fired: set[str] = set()
        self._inside = 0
        self._hooks: list[tuple[nn.Module, int]] = []
        # Not an ExitStack: it would take a third of the time that opening the block takes.
        self._undo: list[Callable[[], object]] | None = None

    @abstractmethod
    def _on_activation(self, name: str, x: Tensor) -> None:
        """Called with every activation of every site in `names`, while `self._call` runs."""

    def _on_attention(self, name: str, matrices: AttentionMatrices) -> None:
        """Called instead of `_on_activation` for sites where `_computes_partially` is true."""
        raise NotImplementedError

    def _computes_partially(self, name: str) -> bool:
        """Whether `_on_attention` computes only what it needs of scores or pattern."""
        return False

    def _forward_done(self) -> None:
        """Called when a forward of the backbone ends, however it ends."""
        return

    def __enter__(self: Watching) -> Watching:
        if self._undo is not None:
            raise SiteError(
                f"This {type(self).__name__.lower()} has run already; call al.capture(...) again."
            )
        self._undo = []
        self._thread = OneThread(self._opened_by)
        try:
            self._open(self._undo)
        except BaseException:
            self._close()
            self._undo = None
            raise
        return self

    def _open(self, undo: list[Callable[[], object]]) -> None:
        eager = without_compiled_code()
        eager.__enter__()
        undo.append(eager.__exit__)
        backbone = self._anatomy.backbone
        undo.append(backbone.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
        undo.append(backbone.register_forward_hook(self._end, always_call=True).remove)
        names = self._names if self._stop in (None, *self._names) else [*self._names, self._stop]
        sites = self._anatomy.legend.sites()
        for name in names:
            attention = self._anatomy.attention(name) if sites[name].on_request else None
            if attention is not None and self._computes_partially(name):
                read = self._reader(name)
                attention.readers.append(read)
                undo.append(partial(attention.readers.remove, read))
                continue
            point = self._anatomy.hook_point(name)
            handle = point.register_forward_hook(self._hook(name))
            self._hooks.append((point, handle.id))
            undo.append(handle.remove)
            if attention is not None:
                attention.capture_hooks += 1
                undo.append(partial(_forget_hook, attention))
        if self._stop is not None:
            with ExitStack() as stack:
                self._catch_stop(stack)
                undo.append(stack.pop_all().close)

    def _close(self) -> None:
        assert self._undo is not None
        while self._undo:
            self._undo.pop()()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._close()
        del self._anatomy
        self._hooks.clear()
        silent = [name for name in self._names if name not in self._fired]
        if kind is None and silent:
            raise SiteError(
                f"{len(silent)} of {len(self._names)} sites never fired, e.g. {silent[0]!r}. "
                "Expected the captured model to run inside the block: call it there, that same "
                "object."
            )

    def __deepcopy__(self, memo: dict) -> "Watch":
        raise SiteError(
            f"A model cannot be copied inside {self._opened_by}: its hooks would come along; copy "
            "it before or after the block."
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        if not self._undo:
            return super().__reduce_ex__(protocol)
        raise SiteError(
            f"A model cannot be pickled inside {self._opened_by}: its hooks would come along; do "
            "it before or after the block, or save its state_dict()."
        )

    def _hook(self, name: str):
        wanted, stops = name in self._names, name == self._stop
        # Only what is in the backbone is recomputed by gradient checkpointing, and then the
        # backbone's own forward is not running.
        outside = name == "hook_logits"

        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            if (self._inside or outside) and self._thread.own():
                if wanted:
                    self._fired.add(name)
                    if self._shards is not None and self._whole:
                        output = self._shards.whole(name, output)
                    self._on_activation(name, output)
                if stops:
                    raise _Stop

        # Pickle meets this hook before those of the backbone, and has to meet the block first.
        return partial(_call_hook, self, hook) if outside else hook

    def _reader(self, name: str):
        wanted, stops = name in self._names, name == self._stop

        def read(matrices: AttentionMatrices) -> None:
            if self._inside and self._thread.own():
                if wanted:
                    self._fired.add(name)
                    self._on_attention(name, matrices)
                if stops:
                    raise _Stop

        return read

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._thread.begin()
        self._inside += 1
        self._call = read_call(args, kwargs, seen=self._seen)
        for point, handle_id in self._hooks:
            # Hooks run in order of registration; ours go last, to see the final value.
            if len(point._forward_hooks) > 1 and handle_id in point._forward_hooks:
                point._forward_hooks.move_to_end(handle_id)  # type: ignore[attr-defined]

    def _end(self, module: nn.Module, args: tuple, output: object) -> None:
        if self._thread.end():
            self._inside -= 1
            self._forward_done()

    def _catch_stop(self, undo: ExitStack) -> None:
        """Makes the model call return None at the stop, whichever of the two modules is called."""
        running: list[int] = []  # the thread of each call; one in another thread is refused inside

        def stopping(module: nn.Module):
            inner = module.forward

            def forward(*args, **kwargs):
                here = get_ident()
                running.append(here)
                try:
                    return inner(*args, **kwargs)
                except _Stop:
                    if running.count(here) > 1:
                        raise
                    return None
                finally:
                    running.remove(here)

            return forward

        for module in dict.fromkeys((self._anatomy.model, self._anatomy.backbone)):
            replace_method(module, "forward", stopping(module), undo)
        if hasattr(self._anatomy.model, "generate"):
            replace_method(self._anatomy.model, "generate", _no_generate, undo)


def stop_site(stop_at: bool | int | str | None, names: list[str], anatomy: Anatomy) -> str | None:
    """The site that `stop_at` means, of a watch on `names`.

    Raises:
        ValueError: If it is before one of them, or is none.
    """
    if stop_at is None or stop_at is False:
        return None
    if stop_at is True:
        return names[-1]
    if isinstance(stop_at, int):
        stop_at = f"layers.{stop_at}.hook_resid_post"
    if not isinstance(stop_at, str):
        raise SiteError(f"stop_at is True, a layer number or a site; got {stop_at!r}.")
    stop = anatomy.legend.canonical(stop_at)
    order = list(anatomy.legend.sites())
    late = [name for name in names if order.index(name) > order.index(stop)]
    if late:
        raise SiteError(
            f"stop_at={stop!r} ends the forward before {late[0]!r}; stop later, or ask for less."
        )
    return stop


def _call_hook(watch: object, hook: Callable, *args: object) -> None:
    hook(*args)


def _forget_hook(attention: ArceeAttention) -> None:
    attention.capture_hooks -= 1


def _no_generate(*args: object, **kwargs: object) -> None:
    raise SiteError("stop_at ends every forward early, so generate cannot run; leave stop_at out.")
