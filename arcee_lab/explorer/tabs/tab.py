"""What makes a tab."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from arcee_lab.explorer.messages import Question


@dataclass(frozen=True)
class Tab:
    """A tab of the explorer.

    Attributes:
        name: Its name, and that of its script in `page`.
        title: What is written on it.
        questions: What its script asks, by the kind of message.
    """

    name: str
    title: str
    questions: Mapping[str, Question] = field(default_factory=dict)
