"""Passages with a question, put first so that a causal reader knows what to look for.

Who went where is in the passage and nowhere else. Of some people it says "here or there": the
first of the two is right with probability `FIRST_IS_RIGHT`, so nobody can be sure.
"""

from typing import Any

from arcee_lab.demo.document import Page, Word
from arcee_lab.demo.names import PEOPLE, SPOTS

TRAVELLERS = PEOPLE[:24]  # half of the cast travels
PREFIXES = ("Upper", "Lower")
PREFIXED = 0.2
AMBIGUOUS = 0.3
FIRST_IS_RIGHT = 0.8
FEWEST, MOST = 3, 5
MOST_AGAIN = 2  # people mentioned once more, about whom the passage is clear


def write_passage(page: Page) -> dict[str, Any]:
    """A question, three to five people on the move, the answer, and perhaps more of them again."""
    people = page.distinct(TRAVELLERS, page.count(FEWEST, MOST))
    asked = page.pick(people)
    page.write("Where did")
    page.add(asked, role="asked")
    page.write("go?")
    question_end = page.length
    spots = page.distinct(SPOTS, len(people))
    unused = [spot for spot in SPOTS if spot not in spots]
    told: dict[str, list[list[Word]]] = {}
    for person, spot in zip(people, spots, strict=True):
        page.add(person, role="person", asked=person == asked)
        page.add("visited", role="verb")
        told[person] = [_spot(page, spot, asked=person == asked)]
        if page.flip(AMBIGUOUS):
            page.add("or")
            second = page.pick(unused)
            unused.remove(second)
            told[person].append(_spot(page, second, asked=person == asked))
        page.add(".", glued=True, role="mark")
    prompt_end = page.length
    ambiguous = len(told[asked]) > 1
    first_right = page.flip(FIRST_IS_RIGHT) if ambiguous else True
    right = told[asked][0 if first_right else 1]
    page.write("Answer:")
    _again(page, asked, right, "asked", "answer", ambiguous=ambiguous, best=first_right)
    certain = [person for person in people if person != asked and len(told[person]) == 1]
    for person in page.distinct(certain, page.count(0, min(MOST_AGAIN, len(certain)))):
        _again(page, person, told[person][0], "person", "again")
    page.write("Done.")
    return {
        "asked": asked,
        "question_end": question_end,
        "prompt_end": prompt_end,
        "answer_start": right[0].start,
        "answer_end": right[-1].end,
        "ambiguous": ambiguous,
        "best": first_right,
    }


def _again(page: Page, person: str, spot: list[Word], role: str, skill: str, **detail: Any) -> None:
    """Say once more where somebody went: the model's turn to look it up."""
    page.add(person, role=role)
    page.add("visited", role="verb")
    start = page.next_start
    for word in spot:
        page.add(word.text, role="answer", copied=True)
    page.slot(skill, start, page.length, **detail)
    page.add(".", glued=True, role="mark")


def _spot(page: Page, name: str, *, asked: bool) -> list[Word]:
    words = []
    if page.flip(PREFIXED):
        words.append(page.add(page.pick(PREFIXES), role="spot", asked=asked))
    words.append(page.add(name, role="spot", asked=asked))
    return words


def best_exact_match() -> float:
    """Best possible share of right spans; exact."""
    return 1 - AMBIGUOUS * (1 - FIRST_IS_RIGHT)
