"""Stories: subjects and verbs that must agree across whatever is between them.

A noun of the other number between a subject and its verb is an attractor (Linzen et al. 2016). A
subject may carry a chain of prepositional phrases, a subject relative or an object relative.
"""

from typing import Any

from arcee_lab.demo.document import Page, words

NOUNS = words(
    "dog cat bird horse goat farmer baker sailor teacher singer child king guard "
    "boat cart door lamp clock tree stone river cloud kettle wagon"
)
PLURALS = {noun: noun + "s" for noun in NOUNS} | {"child": "children"}
INTRANSITIVE = words("run wait sleep fall sing turn shine move stop stay")
TRANSITIVE = words("see hear follow like help find meet know")
PREPOSITIONS = words("near behind under above beside")
ADJECTIVES = words("old young small big red green quiet wet")
ADVERBS = words("often slowly again here today")

MODIFIED = {"none": 0.36, "chain": 0.40, "subject relative": 0.12, "object relative": 0.12}
CHAIN_GOES_ON = 0.55
LONGEST_CHAIN = 3
NUMBERS = ("singular", "plural")


def form(noun: str, number: str) -> str:
    """A noun in its singular or plural form."""
    return noun if number == "singular" else PLURALS[noun]


def inflect(verb: str, number: str) -> str:
    """A verb in the present, agreeing with a subject of this number."""
    return verb + "s" if number == "singular" else verb


def write_story(page: Page) -> None:
    """Three to five sentences about farm animals, craftsmen and things."""
    for _ in range(page.count(3, 5)):
        _sentence(page)


def _sentence(page: Page) -> None:
    number, between = _subject(page)
    if page.flip(0.5):
        _verb(page, INTRANSITIVE, number, between)
        if page.flip(0.3):
            page.add(page.pick(ADVERBS), role="adverb")
    else:
        _verb(page, TRANSITIVE, number, between)
        _noun_phrase(page, adjective=0.3)
    page.add(".", glued=True, role="mark")


def _noun_phrase(page: Page, *, adjective: float, the: str = "the", **tags: Any) -> str:
    """Write the, perhaps an adjective, and a noun; return the noun's number."""
    page.add(the, role="article", **tags)
    if page.flip(adjective):
        page.add(page.pick(ADJECTIVES), role="adjective", **tags)
    number = page.pick(NUMBERS)
    page.add(form(page.pick(NOUNS), number), role="noun", number=number, **tags)
    return number


def _subject(page: Page) -> tuple[str, list[str]]:
    """Write a subject with what modifies it; return its number and those of the nouns between."""
    number = _noun_phrase(page, adjective=0.2, the="The", part="subject")
    scope: dict[str, Any] = {"subject": number}
    between: list[str] = []
    modifier = page.draw(MODIFIED)
    if modifier == "chain":
        for link in range(LONGEST_CHAIN):
            page.add(page.pick(PREPOSITIONS), role="preposition", **scope)
            between.append(_noun_phrase(page, adjective=0.1, **scope))
            if link + 1 < LONGEST_CHAIN and not page.flip(CHAIN_GOES_ON):
                break
    elif modifier == "subject relative":
        page.add("that", role="relative", **scope)
        _verb(page, TRANSITIVE, number, [], **scope)
        between.append(_noun_phrase(page, adjective=0.1, **scope))
    elif modifier == "object relative":
        page.add("that", role="relative", **scope)
        inner = _noun_phrase(page, adjective=0.1, **scope)
        _verb(page, TRANSITIVE, inner, [], **scope)
        between.append(inner)
    return number, between


def _verb(page: Page, verbs: tuple[str, ...], number: str, between: list[str], **tags: Any) -> None:
    verb = page.pick(verbs)
    attractors = sum(other != number for other in between)
    right = inflect(verb, number)
    wrong = inflect(verb, NUMBERS[number == "singular"])
    word = page.add(right, role="verb", number=number, attractors=attractors, **tags)
    page.slot("agreement", word.start, word.end, other=wrong, attractors=attractors)
