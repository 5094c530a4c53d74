"""Which tokens of a conversation are in messages of one role: system, user or assistant.

The tokenizer's chat template is the only source. It writes short conversations of known words, and
the text before, between and after those words is how it marks messages; a text is then read from
its start by these marks. A message ends at the first mark that may follow its role, so a message
that quotes a mark ends there, as it does for the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from arcee_lab.data.tokenization import render, token_offsets
from arcee_lab.errors import SettingError, TextError

ROLES = ("system", "user", "assistant")
_NOT = "not "
# What is tried; templates refuse some of these.
_CONVERSATIONS = (
    ("user", "assistant", "user", "assistant"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant"),
    ("user",),
    ("system", "user"),
    ("assistant", "user", "assistant"),
    ("user", "user", "assistant", "assistant"),
)


@dataclass(frozen=True)
class ChatMarks:
    """How a template marks messages.

    Attributes:
        openings: Role of a first message -> the text before it.
        between: Role, role of the next message -> what may stand between the two.
        endings: Role of a last message -> what may stand after it.
        bos: The tokenizer's BOS, which a text may lack.
    """

    openings: dict[str, tuple[str, ...]]
    between: dict[tuple[str, str], tuple[str, ...]]
    endings: dict[str, tuple[str, ...]]
    bos: str

    def segments(self, text: str) -> list[tuple[str, int, int]] | None:
        """The messages of a text as (role, first character, last plus one); None if it has none."""
        found = self._opened(text)
        if found is None:
            return None
        role, start = found
        segments = []
        while True:
            marks = [
                (at, -len(mark), then, mark)
                for (before, then), several in self.between.items()
                for mark in several
                if before == role and (at := text.find(mark, start)) >= 0
            ]
            if not marks:
                ends = [e for e in self.endings.get(role, ()) if e and text.endswith(e)]
                end = len(text) - max(map(len, ends), default=0)
                return [*segments, (role, start, max(start, end))]
            at, _, then, mark = min(marks)
            segments.append((role, start, at))
            role, start = then, at + len(mark)

    def _opened(self, text: str) -> tuple[str, int] | None:
        """The role of the first message, and where it begins."""
        found = []
        for role, several in self.openings.items():
            for mark in several:
                bare = mark.removeprefix(self.bos) if not text.startswith(self.bos) else mark
                if text.startswith(bare):
                    found.append((len(bare), role))
        if not found:
            return None
        length, role = max(found)
        return role, length


def marks_of(tokenizer: Any) -> ChatMarks:
    """The marks of a tokenizer's chat template.

    Raises:
        TextError: There is no template, or none whose messages can be told apart.
    """
    openings: dict[str, set[str]] = {}
    between: dict[tuple[str, str], set[str]] = {}
    endings: dict[str, set[str]] = {}
    if not getattr(tokenizer, "chat_template", None):
        raise TextError(
            "role= needs the tokenizer's chat template, which says who wrote which token, and this "
            "tokenizer has none; give a chat model's tokenizer, or leave role out."
        )
    for roles in _CONVERSATIONS:
        for role, (before, after, place) in _rendered(tokenizer, roles):
            if place == 0:
                openings.setdefault(role, set()).add(before)
            if isinstance(after, tuple):
                between.setdefault((role, after[0]), set()).add(after[1])
            else:
                endings.setdefault(role, set()).add(after)
    marks = [mark for several in between.values() for mark in several]
    if not marks or not all(mark.strip() for mark in marks):
        raise TextError(
            "the tokenizer's chat template writes nothing between messages by which they could be "
            "told apart; expected marks such as <|im_start|>user. Leave role out."
        )
    _without_default_system(openings, between)
    return ChatMarks(
        openings={role: tuple(sorted(several)) for role, several in openings.items()},
        between={roles: tuple(sorted(several)) for roles, several in between.items()},
        endings={role: tuple(sorted(several)) for role, several in endings.items()},
        bos=getattr(tokenizer, "bos_token", None) or "",
    )


def chosen_tokens(
    tokenizer: Any, marks: ChatMarks, text: str, role: str, *, where: str
) -> tuple[list[int], Bool[np.ndarray, " token"]]:
    """The token ids of a conversation, and which of them are in messages of a role.

    A token belongs to a message if any of its characters does; marks belong to none.

    Args:
        tokenizer: A fast tokenizer.
        marks: Of its template.
        text: A conversation as the template writes it, with or without its BOS.
        role: "system", "user" or "assistant", or one of them after "not ", for all tokens but its.
        where: The name of the text in errors.

    Raises:
        TextError: The text is no conversation of the template, or the tokenizer is slow.
    """
    wanted = role_of(role)
    segments = marks.segments(text)
    if segments is None:
        raise TextError(
            f"{where} does not begin as the tokenizer's chat template begins a conversation; "
            "expected a list of messages with role and content, or the text that the template "
            "makes of one. Leave role out for plain texts."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise TextError("role= needs a fast tokenizer, which tells the characters of each token.")
    ids, offsets = token_offsets(tokenizer, text)
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    inside = np.zeros(len(ids), bool)
    for who, start, end in segments:
        if who == wanted:
            inside |= (starts < end) & (ends > start) & (ends > starts)
    return list(ids), ~inside if role.startswith(_NOT) else inside


def role_of(role: str) -> str:
    """The role that an argument names.

    Raises:
        SettingError: It names none.
    """
    name = role.removeprefix(_NOT) if isinstance(role, str) else role
    if name not in ROLES:
        raise SettingError(
            f"role is {role!r}; expected {', '.join(map(repr, ROLES))}, or one of them after "
            f"{_NOT!r} to leave its tokens out."
        )
    return name


def _rendered(
    tokenizer: Any, roles: Sequence[str]
) -> Iterator[tuple[str, tuple[str, tuple[str, str] | str, int]]]:
    """Of each message the text before and after it, with the role that follows; or nothing."""
    words = [f"qz{number}x{role}x{number}zq" for number, role in enumerate(roles)]
    messages = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
    with suppress(TextError):  # a template may refuse an order of roles
        text = render(tokenizer, messages, where="a conversation")
        places = [text.find(word) for word in words]
        # A template may leave a role out, or write it twice.
        if (
            places == sorted(set(places))
            and min(places) >= 0
            and all(text.count(word) == 1 for word in words)
        ):
            ends = [at + len(word) for at, word in zip(places, words, strict=True)]
            for number, role in enumerate(roles):
                before = text[ends[number - 1] if number else 0 : places[number]]
                if number + 1 < len(roles):
                    mark = text[ends[number] : places[number + 1]]
                    yield role, (before, (roles[number + 1], mark), number)
                else:
                    yield role, (before, text[ends[number] :], number)


def _without_default_system(
    openings: dict[str, set[str]], between: dict[tuple[str, str], set[str]]
) -> None:
    """Takes openings out that hold a system message, which the template writes by itself."""
    for role, several in openings.items():
        for mark in list(several) if role != "system" else ():
            for system in openings.get("system", ()):
                for after in between.get(("system", role), ()):
                    whole = len(mark) > len(system) + len(after)
                    if whole and mark.startswith(system) and mark.endswith(after):
                        several.discard(mark)
