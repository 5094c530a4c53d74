"""Named concepts with a label for every word, to compare tools with the truth.

Search for a neuron, probe or head in the search part, then confirm it in the confirmation part: the
two share no document. Run the same search on an untrained model (`training.untrained`) as a
control, because the best of thousands of neurons looks good by chance.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from arcee_lab.demo.document import Document, Word
from arcee_lab.demo.world import documents
from arcee_lab.errors import SettingError
from arcee_lab.results import Result, counted

PARTS = {"search": "validation", "confirmation": "test"}  # part -> split


@dataclass(frozen=True)
class Concept:
    """A property of a word: true, false, or not applicable.

    Attributes:
        name: Its name.
        kind: Kind of document in which it occurs.
        what: What makes a word positive.
        asked_of: Words to which it applies; the others have no label.
        true_of: Which of those have it.
    """

    name: str
    kind: str
    what: str
    asked_of: Callable[[Word], bool]
    true_of: Callable[[Word], bool]

    def label(self, word: Word) -> bool | None:
        """True or False, or None where the concept does not apply."""
        return self.true_of(word) if self.asked_of(word) else None


def _any(_word: Word) -> bool:
    return True


def _has(**tags: object) -> Callable[[Word], bool]:
    return lambda word: all(word.tags.get(key) == value for key, value in tags.items())


def _tagged(key: str) -> Callable[[Word], bool]:
    return lambda word: key in word.tags


_ALL = (
    Concept(
        "plural noun", "story", "a noun in the plural", _any, _has(role="noun", number="plural")
    ),
    Concept(
        "singular noun",
        "story",
        "a noun in the singular",
        _any,
        _has(role="noun", number="singular"),
    ),
    Concept(
        "plural verb", "story", "a verb in the plural", _any, _has(role="verb", number="plural")
    ),
    Concept(
        "plural subject in scope",
        "story",
        "between a plural subject and its verb, against a singular one",
        _tagged("subject"),
        _has(subject="plural"),
    ),
    Concept("adjective", "story", "an adjective", _any, _has(role="adjective")),
    Concept("person", "news", "part of a person's name", _any, _has(entity="PER")),
    Concept("place", "news", "part of a place's name", _any, _has(entity="LOC")),
    Concept("organisation", "news", "part of an organisation's name", _any, _has(entity="ORG")),
    Concept(
        "negated", "review", "under a negation, near or far", _tagged("negated"), _has(negated=True)
    ),
    Concept(
        "hearsay", "review", "in a clause that others said", _tagged("hearsay"), _has(hearsay=True)
    ),
    Concept("good word", "review", "an opinion word of praise", _any, _has(polarity="good")),
    Concept(
        "good said",
        "review",
        "an opinion word by which the clause praises, negation counted",
        _tagged("says"),
        _has(says="good"),
    ),
    Concept("spot", "passage", "part of a place that somebody went to", _any, _has(role="spot")),
    Concept(
        "asked spot",
        "passage",
        "a spot of the person that the question asks for",
        _has(role="spot"),
        _has(asked=True),
    ),
    Concept(
        "deep bracket",
        "brackets",
        "a bracket at depth 3 or more",
        _tagged("depth"),
        lambda word: word.tags["depth"] >= 3,
    ),
    Concept("copied", "copy", "part of the repetition", _tagged("copied"), _has(copied=True)),
    Concept(
        "looked up",
        "table",
        "a value that stands in the table above",
        _has(role="value"),
        _has(copied=True),
    ),
)
CONCEPTS = {concept.name: concept for concept in _ALL}


@dataclass(frozen=True, repr=False)
class ConceptLabels(Result):
    """Documents with one concept's label for every word.

    Attributes:
        concept: The concept.
        part: "search" or "confirmation".
        documents: The documents.
        labels: For each document, one label per word; None if the concept does not apply.
    """

    concept: Concept
    part: str
    documents: tuple[Document, ...]
    labels: tuple[tuple[bool | None, ...], ...]

    def frame(self) -> pd.DataFrame:
        """One row per labelled word: document, word, start, end, label."""
        rows = [
            {"document": i, "word": w.text, "start": w.start, "end": w.end, "label": label}
            for i, (document, labels) in enumerate(zip(self.documents, self.labels, strict=True))
            for w, label in zip(document.words, labels, strict=True)
            if label is not None
        ]
        return pd.DataFrame(rows)

    @property
    def headline(self) -> str:
        """How many words have the concept, in one sentence."""
        known = [label for labels in self.labels for label in labels if label is not None]
        return (
            f"{self.concept.name!r} is true of {sum(known):,} of {counted(len(known), 'word')} in "
            f"{counted(len(self.documents), 'document')} ({self.part} part)"
        )


def concept_labels(
    concept: str, *, part: str = "search", n: int = 200, seed: int = 0
) -> ConceptLabels:
    """Documents in which a concept occurs, with its labels.

    Args:
        concept: A name from `CONCEPTS`.
        part: "search", or "confirmation" to confirm what was found there.
        n: Number of documents.
        seed: Random seed of the documents.

    Raises:
        SettingError: The concept or the part is unknown, or n is below 1.

    Example:
        >>> from arcee_lab.demo.concepts import concept_labels
        >>> concept_labels("plural noun", n=2).documents[0].kind
        'story'
    """
    if concept not in CONCEPTS:
        near = difflib.get_close_matches(concept, CONCEPTS, n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise SettingError(f"There is no concept {concept!r}; expected one of CONCEPTS{hint}.")
    if part not in PARTS:
        raise SettingError(f"There is no part {part!r}; expected one of {', '.join(PARTS)}.")
    chosen = CONCEPTS[concept]
    found = tuple(documents(chosen.kind, n=n, seed=seed, split=PARTS[part]))
    labels = tuple(tuple(chosen.label(word) for word in document.words) for document in found)
    return ConceptLabels(chosen, part, found, labels)
