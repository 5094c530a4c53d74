"""The tabs, in their order, and their scripts as the one module that anywidget takes.

Each script of `page` stands in a block of its own, so that its names are its own; the frame comes
first. There is no build step: the browser runs what the files say.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from arcee_lab.explorer.messages import Question
from arcee_lab.explorer.tabs import ablation, attention, lens, neurons, text
from arcee_lab.explorer.tabs.tab import Tab

TABS: tuple[Tab, ...] = (neurons.TAB, text.TAB, ablation.TAB, attention.TAB, lens.TAB)


def questions() -> Mapping[str, Question]:
    """Everything that a script may ask, by the kind of message."""
    return {kind: question for tab in TABS for kind, question in tab.questions.items()}


@cache
def script() -> str:
    """The JavaScript of the frame and of all tabs, an ES module."""
    blocks = [f"{{ // {tab.name}.js\n{_read(f'{tab.name}.js')}}}\n" for tab in TABS]
    return "\n".join([_read("frame.js"), *blocks, "export default { render };\n"])


@cache
def style() -> str:
    """The style sheet."""
    return _read("explorer.css")


def _read(name: str) -> str:
    return (files("arcee_lab.explorer") / "page" / name).read_text(encoding="utf-8")
