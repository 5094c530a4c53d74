"""From what lm-eval got for a document to the document's items; task files' `process_results`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from arcee_lab.evals.metrics import answer_items, entity_items, label_items, likelihood_items
from arcee_lab.evals.metrics._entities import counted_words


def label_given(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """A sequence task: one log-probability per label, in the order of the task's choices."""
    return label_items(doc["label"], [log_prob for log_prob, _ in results])


def choice_made(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """An LM's choice between continuations: their log-likelihoods, of which the larger wins."""
    likelihoods = [likelihood for likelihood, _ in results]
    return {"acc": float(likelihoods.index(max(likelihoods)) == doc["label"])}


def word_said(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """A continuation: whether it is the likeliest of all words, and its own likelihood."""
    ((likelihood, greedy),) = results
    return {"acc": float(greedy), "nll": -float(likelihood)}


def text_read(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """A whole text: its log-likelihood, and what it holds."""
    ((likelihood, _),) = results
    return likelihood_items(likelihood, doc["words"], doc["nats"])


def text_said(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """A generated text: whether it is the right one, to the last word."""
    (said,) = results
    right, given = doc["target"].split(), said.split()
    return {
        "em": float(given == right),
        "word_acc": (sum(a == b for a, b in zip(right, given, strict=False)), len(right)),
    }


def words_labelled(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """A token task: a JSON list of labels, one per word."""
    (labels,) = results
    return entity_items(doc["labels"], json.loads(labels))


def words_counted(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """A token task whose labels name no entities, as parts of speech: the words that are right."""
    (labels,) = results
    return counted_words(doc["labels"], json.loads(labels))


def span_found(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """A question: the span that was found."""
    items = answer_items(doc["answers"], results[0])
    return {name: items[name] for name in ("em", "f1")}


def span_or_none_found(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """A question that may have no answer: the span that was found, "" where it was none."""
    return answer_items(doc["answers"], results[0])
