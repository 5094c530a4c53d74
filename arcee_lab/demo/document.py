"""A document of the little world: its text, what each word is, and how much there was to know.

A document is written word by word through a `Page`, which keeps three books at once: the
characters, the tags of each word, and the information content of every choice that led there.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")


def words(text: str) -> tuple[str, ...]:
    """A list of words, written as running text."""
    return tuple(text.split())


@dataclass(frozen=True)
class Word:
    """One word (or mark of punctuation) and what is true of it.

    Attributes:
        text: The word as written, without the space before it.
        start: Index of its first character in the document.
        end: Index after its last character.
        tags: What is true of it, e.g. `{"role": "noun", "number": "plural"}`; see
            docs/explanation/demo.md.
    """

    text: str
    start: int
    end: int
    tags: Mapping[str, Any]


@dataclass(frozen=True)
class Slot:
    """A place where a reader of the left context can be asked what comes next.

    Attributes:
        skill: What it asks of the reader: agreement, fact, copy, recall, verdict, answer or closer.
        start: Index of the first character of the right continuation.
        end: Index after its last character.
        other: A wrong continuation to compare it with, where the skill is a choice of two.
        detail: What sorts the slots of a skill, e.g. `{"attractors": 2}`.
    """

    skill: str
    start: int
    end: int
    other: str | None = None
    detail: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Document:
    """One generated document.

    Attributes:
        kind: The family it belongs to, one of `KINDS`.
        text: Its characters. Tokenise with the demo's tokenizer, which adds the leading space.
        words: Its words in order. Joined by their positions they are the text.
        nats: Exact information content of the text, given its kind, in nats.
        slots: The places that test a skill.
        facts: What is true of the whole document: the label of a review, the span of an answer.
    """

    kind: str
    text: str
    words: tuple[Word, ...]
    nats: float
    slots: tuple[Slot, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def prompt(self) -> str:
        """The text before the part that gives the answer away; the whole text for most kinds."""
        return self.text[: self.facts.get("prompt_end", len(self.text))]

    def record(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return {
            "kind": self.kind,
            "text": self.text,
            "nats": self.nats,
            "words": [
                {"text": w.text, "start": w.start, "end": w.end, **w.tags} for w in self.words
            ],
            "slots": [
                {"skill": s.skill, "start": s.start, "end": s.end, "other": s.other, **s.detail}
                for s in self.slots
            ],
            "facts": dict(self.facts),
        }


class Page:
    """A document in the making: words go in, every choice is paid for in nats.

    Only `Random.random` is used, whose stream Python promises to keep for ever; `choice`, `sample`
    and `shuffle` have changed their streams before.
    """

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._text: list[str] = []
        self._length = 0
        self._words: list[Word] = []
        self._slots: list[Slot] = []
        self.nats = 0.0

    @property
    def length(self) -> int:
        """Number of characters so far."""
        return self._length

    @property
    def next_start(self) -> int:
        """Where the next word would start, its space not counted."""
        return self._length + (1 if self._length else 0)

    def pick(self, items: Sequence[T], *, free: bool = False) -> T:
        """One of the items, each as likely; costs log(len(items)) nats unless `free`."""
        if not free:
            self.nats += math.log(len(items))
        return items[int(self._rng.random() * len(items))]

    def count(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return self.pick(range(low, high + 1))

    def flip(self, p: float, *, free: bool = False) -> bool:
        """True with probability p."""
        heads = self._rng.random() < p
        if not free:
            self.nats -= math.log(p if heads else 1 - p)
        return heads

    def draw(self, table: Mapping[T, float], *, free: bool = False) -> T:
        """A key of the table, as likely as its value; the values sum to 1."""
        left = self._rng.random()
        possible = [key for key, p in table.items() if p]
        key = possible[-1]  # where rounding leaves a remainder
        for candidate in possible:
            left -= table[candidate]
            if left < 0:
                key = candidate
                break
        if not free:
            self.nats -= math.log(table[key])
        return key

    def distinct(self, items: Sequence[T], k: int) -> list[T]:
        """K different items in order, each order as likely."""
        rest = list(items)
        return [rest.pop(rest.index(self.pick(rest))) for _ in range(k)]

    def add(self, text: str, *, glued: bool = False, **tags: Any) -> Word:
        """Write one word, after a space unless `glued` to the one before."""
        start = self._length if glued else self.next_start
        if start > self._length:
            self._text.append(" ")
        word = Word(text, start, start + len(text), tags)
        self._text.append(text)
        self._length = word.end
        self._words.append(word)
        return word

    def write(self, text: str, **tags: Any) -> None:
        """Write several fixed words; marks of punctuation are glued to the word before."""
        for part in text.split():
            while part:
                head = part.rstrip(".,:;?")
                if head:
                    self.add(head, **tags)
                    part = part[len(head) :]
                else:
                    self.add(part[0], glued=True, role="mark")
                    part = part[1:]

    def slot(
        self, skill: str, start: int, end: int, *, other: str | None = None, **detail: Any
    ) -> None:
        """Note that the characters from start to end test a skill."""
        self._slots.append(Slot(skill, start, end, other, detail))

    def finish(self, kind: str, **facts: Any) -> Document:
        """The finished document."""
        return Document(
            kind, "".join(self._text), tuple(self._words), self.nats, tuple(self._slots), facts
        )
