"""Reviews: an opinion to be added up from clauses of uneven weight.

Strength says how much a clause is worth, a negation near or far reverses it, and hearsay is
worth nothing. A reader that only counts words misses the last two.
"""

import math
from itertools import product
from typing import Any

from arcee_lab.demo.document import Page, words

LABELS = ("bad", "good")
GOOD = words("good fine fresh bright lovely tasty warm clean")
BAD = words("bad dull stale dark nasty bland cold dirty")
THINGS = words("soup bread room service wine garden music table price staff")
STRENGTH = {"very": 0.93, "": 0.73, "rather": 0.59}  # how often a clause tells the truth
STRENGTHS = {"very": 0.35, "": 0.40, "rather": 0.25}
FRAMES = {"plain": 0.64, "not": 0.12, "doubt": 0.08, "hearsay": 0.16}
CLAUSE_FRAMES = {"plain": 0.40, "not": 0.25, "doubt": 0.20, "hearsay": 0.15}
FEWEST, MOST = 1, 5
VERDICT = {"good": "keep", "bad": "skip"}


def write_review(page: Page) -> dict[str, Any]:
    """One to five clauses and the verdict, which reveals the label."""
    label = page.pick(LABELS)
    page.write("Review:")
    weight = 0.0
    for _ in range(page.count(FEWEST, MOST)):
        weight += _clause(page, label)
    page.write("Verdict:")
    prompt_end = page.length
    word = page.add(VERDICT[label], role="verdict", polarity=label)
    best = LABELS[weight > 1e-9]  # where nothing speaks for either, a guess is as good as another
    page.slot(
        "verdict", word.start, word.end, other=VERDICT[LABELS[label == "bad"]], best=best == label
    )
    page.add(".", glued=True, role="mark")
    p_good = 1 / (1 + math.exp(-weight))
    return {"label": label, "prompt_end": prompt_end, "p_good": p_good}


def write_clause(page: Page) -> None:
    """One clause of a review and what it says, whoever says it; nothing to weigh."""
    page.write("Clause:")
    said = page.pick(LABELS)
    _say(page, said, page.draw(CLAUSE_FRAMES), page.draw(STRENGTHS))
    page.write("Means:")
    word = page.add(said, role="meaning", polarity=said)
    page.slot("meaning", word.start, word.end, other=LABELS[said == "bad"])
    page.add(".", glued=True, role="mark")


def _clause(page: Page, label: str) -> float:
    """Write one clause; return what it is worth, as log odds of good against bad."""
    frame = page.draw(FRAMES)
    strength = page.draw(STRENGTHS)
    honest = page.flip(0.5 if frame == "hearsay" else STRENGTH[strength])
    said = label if honest else LABELS[label == "bad"]
    _say(page, said, frame, strength)
    if frame == "hearsay":
        return 0.0
    odds = math.log(STRENGTH[strength] / (1 - STRENGTH[strength]))
    return odds if said == "good" else -odds


def _say(page: Page, said: str, frame: str, strength: str) -> None:
    """Write a clause that says this, in this frame and strength."""
    turned = frame in ("not", "doubt")
    polarity = LABELS[said == "bad"] if turned else said
    hearsay: dict[str, Any] = {"hearsay": frame == "hearsay"}
    tags = hearsay | {"negated": frame == "doubt"}  # true of a word once its left context shows it
    if frame == "doubt":
        page.write("I doubt the", **tags)
    elif frame == "hearsay":
        page.write("Some say the", **tags)
    else:
        page.add("The", **tags)
    page.add(page.pick(THINGS), role="thing", **tags)
    page.add("was", **tags)
    tags = hearsay | {"negated": turned}
    if frame == "not":
        page.add("not", role="negation", **tags)
    if strength:
        page.add(strength, role="strength", **tags)
    word = page.pick(GOOD if polarity == "good" else BAD)
    page.add(word, role="opinion", polarity=polarity, says=said, **tags)
    page.add(".", glued=True, role="mark")


def best_accuracy() -> float:
    """Best possible accuracy of a reader of the clauses; exact, every sum listed."""
    steps = {"": FRAMES["hearsay"]}  # evidence of one clause, given that the review is good
    steps |= {s: (1 - FRAMES["hearsay"]) * p for s, p in STRENGTHS.items() if s}
    plain = (1 - FRAMES["hearsay"]) * STRENGTHS[""]
    outcomes = [(0.0, FRAMES["hearsay"])]
    for s, p in [("very", steps["very"]), ("rather", steps["rather"]), ("", plain)]:
        odds = math.log(STRENGTH[s] / (1 - STRENGTH[s]))
        outcomes += [(odds, p * STRENGTH[s]), (-odds, p * (1 - STRENGTH[s]))]
    right = 0.0
    for clauses in range(FEWEST, MOST + 1):
        for combination in product(outcomes, repeat=clauses):
            weight = sum(odds for odds, _ in combination)
            p = math.prod(p for _, p in combination)
            right += p if weight > 1e-9 else p / 2 if weight > -1e-9 else 0.0
    return right / (MOST - FEWEST + 1)
