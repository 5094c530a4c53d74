"""Labels from the demo's world, where the truth of every word is known."""

from arcee_lab.demo.concepts import CONCEPTS, PARTS
from arcee_lab.demo.world import check_kind, documents
from arcee_lab.errors import SettingError
from arcee_lab.neurons.labels.labelled import Labels


def demo(kind: str | None = None, *, part: str = "search", n: int = 200, seed: int = 0) -> Labels:
    """The concepts of the demo's world, with their truth for every word.

    Only words to which a concept applies count for it: for "deep bracket", only brackets.

    Args:
        kind: Kind of document, such as "story"; None takes every kind that has a concept.
        part: "search", or "confirmation", which shares no document with it.
        n: Documents of each kind.
        seed: Random seed of the documents.

    Raises:
        SettingError: An unknown kind or part, a kind without concepts, or n below 1.

    Example:
        >>> import arcee_lab as al
        >>> al.neurons.labels.demo("story", n=20).names[:3]
        ('plural noun', 'singular noun', 'plural verb')
    """
    if part not in PARTS:
        raise SettingError(f"There is no part {part!r}; expected one of {', '.join(PARTS)}.")
    kinds = list(dict.fromkeys(concept.kind for concept in CONCEPTS.values()))
    if kind is not None and check_kind(kind) not in kinds:
        raise SettingError(
            f"No concept is about documents of the kind {kind!r}; expected one of "
            f"{', '.join(kinds)}."
        )
    found = [
        document
        for one in (kinds if kind is None else [kind])
        for document in documents(one, n=n, seed=seed, split=PARTS[part])
    ]
    concepts = [c for c in CONCEPTS.values() if kind in (None, c.kind)]
    spans, asked = {}, {}
    for concept in concepts:
        known = [
            [(w.start, w.end, concept.label(w)) for w in document.words]
            if document.kind == concept.kind
            else []
            for document in found
        ]
        spans[concept.name] = tuple(
            tuple((start, end) for start, end, label in row if label) for row in known
        )
        asked[concept.name] = tuple(
            tuple((start, end) for start, end, label in row if label is not None) for row in known
        )
    return Labels(
        tuple(document.text for document in found),
        spans,
        asked,
        domains=tuple(document.kind for document in found),
    )
