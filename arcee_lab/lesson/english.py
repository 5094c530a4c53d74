"""Plain English of our own: sentences with slots, of which any number of documents is written.

What fills a slot is known, so every document comes with the labels of its words.
"""

import random
import string
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

SENTENCES = {
    "story": (
        "{person} walked home along the river and counted {number} {plural} on the way.",
        "In the evening {person} painted the door {colour}, because the old paint was gone.",
        "Nobody in {place} had ever seen a {animal} sleep on a roof.",
        "{person} gave the {animal} some water and waited until it rained.",
        "The {plural} on the table belonged to {person}, who had left for {place}.",
        "When the train from {place} arrived, {person} was already asleep.",
        "A {colour} boat came down the river with {number} {plural} on board.",
        "{person} laughed, but the {animal} did not move.",
    ),
    "letter": (
        "Thank you, {person}, for the {plural} that you sent from {place}.",
        "We moved to {place} {number} weeks ago, and the {animal} likes the garden.",
        "Please bring the {colour} coat, since the nights here are cold.",
        "{person} asked about you and wants to buy {number} of your {plural}.",
        "I have read your letter twice and I still do not know what to say.",
        "The house is small, but it has a {colour} kitchen and a view of the hills.",
        "If you come in spring, {person} will meet you at the station in {place}.",
        "Write soon, and tell {person} that the {animal} is well.",
    ),
    "news": (
        "The city of {place} will close {number} schools next year, the mayor said on Monday.",
        "Police in {place} are looking for a {colour} car that left the road.",
        "{person} won the race in {place} by {number} seconds.",
        "Farmers near {place} lost most of their {plural} to the storm.",
        "A {animal} escaped from the zoo in {place} and was found {number} hours later.",
        "The price of {plural} rose again, although the harvest was good.",
        "{person} has been named head of the museum in {place}.",
        "Trains between {place} and the coast will not run on Sunday.",
    ),
    "manual": (
        "Cut the {plural} into small pieces and boil them for {number} minutes.",
        "Press the {colour} button, wait {number} seconds, and open the lid.",
        "Do not wash the {plural} in hot water.",
        "Turn the wheel until the {colour} mark points up.",
        "Keep the {animal} away from the machine while it is running.",
        "Mix the flour with {number} spoons of oil and add the {plural}.",
        "Store the {plural} in a dry place and close the box.",
        "If the {colour} light stays on, call the shop in {place}.",
    ),
    "science": (
        "The {animal} sleeps {number} hours each day and hunts at night.",
        "Most {plural} of this kind are {colour} when they are young.",
        "In {number} of the tests the water near {place} was too warm.",
        "{person} measured how far a {animal} can jump.",
        "Seen through {colour} glass, all the {plural} look alike.",
        "The {plural} were dried, weighed and sorted by size.",
        "Every winter about {number} geese fly from {place} to the south.",
        "{person} and {number} students repeated the test with other {plural}.",
    ),
}
FILLINGS = {
    "person": "Anna Peter Maria Tom Julia David Laura Martin Emma Paul",
    "place": "London Paris Rome Berlin Boston Dublin Vienna Oslo Chicago Madrid",
    "colour": "red blue green yellow white black brown grey",
    "number": "two three four five six seven eight nine ten twelve twenty thirty",
    "plural": "apples carrots onions potatoes beans pears plums nuts seeds mushrooms",
    "animal": "dog cat horse fox bear goat wolf rabbit",
}
CONCEPTS = {  # slot -> what we call it
    "person": "person",
    "place": "place",
    "colour": "colour",
    "number": "number",
    "plural": "plural noun",
    "animal": "animal",
}
PROMPT = "The keys near the window were red, and the boy by the door was asleep."

SUBJECTS = "key book boy girl tree car road letter picture student farmer door"
OTHERS = "window river lamp table garden house teacher wall bridge field station clock"
BETWEEN = ("near", "behind", "by", "in front of", "next to", "under")
PLURAL_ANSWERS, SINGULAR_ANSWERS = ("are", "were", "have"), ("is", "was", "has")

THINGS = "soup bread room music garden film book coffee dinner table hotel concert"
GOOD = "good great lovely perfect wonderful excellent"
BAD = "bad poor awful horrible terrible dreadful"
HAPPY, UNHAPPY = ("happy", "pleased", "glad"), ("sad", "angry", "disappointed")

STRINGS = (
    "river window garden paper silver market winter summer doctor kitchen mountain island bottle "
    "letter morning music water table flower engine planet forest"
)
_SENTENCES_EACH = 3
_LONGEST = 9  # words of a string that is said twice


class Written(NamedTuple):
    """One document.

    Attributes:
        kind: Its kind.
        text: Its text.
        spans: Concept -> where its words are, as first and last-plus-one character.
    """

    kind: str
    text: str
    spans: dict[str, tuple[tuple[int, int], ...]]


def documents(kind: str, *, n: int, seed: int) -> list[Written]:
    """Documents of three sentences each, no two alike.

    Args:
        kind: A key of `SENTENCES`.
        n: How many.
        seed: Random seed.
    """
    return list(islice(_distinct(kind, random.Random(f"{kind} {seed}")), n))


def _distinct(kind: str, source: random.Random) -> Iterator[Written]:
    seen = set()
    while True:
        one = _write(kind, source)
        if one.text not in seen:
            seen.add(one.text)
            yield one


def _write(kind: str, source: random.Random) -> Written:
    text = ""
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in CONCEPTS.values()}
    for sentence in source.sample(SENTENCES[kind], _SENTENCES_EACH):
        text += " " if text else ""
        for plain, slot, _, _ in string.Formatter().parse(sentence):
            text += plain
            if slot is not None:
                word = source.choice(FILLINGS[slot].split())
                spans[CONCEPTS[slot]].append((len(text), len(text) + len(word)))
                text += word
    return Written(kind, text, {name: tuple(found) for name, found in spans.items()})


def prompt_pairs(half: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Twelve prompts with a plural subject, and the same with a singular one.

    The other noun is plural in half of the pairs, so it says nothing.

    Args:
        half: 0 or 1: which twelve of the twenty-four.
    """
    subjects, others = SUBJECTS.split(), OTHERS.split()
    plural, singular = [], []
    for number, subject in enumerate(subjects):
        other = others[(number + 5 * half) % len(others)]
        between = BETWEEN[(number + half) % len(BETWEEN)]
        rest = f"{between} the {other}{'s' if (number + half) % 2 else ''}"
        plural.append(f"The {subject}s {rest}")
        singular.append(f"The {subject} {rest}")
    return tuple(plural), tuple(singular)


def review_pairs(half: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Twelve reviews of a thing that was good, and the same of one that was bad.

    What others say of another thing is good in half of the pairs, so it says nothing.

    Args:
        half: 0 or 1: which twelve of the twenty-four.
    """
    things, words = THINGS.split(), (GOOD.split(), BAD.split())
    good, bad = [], []
    for number, thing in enumerate(things):
        other = things[(number + 3 + 4 * half) % len(things)]
        heard = words[(number + half) % 2][(number + 2) % len(words[0])]
        rest = f"Others said that the {other} was {heard}. When I left, I was"
        for found, opinions in ((good, words[0]), (bad, words[1])):
            found.append(f"The {thing} was {opinions[(number + half) % len(opinions)]}. {rest}")
    return tuple(good), tuple(bad)


def strings(n: int, seed: int) -> list[tuple[str, ...]]:
    """Strings of five to nine different words."""
    source = random.Random(f"strings {seed}")
    return [tuple(source.sample(STRINGS.split(), source.randint(5, _LONGEST))) for _ in range(n)]
