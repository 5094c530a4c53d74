"""The widget: a little state that Python and the browser share, and answers to the browser.

Messages of the browser arrive in a thread of the kernel's own, also while a cell runs. Hooks belong
to one thread, so nothing is done there: a message is handed to the event loop of the main thread,
which takes it when no cell runs. Of several messages of a view of one kind that wait, only the
latest is answered. Nothing that the browser sends is trusted: `messages` checks it, and what is
wrong is answered by one sentence.
"""

import asyncio
from typing import Any

import anywidget
import traitlets

from arcee_lab.errors import ArceeLabError, SettingError
from arcee_lab.explorer import all_tabs, messages
from arcee_lab.explorer.ground import Ground
from arcee_lab.explorer.messages import Answer, Message, Question
from arcee_lab.explorer.tabs.ablation import FACTORS
from arcee_lab.explorer.units import read_unit, read_units
from arcee_lab.model.fingerprint import model_name
from arcee_lab.views.scale import BLANK, DIVERGING, DIVERGING_PLACES, PLACES, SEQUENTIAL

_STATE = ("selection", "head", "text", "factor", "tab")
_WAITING = 64  # messages of all views


class Explorer(anywidget.AnyWidget):
    """The explorer of a model: what `al.explore` returns.

    Its state can be read, set and observed from Python, and what is set shows at once.

    Attributes:
        selection: Names of neurons and heads, such as `("L2/N681", "L1/H3")`. It can be set to
            names, to pairs `(layer, unit)`, and to what `al.neurons.find` found.
        head: The head that the tab of attention shows large.
        text: The typed text.
        factor: What the selection is multiplied by in the tab "Switch off"; 0 switches it off.
        tab: Name of the open tab.
    """

    _esm = all_tabs.script()
    _css = all_tabs.style()

    selection = traitlets.Any(()).tag(sync=True)
    head = traitlets.Any("L0/H0").tag(sync=True)
    text = traitlets.Any("").tag(sync=True)
    factor = traitlets.Any(0.0).tag(sync=True)
    tab = traitlets.Any("neurons").tag(sync=True)
    _facts = traitlets.Dict({}).tag(sync=True)  # what never changes

    def __init__(self, ground: Ground, *, text: str, selection: Any = ()):
        self._ground = ground
        self._questions = {**all_tabs.questions(), "set": Question(self._set, _SET)}
        self._waiting: dict[tuple[str, ...], Any] = {}
        self._working = False
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel: a message is answered where it arrives
            self._loop = None
        super().__init__()
        self._facts = {
            "model": model_name(ground.anatomy.model),
            "layers": ground.sizes.layers,
            "heads": ground.sizes.heads,
            "neurons": ground.sizes.layers * ground.sizes.d_mlp,
            "tabs": [[tab.name, tab.title] for tab in all_tabs.TABS],
            "sequential": list(zip(PLACES, SEQUENTIAL, strict=True)),
            "diverging": list(zip(DIVERGING_PLACES, DIVERGING, strict=True)),
            "blank": BLANK,
            "factors": list(FACTORS),
            "values": ground.is_small,
            "missing": ground.missing,
        }
        self.text, self.selection = text, selection
        self.on_msg(self._on_message)

    # ------------------------------------------------------------------ state

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> tuple[str, ...]:
        return tuple(map(str, read_units(proposal["value"], self._ground.sizes)))

    @traitlets.validate("head")
    def _check_head(self, proposal: Any) -> str:
        unit = read_unit(proposal["value"], self._ground.sizes)
        if not unit.is_head:
            raise SettingError(f"{unit} is a neuron; expected a head, such as 'L1/H3'.")
        return str(unit)

    @traitlets.validate("text")
    def _check_text(self, proposal: Any) -> str:
        return _named("text", messages.text, proposal)

    @traitlets.validate("factor")
    def _check_factor(self, proposal: Any) -> float:
        return _named("factor", messages.number(*FACTORS), proposal)

    @traitlets.validate("tab")
    def _check_tab(self, proposal: Any) -> str:
        return _named("tab", messages.one_of([tab.name for tab in all_tabs.TABS]), proposal)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Takes nothing: the browser changes state by messages, which are checked."""

    def _set(self, ground: Ground, *, name: str, value: Any) -> Answer:
        """Takes what a view changed, without sending it back."""
        try:
            with self._lock_property(**{name: value}):
                setattr(self, name, value)
        except ArceeLabError:
            self.send_state(name)  # the view shows what holds
            raise
        return Answer({"name": name})

    # ------------------------------------------------------------------ messages

    def _on_message(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if self._loop is None:
            self._arrived(content)
            return
        self._loop.call_soon_threadsafe(self._arrived, content)

    def _arrived(self, content: Any) -> None:
        """Puts a message in the row; in the main thread."""
        try:
            message = messages.read(content, self._questions)
            if len(self._waiting) >= _WAITING and message.channel not in self._waiting:
                raise SettingError("Too many questions wait; ask again.")
        except ArceeLabError as error:
            self._reply(messages.id_of(content), {"error": str(error)})
            return
        older = self._waiting.pop(message.channel, None)
        if older is not None:
            self._reply(older.id, {"dropped": True})
        self._waiting[message.channel] = message
        if self._loop is None:
            self._work()
        elif not self._working:
            self._working = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        """Answers the message that has waited longest, and comes back for the next one."""
        if self._waiting:
            channel = next(iter(self._waiting))
            self._answer(self._waiting.pop(channel))
        self._working = bool(self._waiting)
        if self._working and self._loop is not None:
            self._loop.call_soon(self._work)

    def _answer(self, message: Message) -> None:
        question = self._questions[message.kind]
        try:
            with self._ground.quiet():
                body, buffers = question.answer(self._ground, **message.values)
        except ArceeLabError as error:
            self._reply(message.id, {"error": str(error)})
        except Exception as error:  # a traceback would end in the kernel's log, where nobody looks
            words = f"{type(error).__name__}: {error}"[:300]
            self._reply(message.id, {"error": f"This could not be computed: {words}"})
        else:
            self._reply(message.id, body, buffers)

    def _reply(
        self, name: str | None, body: dict[str, Any], buffers: tuple[bytes, ...] = ()
    ) -> None:
        if name is not None:
            self.send({**body, "id": name}, list(buffers))

    # ------------------------------------------------------------------ faces

    def __repr__(self) -> str:
        chosen = ", ".join(self.selection) or "nothing"
        return f"Explorer(of {self._facts['model']}, {chosen} selected)"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        from arcee_lab.explorer.static_face import face

        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        try:
            with self._ground.quiet():
                static = face(self._ground, text=self.text, names=self.selection)
        except ArceeLabError:  # a text that cannot be read; the widget says why
            static = {}
        return {**(data or {}), "text/plain": repr(self), **static}, metadata


def _named(name: str, check: messages.Field, proposal: Any) -> Any:
    """A value that is set, checked; the error says which one it is."""
    try:
        return check(proposal["value"])
    except SettingError as error:
        raise SettingError(f"{name}: {error}") from None


_SET = {"name": messages.one_of(_STATE), "value": messages.anything}
