"""The best that a reader of the demo's world can score; task files name these with their metrics.

Most are exact. The entity scores and the entropies are what the best reader scores on the
documents of the task, so they move a little with the number of documents.
"""

from collections.abc import Iterable
from functools import cache, partial
from typing import Any, cast

from arcee_lab.demo import facts, news, passages, reviews
from arcee_lab.evals import metrics
from arcee_lab.evals.tasks import demo_documents

NAMES = 500  # documents of the entity task
TEXTS = 100  # documents of each kind of text

sentiment = cache(reviews.best_accuracy)
verdict = sentiment
exact_match = passages.best_exact_match


def statements() -> float:
    """Share of statements that are true."""
    return facts.TRUTH


@cache
def name_acc() -> float:
    """Share of names whose type a reader of the left side gives right."""
    return news.best_accuracy(both_sides=False)


@cache
def _best_names() -> dict[str, float]:
    rows = cast(Iterable[dict[str, Any]], demo_documents.names(n=NAMES)["test"])
    items = [metrics.entity_items(row["labels"], row["best"]) for row in rows]
    scores = ("entity_f1", "entity_precision", "entity_recall", "token_acc")
    return {name: getattr(metrics, name)([item[name] for item in items]) for name in scores}


def _best_name_score(metric: str) -> float:
    return _best_names()[metric]


entity_f1 = partial(_best_name_score, "entity_f1")
entity_precision = partial(_best_name_score, "entity_precision")
entity_recall = partial(_best_name_score, "entity_recall")
token_acc = partial(_best_name_score, "token_acc")


@cache
def entropy(kind: str) -> float:
    """Nats per word that the documents of a text task hold."""
    rows = demo_documents.texts(kind=kind, n=TEXTS)["test"]
    return sum(rows["nats"]) / sum(rows["words"])


entropy_story = partial(entropy, "story")
entropy_facts = partial(entropy, "facts")
entropy_news = partial(entropy, "news")
entropy_review = partial(entropy, "review")
entropy_clause = partial(entropy, "clause")
entropy_passage = partial(entropy, "passage")
entropy_brackets = partial(entropy, "brackets")
entropy_copy = partial(entropy, "copy")
entropy_table = partial(entropy, "table")
