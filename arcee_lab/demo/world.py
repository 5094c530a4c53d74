"""The little world: nine kinds of document, drawn from a seed.

Same version, same seed, same bytes, on every platform. Each document's split follows from a hash of
its prompt, so train, validation and test share none, whatever their seeds.
"""

import difflib
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from arcee_lab.demo.document import Document, Page
from arcee_lab.demo.facts import write_facts
from arcee_lab.demo.news import write_news
from arcee_lab.demo.passages import write_passage
from arcee_lab.demo.reviews import write_clause, write_review
from arcee_lab.demo.stories import write_story
from arcee_lab.demo.strings import write_brackets, write_copy, write_table
from arcee_lab.errors import SettingError
from arcee_lab.runs.arguments import checked

VERSION = "1"  # of every list, probability and rule of this folder; a checkpoint belongs to one

_WRITERS: dict[str, Callable[[Page], dict[str, Any] | None]] = {
    "story": write_story,
    "facts": write_facts,
    "news": write_news,
    "review": write_review,
    "clause": write_clause,
    "passage": write_passage,
    "brackets": write_brackets,
    "copy": write_copy,
    "table": write_table,
}
KINDS = tuple(_WRITERS)
MIX = {  # how often each kind comes, when none is asked for
    "story": 0.18,
    "facts": 0.20,
    "news": 0.14,
    "review": 0.16,
    "clause": 0.04,
    "passage": 0.12,
    "brackets": 0.06,
    "copy": 0.05,
    "table": 0.05,
}
SPLITS = ("train", "validation", "test")


def split_of(prompt: str) -> str:
    """The split a prompt belongs to: a quarter each for validation and test, half for train."""
    quarter = hashlib.sha256(prompt.encode()).digest()[0] % 4
    return {0: "test", 1: "validation"}.get(quarter, "train")


def check_kind(kind: str) -> str:
    """Returns a kind that exists, or raises a ValueError that names the nearest ones."""
    if kind not in _WRITERS:
        near = difflib.get_close_matches(kind, KINDS, n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise SettingError(
            f"There is no kind of document {kind!r}; expected one of {', '.join(KINDS)}{hint}."
        )
    return kind


@checked
def stream(
    kind: str | None, *, seed: int | str, split: str = "train", mix: Mapping[str, float] = MIX
) -> Iterator[Document]:
    """Documents without end; the first n of them are the same for every n.

    Args:
        kind: One of `KINDS`, or None for a mix of all.
        seed: Names the stream.
        split: "train", "validation" or "test".
        mix: Share of each kind, where kind is None; sums to 1.

    Yields:
        Documents of this split.

    Raises:
        ValueError: The kind or the split is unknown.
    """
    if kind is not None:
        check_kind(kind)
    if split not in SPLITS:
        raise SettingError(f"There is no split {split!r}; expected one of {', '.join(SPLITS)}.")
    if kind is None:
        unknown = [name for name in mix if name not in _WRITERS]
        if unknown or not mix or not all(type(p) in (int, float) and p >= 0 for p in mix.values()):
            raise SettingError(
                f"mix is {dict(mix)}; expected a share from 0 to 1 of some of {', '.join(KINDS)}."
            )
    # a text seed goes through SHA-512, the same everywhere; hash() would differ by process
    rng = random.Random(f"little world {VERSION}/{kind}/{split}/{seed}")
    while True:
        chosen = kind or Page(rng).draw(mix)
        while True:  # the kind is kept when the draw is not, or the split would bend the mix
            page = Page(rng)
            facts = _WRITERS[chosen](page) or {}
            document = page.finish(chosen, **facts)
            if split_of(document.prompt) == split:
                break
        yield document


@checked
def documents(
    kind: str | None = None, *, n: int, seed: int = 0, split: str = "test"
) -> list[Document]:
    """Documents of the little world.

    Args:
        kind: One of `KINDS`, or None for a mix of all.
        n: How many, at least 1.
        seed: Same seed, same documents.
        split: "train", "validation" or "test"; they share no document.

    Raises:
        ValueError: Unknown kind or split, or n below 1.

    Example:
        >>> from arcee_lab.demo import documents
        >>> documents("copy", n=1, seed=1)[0].kind
        'copy'
    """
    if n < 1:
        raise SettingError(f"n={n}; expected at least 1 document.")
    return list(itertools.islice(stream(kind, seed=seed, split=split), n))
