"""What a message of the browser may hold. Nothing of it is trusted: each field is checked.

A message is `{"id": ..., "kind": ..., field: value, ...}`. The answer has the same id, and either
what was asked for or `error`, one sentence.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from arcee_lab.errors import SettingError

Field = Callable[[Any], Any]  # gives the value, or raises SettingError
MOST_TEXT = 2_000  # characters
_ID = re.compile(r"[a-z0-9]{1,16}-\d{1,12}")


class Answer(NamedTuple):
    """What is sent back.

    Attributes:
        body: As JSON.
        buffers: Arrays, as bytes.
    """

    body: dict[str, Any]
    buffers: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Question:
    """A kind of message.

    Attributes:
        answer: Called with the ground and the fields.
        fields: What the message has to hold.
    """

    answer: Callable[..., Answer]
    fields: Mapping[str, Field] = field(default_factory=dict)


class Message(NamedTuple):
    """A message that was read.

    Attributes:
        id: Of the message; begins with that of the view.
        kind: Its kind.
        channel: Of the messages of one channel, only the latest is answered.
        values: Its fields.
    """

    id: str
    kind: str
    channel: tuple[str, ...]
    values: dict[str, Any]


def id_of(content: Any) -> str | None:
    """The id of a message, or None if it has none that can be answered."""
    found = content.get("id") if isinstance(content, dict) else None
    return found if isinstance(found, str) and _ID.fullmatch(found) else None


def read(content: Any, questions: Mapping[str, Question]) -> Message:
    """A message, checked.

    Raises:
        SettingError: It is of no known kind, lacks a field, has one more, or one that is wrong.
    """
    name = id_of(content)
    if name is None:
        raise SettingError("A message has no id; expected one.")
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in questions:
        raise SettingError(f"The kind {kind!r:.60} is unknown; expected {', '.join(questions)}.")
    fields = questions[kind].fields
    given = {key: value for key, value in content.items() if key not in ("id", "kind")}
    if set(given) != set(fields):
        raise SettingError(
            f"A message of the kind {kind!r} has the fields {str(sorted(map(str, given)))[:200]}; "
            f"expected {sorted(fields)}."
        )
    values = {}
    for key, check in fields.items():
        try:
            values[key] = check(given[key])
        except SettingError as error:
            raise SettingError(f"{key}: {error}") from None
    channel = name.split("-")[0], kind, str(values.get("name", ""))
    return Message(name, kind, channel, values)


def whole(low: int, high: int) -> Field:
    """A whole number from low to high."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise SettingError(f"got {value!r:.60}; expected a whole number from {low} to {high}.")
        return value

    return check


def number(low: float, high: float) -> Field:
    """A finite number from low to high."""

    def check(value: Any) -> float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not low <= value <= high:  # NaN is neither
            raise SettingError(f"got {value!r:.60}; expected a number from {low:g} to {high:g}.")
        return float(value)

    return check


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise SettingError(f"got {value!r:.60}; expected true or false.")
    return value


def text(value: Any) -> str:
    """A text of at most `MOST_TEXT` characters that has a UTF-8 form."""
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        got = f"{len(value):,} characters" if isinstance(value, str) else repr(value)[:60]
        raise SettingError(f"got {got}; expected a text of at most {MOST_TEXT:,} characters.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SettingError("got half of a surrogate pair; expected valid text.") from None
    return value


def one_of(words: Sequence[str]) -> Field:
    """One of some words."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise SettingError(f"got {value!r:.60}; expected one of {', '.join(words)}.")
        return value

    return check


def listed(most: int) -> Field:
    """A list of at most so many short strings."""

    def check(value: Any) -> list[str]:
        fits = isinstance(value, list) and len(value) <= most
        if not fits or not all(isinstance(one, str) and len(one) <= 40 for one in value):
            raise SettingError(f"got {value!r:.60}; expected a list of at most {most} names.")
        return value

    return check


def anything(value: Any) -> Any:
    """A value that the receiver checks."""
    return value
