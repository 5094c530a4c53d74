"""Three concepts of the demo's world that only the context tells, with the best reader's scores.

Each gives labels to fit on and to confirm on, the best possible reader's score of every confirmed
token, and prompts without the concept with sources that have it.
"""

from dataclasses import dataclass

import numpy as np

from arcee_lab.demo import documents
from arcee_lab.demo.news import SUBJECT, TAILS, TYPES, first_word_weights
from arcee_lab.demo.stories import NOUNS, form
from arcee_lab.directions import whole_texts
from arcee_lab.neurons.labels import Labels, spans

PARTS = {"fit": "validation", "confirm": "test"}


@dataclass(frozen=True)
class Case:
    """Prompts without the concept, the same with it, and the answers that tell."""

    prompts: list[str]
    sources: list[str]
    target: str | list[str]
    versus: str | list[str]


# ------------------------------------------------------------- a plural subject in scope (stories)


def number_labels(part: str, n: int) -> Labels:
    found = documents("story", n=n, split=PARTS[part])
    asked = [[w for w in d.words if "subject" in w.tags] for d in found]
    kept = [(d.text, a) for d, a in zip(found, asked, strict=True) if a]
    return spans(
        [text for text, _ in kept],
        {
            "plural": [
                [(w.start, w.end) for w in a if w.tags["subject"] == "plural"] for _, a in kept
            ]
        },
        asked={"plural": [[(w.start, w.end) for w in a] for _, a in kept]},
    )


def number_best(part: str, n: int) -> np.ndarray:
    """The subject stands to the left, so a reader of the context knows its number."""
    found = documents("story", n=n, split=PARTS[part])
    words = [w for d in found for w in d.words if "subject" in w.tags]
    return np.array([float(w.tags["subject"] == "plural") for w in words])


def number_case(n: int) -> Case:
    """Singular subjects behind which other nouns stand, and the same sentences in the plural."""
    singular = {form(noun, "plural"): noun for noun in NOUNS}
    prompts, sources, target, versus = [], [], [], []
    for document in documents("story", n=10 * n, seed=3, split="test"):
        for slot in document.slots:
            before = [w for w in document.words if w.end <= slot.start]
            at = max(i for i, w in enumerate(before) if w.tags.get("part") == "subject")
            between = before[at + 1 :]
            subject = before[at]
            if not between or any(w.tags.get("role") == "verb" for w in between):
                continue
            if subject.tags["number"] == "plural" or len(prompts) == n:
                continue
            plural = next(p for p, s in singular.items() if s == subject.text)
            prompt = document.text[: slot.start].rstrip()
            prompts.append(prompt)
            sources.append(prompt[: subject.start] + plural + prompt[subject.end :])
            target.append(slot.other)
            versus.append(document.text[slot.start : slot.end])
    return Case(prompts, sources, target, versus)


# ------------------------------------------------------------- a review that is good on the whole


def review_labels(part: str, n: int) -> Labels:
    found = documents("review", n=n, split=PARTS[part])
    kept = {d.prompt: d for d in found}
    return whole_texts(list(kept), {"good": [d.facts["label"] == "good" for d in kept.values()]})


def review_best(part: str, n: int) -> np.ndarray:
    """The probability that the review is good, given its clauses."""
    found = documents("review", n=n, split=PARTS[part])
    return np.array([d.facts["p_good"] for d in {d.prompt: d for d in found}.values()])


def review_case(n: int) -> Case:
    found = documents("review", n=8 * n, seed=3, split="test")
    bad = [d.prompt for d in found if d.facts["p_good"] < 0.4][:n]
    good = [d.prompt for d in found if d.facts["p_good"] > 0.6][:n]
    return Case(bad, good, "keep", "skip")


# ------------------------------------------------------------- a person, at the name's first word


def _mentions(document):
    """First words of names that open with their surname, and p(type) for a causal reader."""
    words = document.words
    for i, word in enumerate(words):
        if not str(word.tags.get("bio", "")).startswith("B-"):
            continue
        before = words[i - 1].text if i and words[i - 1].tags.get("role") == "preposition" else None
        prior = SUBJECT if before is None else TAILS[before]
        try:
            weights = first_word_weights(prior, word.text)
        except KeyError:  # a first name, or Port: no surname
            continue
        total = sum(weights.values())
        yield word, {t: weights[t] / total for t in TYPES}


def person_labels(part: str, n: int) -> Labels:
    found = [(d, list(_mentions(d))) for d in documents("news", n=n, split=PARTS[part])]
    kept = [(d, m) for d, m in found if m]
    return spans(
        [d.text for d, _ in kept],
        {
            "person": [
                [(w.start, w.end) for w, _ in m if w.tags["entity"] == "PER"] for _, m in kept
            ]
        },
        asked={"person": [[(w.start, w.end) for w, _ in m] for _, m in kept]},
    )


def person_best(part: str, n: int) -> np.ndarray:
    found = documents("news", n=n, split=PARTS[part])
    return np.array([p["PER"] for d in found for _, p in _mentions(d)])


def person_case(n: int) -> Case:
    """Names that are an organisation's rather than a person's, and the other way round."""
    sides: dict[bool, list[str]] = {True: [], False: []}
    for document in documents("news", n=20 * n, seed=3, split="test"):
        for word, p in _mentions(document):
            if p["LOC"] < 0.1 and max(p.values()) > 0.7:
                sides[p["PER"] > 0.7].append(document.text[: word.end])
    count = min(n, len(sides[True]), len(sides[False]))
    return Case(sides[False][:count], sides[True][:count], "B-PER", "B-ORG")


CONCEPTS = {
    "number": ("causal", "plural", number_labels, number_best, number_case),
    "review": ("causal", "good", review_labels, review_best, review_case),
    "person": ("token", "person", person_labels, person_best, person_case),
}
