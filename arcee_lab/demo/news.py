"""News with names that a person, a place and an organisation may share.

The type of a bare name is settled by what is left of it (a causal reader sees that much) and
often only by what is right of it (the verb, an apposition). Both readers' best guess is
computed here from the same tables that write the text, and stored with each name.
"""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

from arcee_lab.demo.document import Page, words
from arcee_lab.demo.names import FIRST_NAMES, SURNAMES

TYPES = ("PER", "LOC", "ORG")
SUBJECT = {"PER": 0.45, "LOC": 0.15, "ORG": 0.40}
TAILS: dict[str, Mapping[str, float]] = {  # the preposition, and what may follow it
    "in": {"PER": 0.0, "LOC": 1.0, "ORG": 0.0},
    "with": {"PER": 0.6, "LOC": 0.0, "ORG": 0.4},
    "for": {"PER": 0.3, "LOC": 0.0, "ORG": 0.7},
    "near": {"PER": 0.1, "LOC": 0.8, "ORG": 0.1},
}
TAIL = 0.7
FORMS: dict[str, Mapping[str, float]] = {  # how a name is written; {} is the surname
    "PER": {"{}": 0.45, "first {}": 0.55},
    "LOC": {"{}": 0.6, "Port {}": 0.2, "{} Vale": 0.2},
    "ORG": {"{}": 0.5, "{} Works": 0.25, "{} Guild": 0.25},
}
_OWN_VERBS = {
    "PER": words("smiled resigned spoke retired"),
    "LOC": words("flooded froze slept burned"),
    "ORG": words("merged hired expanded struck"),
}
_SHARED_VERBS = words("won waited grew")
_OWN = 0.85
VERBS = {
    t: {v: _OWN / len(own) for v in own} | {v: (1 - _OWN) / 3 for v in _SHARED_VERBS}
    for t, own in _OWN_VERBS.items()
}
APPOSED = 0.6
APPOSITIONS = {
    "PER": ("singer", "poet", "judge"),
    "LOC": ("town", "village", "harbour"),
    "ORG": ("firm", "union", "bank"),
}
_LEANING = 12.0  # how much more often a leaning surname stands for its own type


def _surname_table() -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for kind in TYPES:
        weights = {}
        for i, name in enumerate(SURNAMES):
            leans = (*TYPES, None)[i % 4]
            weights[name] = 3.0 if leans is None else _LEANING if leans == kind else 1.0
        total = sum(weights.values())
        table[kind] = {name: w / total for name, w in weights.items()}
    return table


NAMES = _surname_table()  # type -> surname -> probability


def write_news(page: Page) -> None:
    """Two to four sentences, each about someone or something, with an optional tail."""
    for _ in range(page.count(2, 4)):
        kind = page.draw(SUBJECT, free=True)
        verb_table = VERBS[kind]
        mention = _draw_mention(page, kind)
        verb = page.draw(verb_table, free=True)
        right = {t: VERBS[t].get(verb, 0.0) for t in TYPES}
        _write_mention(page, kind, *mention, prior=SUBJECT, right=right)
        page.add(verb, role="verb")
        if page.flip(TAIL):
            preposition = page.pick(tuple(TAILS))
            page.add(preposition, role="preposition")
            prior = TAILS[preposition]
            kind = page.draw(prior, free=True)
            mention = _draw_mention(page, kind)
            noun = page.pick(APPOSITIONS[kind], free=True) if page.flip(APPOSED) else None
            right = {
                t: 1.0 if noun is None else (noun in APPOSITIONS[t]) / len(APPOSITIONS[t])
                for t in TYPES
            }
            _write_mention(page, kind, *mention, prior=prior, right=right)
            if noun:
                page.write(", the")
                page.add(noun, role="apposition")
        page.add(".", glued=True, role="mark")


def _draw_mention(page: Page, kind: str) -> tuple[str, str]:
    return page.draw(FORMS[kind], free=True), page.draw(NAMES[kind], free=True)


def first_word_weights(prior: Mapping[str, float], surname: str) -> dict[str, float]:
    """What a causal reader knows when a mention opens with this surname: p(type, surname first)."""
    return {
        t: prior[t]
        * NAMES[t][surname]
        * sum(p for shape, p in FORMS[t].items() if shape.startswith("{}"))
        for t in TYPES
    }


def _write_mention(
    page: Page,
    kind: str,
    shape: str,
    surname: str,
    *,
    prior: Mapping[str, float],
    right: Mapping[str, float],
) -> None:
    """Write a name and pay for it and for `right`, the type summed out where it stays hidden."""
    joint = {t: prior[t] * FORMS[t].get(shape, 0.0) * NAMES[t][surname] * right[t] for t in TYPES}
    page.nats -= math.log(sum(joint.values()))
    words = [surname if part == "{}" else part for part in shape.split()]
    if words[0] == "first":
        words[0] = page.pick(FIRST_NAMES)
    opens = first_word_weights(prior, surname) if words[0] == surname else {kind: 1.0}
    causal = max(opens, key=lambda t: opens[t])
    both = max(joint, key=lambda t: joint[t])
    for i, word in enumerate(words):
        tags: dict[str, Any] = {"role": "name", "entity": kind, "bio": ("I-" if i else "B-") + kind}
        if i == 0:
            tags |= {"best_causal": causal, "best_both": both}
        page.add(word, **tags, ambiguous=max(joint.values()) < sum(joint.values()))


def best_accuracy(*, both_sides: bool) -> float:
    """Best possible share of first words of names given their right type; exact.

    A causal reader knows the slot and the surname; one that sees both sides also knows the form
    of the name, the verb or the apposition. One mention in a sentence is the subject, and `TAIL`
    more follow a preposition.
    """
    total = 0.0
    slots = [(1.0, SUBJECT, True)] + [(TAIL / len(TAILS), prior, False) for prior in TAILS.values()]
    for weight, prior, subject in slots:
        for surname in SURNAMES:
            if not both_sides:
                weights = first_word_weights(prior, surname)
                total += weight * max(weights.values())
                other = {t: prior[t] * NAMES[t][surname] - weights[t] for t in TYPES}
                total += weight * sum(other.values())  # a first name, or "Port", decides the type
                continue
            total += weight * _best_with_right(prior, surname, subject)
    return total / (1.0 + TAIL)


def best_label_accuracy() -> float:
    """Best possible share of words that a causal reader labels right; exact, over all sentences.

    It errs at first words of names alone: what follows the first word settles the type.
    """
    errors = (1.0 + TAIL) * (1.0 - best_accuracy(both_sides=False))
    sizes = {t: sum(p * len(shape.split()) for shape, p in FORMS[t].items()) for t in TYPES}
    subject = sum(SUBJECT[t] * sizes[t] for t in TYPES)
    object_ = sum(prior[t] * sizes[t] for prior in TAILS.values() for t in TYPES) / len(TAILS)
    apposition = 3  # a comma, "the", the noun
    tail = 1 + object_ + APPOSED * apposition
    return 1.0 - errors / (subject + 2 + TAIL * tail)  # 2: the verb, the full stop


def _best_with_right(prior: Mapping[str, float], surname: str, subject: bool) -> float:
    total = 0.0
    shapes = {shape for forms in FORMS.values() for shape in forms}
    verbs = {verb for table in VERBS.values() for verb in table}
    rights: list[Mapping[str, float]]
    if subject:
        rights = [{t: VERBS[t].get(verb, 0.0) for t in TYPES} for verb in verbs]
    else:
        rights = [dict.fromkeys(TYPES, 1 - APPOSED)]
        rights += [{t: APPOSED * (t == told) for t in TYPES} for told in TYPES]
    for shape, right in product(shapes, rights):
        total += max(
            prior[t] * FORMS[t].get(shape, 0.0) * NAMES[t][surname] * right[t] for t in TYPES
        )
    return total
