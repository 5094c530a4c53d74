"""What a lesson is made of, wherever it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from arcee_lab.demo.document import Document
    from arcee_lab.neurons.labels.labelled import Labels

Source = Literal["demo", "english", "yours"]
SIDES = ("search", "confirmation")  # what is chosen on one is confirmed on the other
QUESTIONS = ("agreement", "verdict")  # what pairs of prompts ask


@dataclass(frozen=True)
class Prompts:
    """Prompts of which two differ in one word, and what follows each of the two.

    Attributes:
        clean: The first of each pair.
        corrupt: The second.
        right: Words that may follow a clean prompt.
        wrong: Words that may follow a corrupt one.
        question: What the pairs ask of the model, in a few words.
    """

    clean: tuple[str, ...]
    corrupt: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    question: str


@dataclass(frozen=True)
class SaidTwice:
    """A text that says a string of words twice.

    Attributes:
        text: The text.
        first: First and last-plus-one character of each word, when it is said first.
        second: Likewise, when it is said again.
    """

    text: str
    first: tuple[tuple[int, int], ...]
    second: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Material:
    """Texts, and what is known about them.

    Attributes:
        source: "demo", "english" or "yours".
        domains: Kind of text -> its documents.
        prompt: A short text to read closely.
        labels: Takes a side of `SIDES` and a number of documents; gives labels of words.
        pairs: Takes one of `QUESTIONS` and a side; gives its prompts.
        copies: Takes a number and a seed; gives texts that say a string twice.
        tasks: Names of evaluation tasks, with the folders that hold them.
        truth: Kind of text -> its documents with the tags of every word; None where nobody knows.
    """

    source: Source
    domains: Mapping[str, tuple[str, ...]]
    prompt: str
    labels: Callable[[str, int], "Labels"]
    pairs: Callable[[str, str], Prompts]
    copies: Callable[[int, int], list[SaidTwice]]
    tasks: Callable[[], Any]
    truth: "Mapping[str, tuple[Document, ...]] | None" = None
