"""The metrics of the task files; each is an `Aggregation`, so a bootstrap can redraw it."""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.evals.metrics._entities import (
        entities,
        entity_f1,
        entity_items,
        entity_precision,
        entity_recall,
        name_acc,
        token_acc,
    )
    from arcee_lab.evals.metrics.answers import (
        answer_items,
        em,
        em_answer,
        em_none,
        f1,
        f1_answer,
        normalize,
        word_acc,
    )
    from arcee_lab.evals.metrics.kinds import exp_ratio, mean, ratio
    from arcee_lab.evals.metrics.labels import acc, brier, ece, label_items, macro_f1, mcc, nll
    from arcee_lab.evals.metrics.likelihoods import (
        excess,
        likelihood_items,
        nats_per_word,
        word_perplexity,
    )

__all__ = [
    "acc",
    "answer_items",
    "brier",
    "ece",
    "em",
    "em_answer",
    "em_none",
    "entities",
    "entity_f1",
    "entity_items",
    "entity_precision",
    "entity_recall",
    "excess",
    "exp_ratio",
    "f1",
    "f1_answer",
    "label_items",
    "likelihood_items",
    "macro_f1",
    "mcc",
    "mean",
    "name_acc",
    "nats_per_word",
    "nll",
    "normalize",
    "ratio",
    "token_acc",
    "word_acc",
    "word_perplexity",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "answers": (
            "answer_items",
            "em",
            "em_answer",
            "em_none",
            "f1",
            "f1_answer",
            "normalize",
            "word_acc",
        ),
        "_entities": (
            "entities",
            "entity_f1",
            "entity_items",
            "entity_precision",
            "entity_recall",
            "name_acc",
            "token_acc",
        ),
        "kinds": ("exp_ratio", "mean", "ratio"),
        "labels": ("acc", "brier", "ece", "label_items", "macro_f1", "mcc", "nll"),
        "likelihoods": ("excess", "likelihood_items", "nats_per_word", "word_perplexity"),
    },
)
