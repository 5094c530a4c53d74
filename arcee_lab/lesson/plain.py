"""The material of plain English, for models that read it."""

from functools import cache
from pathlib import Path

from arcee_lab.lesson import english
from arcee_lab.lesson.material import SIDES, Material, Prompts, SaidTwice
from arcee_lab.neurons.labels.labelled import Labels

TASKS = Path(__file__).parent / "tasks"
EACH = 40  # documents per kind
_FIRST = 1000  # seed of the first documents with labels


@cache
def material() -> Material:
    """Five kinds of text, with the labels of six concepts."""
    return Material(
        source="english",
        domains={
            kind: tuple(one.text for one in english.documents(kind, n=EACH, seed=0))
            for kind in english.SENTENCES
        },
        prompt=english.PROMPT,
        labels=labels,
        pairs=pairs,
        copies=copies,
        tasks=tasks,
    )


def tasks() -> object:
    """Agreement as a choice of two words, and the price of the texts."""
    from arcee_lab.evals.tasks.find import find_tasks

    return find_tasks("arcee_english_*", include=[TASKS])


def labels(side: str, n: int) -> Labels:
    """The words that filled the slots, by concept; a fifth of the documents is of each kind."""
    seed = _FIRST + SIDES.index(side)
    each = max(1, n // len(english.SENTENCES))
    found = [
        one for kind in english.SENTENCES for one in english.documents(kind, n=each, seed=seed)
    ]
    return Labels(
        tuple(one.text for one in found),
        {name: tuple(one.spans[name] for one in found) for name in english.CONCEPTS.values()},
        domains=tuple(one.kind for one in found),
    )


def pairs(question: str, side: str) -> Prompts:
    """A plural subject and a singular one, before another noun; or two opinions of one thing."""
    if question == "verdict":
        good, bad = english.review_pairs(SIDES.index(side))
        happy, sad = english.HAPPY, english.UNHAPPY
        return Prompts(good, bad, happy, sad, "a happy end of a review rather than a sad one")
    clean, corrupt = english.prompt_pairs(SIDES.index(side))
    return Prompts(
        clean,
        corrupt,
        english.PLURAL_ANSWERS,
        english.SINGULAR_ANSWERS,
        "a plural verb rather than a singular one",
    )


def copies(n: int, seed: int) -> list[SaidTwice]:
    """Words in a row, a full stop, and the same words again."""
    return [_twice(words) for words in english.strings(n, seed)]


def _twice(words: tuple[str, ...]) -> SaidTwice:
    text, sides = "", []
    for _ in range(2):
        spans = []
        for word in words:
            text += " " if text else ""
            spans.append((len(text), len(text) + len(word)))
            text += word
        sides.append(tuple(spans))
        text += " ."
    return SaidTwice(text, sides[0], sides[1])
