"""The material of the demo's world, where the truth of every word is known."""

import random
from functools import cache
from itertools import islice

from arcee_lab.demo import KINDS, documents, stream
from arcee_lab.demo.document import Document
from arcee_lab.demo.reviews import BAD, GOOD, THINGS, VERDICT
from arcee_lab.demo.stories import (
    INTRANSITIVE,
    NOUNS,
    NUMBERS,
    PREPOSITIONS,
    TRANSITIVE,
    form,
    inflect,
)
from arcee_lab.lesson.material import SIDES, Material, Prompts, SaidTwice
from arcee_lab.neurons.labels import of_demo
from arcee_lab.neurons.labels.labelled import Labels

PROMPT = "The lamp above the doors finds the red king."
_EACH = 60  # documents per kind
_PAIRS = 24
_SHORTEST = 3  # syllables of a string that is said twice
_SEED = 1


@cache
def material() -> Material:
    """Documents of every kind, on which the demo was not trained, with all that is true of them."""
    truth = {kind: tuple(documents(kind, n=_EACH, seed=_SEED, split="test")) for kind in KINDS}
    return Material(
        source="demo",
        domains={kind: tuple(one.text for one in found) for kind, found in truth.items()},
        prompt=PROMPT,
        labels=_labels,
        pairs=_pairs,
        copies=_copies,
        tasks=_tasks,
        truth=truth,
    )


def _tasks() -> object:
    from arcee_lab.evals.tasks.find import find_tasks

    return find_tasks("arcee_all")


def _labels(side: str, n: int) -> Labels:
    return of_demo.demo("story", part=side, n=n)


def _pairs(question: str, side: str) -> Prompts:
    return (_verdict if question == "verdict" else _agreement)(side)


def _verdict(side: str) -> Prompts:
    """Reviews of one clause that speaks for its writer, and one of hearsay, worth nothing."""
    source = random.Random(f"verdict {side}")
    clean, corrupt = [], []
    for number in range(_PAIRS):
        thing, other = source.sample(THINGS, 2)
        heard = source.choice((GOOD, BAD)[number % 2])
        rest = f"Some say the {other} was {heard}. Verdict:"
        clean.append(f"Review: The {thing} was very {source.choice(GOOD)}. {rest}")
        corrupt.append(f"Review: The {thing} was very {source.choice(BAD)}. {rest}")
    return Prompts(
        tuple(clean),
        tuple(corrupt),
        (VERDICT["good"],),
        (VERDICT["bad"],),
        "a good verdict rather than a bad one",
    )


def _agreement(side: str) -> Prompts:
    source = random.Random(SIDES.index(side))
    clean, corrupt = [], []
    for number in range(_PAIRS):
        subject, other = source.sample(NOUNS, 2)
        rest = f"{source.choice(PREPOSITIONS)} the {form(other, NUMBERS[number % 2])}"
        clean.append(f"The {form(subject, 'plural')} {rest}")
        corrupt.append(f"The {form(subject, 'singular')} {rest}")
    verbs = INTRANSITIVE + TRANSITIVE
    return Prompts(
        tuple(clean),
        tuple(corrupt),
        tuple(inflect(verb, "plural") for verb in verbs),
        tuple(inflect(verb, "singular") for verb in verbs),
        "a plural verb rather than a singular one",
    )


def _copies(n: int, seed: int) -> list[SaidTwice]:
    found = (_said(document) for document in stream("copy", seed=seed, split="test"))
    return list(islice((one for one in found if one is not None), n))


def _said(document: Document) -> SaidTwice | None:
    """The two sayings; None where a syllable comes twice within one of them."""
    words = [word for word in document.words if word.tags.get("role") == "syllable"]
    half = len(words) // 2
    if half < _SHORTEST or len({word.text for word in words}) != half:
        return None
    spans = [(word.start, word.end) for word in words]
    return SaidTwice(document.text, tuple(spans[:half]), tuple(spans[half:]))
