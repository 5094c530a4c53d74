"""Scores of an LM on whole texts: nats per word, and their distance from what is known."""

from typing import Any

from arcee_lab.evals.metrics.kinds import exp_ratio, ratio


def likelihood_items(log_likelihood: float, words: int, nats: float) -> dict[str, Any]:
    """One document's item for each score of this page.

    Args:
        log_likelihood: Of the whole text, a negative number of nats.
        words: How many words that were, as the text's writer counts them.
        nats: The text's exact information, where the text was drawn from known odds.

    Returns:
        `nats_per_word` and `word_perplexity` as (nats, words), `excess` as (nats above what the
        text holds, words).
    """
    spent = -float(log_likelihood)
    return {
        "nats_per_word": (spent, words),
        "word_perplexity": (spent, words),
        "excess": (spent - nats, words),
    }


nats_per_word = ratio("nats_per_word")
word_perplexity = exp_ratio("word_perplexity")
excess = ratio("excess")
