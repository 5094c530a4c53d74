"""Scores of answers in words: exact match and F1, as SQuAD defines them.

Case, punctuation, articles and spaces do not count, and the best of several right answers does. A
question without an answer (SQuAD v2) is right when nothing is answered.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from arcee_lab.evals.metrics.kinds import mean, ratio

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(answer: str) -> str:
    """An answer without case, punctuation, articles and spare spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact(gold: str, given: str) -> float:
    """1 where both say the same words."""
    return float(normalize(gold) == normalize(given))


def overlap(gold: str, given: str) -> float:
    """F1 of the words that both have; an empty answer matches an empty one alone."""
    there, found = normalize(gold).split(), normalize(given).split()
    if not there or not found:
        return float(there == found)
    both = sum((Counter(there) & Counter(found)).values())
    return 2 * both / (len(there) + len(found))


def answer_items(golds: Sequence[str], given: str) -> dict[str, Any]:
    """One document's item for each score of this page.

    Args:
        golds: The right answers; none where the question has no answer.
        given: The span of a head, "" where it finds none.

    Returns:
        `em` and `f1` as numbers; the same for questions with an answer (`em_answer`, `f1_answer`)
        and without (`em_none`) as (score, whether it counts).
    """
    # SQuAD's own script drops right answers that normalise to nothing
    right = [gold for gold in golds if normalize(gold)] or [""]
    em = max(exact(gold, given) for gold in right)
    f1 = max(overlap(gold, given) for gold in right)
    asked = float(right != [""])
    return {
        "em": em,
        "f1": f1,
        "em_answer": (em * asked, asked),
        "f1_answer": (f1 * asked, asked),
        "em_none": (em * (1 - asked), 1 - asked),
    }


em = mean("em")
f1 = mean("f1")
em_answer = ratio("em_answer")
f1_answer = ratio("f1_answer")
em_none = ratio("em_none")
word_acc = ratio("word_acc")
