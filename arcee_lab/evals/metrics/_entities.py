"""Scores of labelled words: precision, recall and F1 of whole entities, and accuracy of words.

An entity counts when its type and both its ends are right. Where labels do not form proper entities
(an I- behind an O, a change of type), they are read as conlleval and seqeval read them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.evals.metrics.aggregation import Aggregation
from arcee_lab.evals.metrics.kinds import divided, ratio

SIDES = frozenset("BIES")


def entities(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of a sequence of labels.

    Args:
        labels: One per word: "O", or a side (B, I, E, S) and a type, as "B-PER".

    Returns:
        Type, first and last word of each.

    Raises:
        ValueError: A label has another form.

    Example:
        >>> from arcee_lab.evals.metrics import entities
        >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC"]))
        [('LOC', 3, 3), ('PER', 0, 1)]
    """
    found: set[tuple[str, int, int]] = set()
    before, kind_before, start = "O", "", 0
    for at, label in enumerate([*labels, "O"]):
        side, _, kind = label.partition("-")
        if side != "O" and (side not in SIDES or not kind):
            raise SettingError(
                f"Label {label!r} of word {at} is neither 'O' nor a side (B, I, E, S) and a type; "
                "expected e.g. 'B-PER'."
            )
        new = kind != kind_before or before in "ES" or side in "BS"
        if before != "O" and (new or side == "O"):
            found.add((kind_before, start, at - 1))
        if side != "O" and (new or before == "O"):
            start = at
        before, kind_before = side, kind
    return found


def entity_items(gold: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    """One document's item for each score of this page.

    Args:
        gold: Right labels, one per word.
        given: The labels of a head, as many.

    Returns:
        `entity_f1`, `entity_precision` and `entity_recall` as (entities right, given, there), and
        `token_acc` as (words right, words), and `name_acc` the same of words that open an entity.

    Raises:
        ValueError: Not as many labels as words.
    """
    if len(gold) != len(given):
        raise SettingError(f"Got {len(given)} labels for {len(gold)} words; expected one per word.")
    there, found = entities(gold), entities(given)
    counts = (len(there & found), len(found), len(there))
    right = [a == b for a, b in zip(gold, given, strict=True)]
    opens = [right[start] for _, start, _ in there]
    return dict.fromkeys(("entity_f1", "entity_precision", "entity_recall"), counts) | {
        "token_acc": (sum(right), len(right)),
        "name_acc": (sum(opens), len(opens)),
    }


def counted_words(gold: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    """One document's item for `token_acc` alone, whatever the labels are."""
    right = [a == b for a, b in zip(gold, given, strict=True)]
    return {"token_acc": (sum(right), len(right))}


def are_entities(names: Sequence[str]) -> bool:
    """Whether labels are those of entities: "O", or a side and a type."""
    try:
        entities(names)
    except SettingError:
        return False
    return True


def _counts(items: Sequence[tuple[int, int, int]]) -> np.ndarray:
    return np.asarray(items, dtype=float).reshape(len(items), 3)


entity_precision = Aggregation(
    "entity_precision", _counts, lambda sums: divided(sums[..., 0], sums[..., 1], empty=0.0)
)
entity_recall = Aggregation(
    "entity_recall", _counts, lambda sums: divided(sums[..., 0], sums[..., 2], empty=0.0)
)
entity_f1 = Aggregation(
    "entity_f1",
    _counts,
    lambda sums: divided(2 * sums[..., 0], sums[..., 1] + sums[..., 2], empty=0.0),
)
token_acc = ratio("token_acc")
name_acc = ratio("name_acc")
