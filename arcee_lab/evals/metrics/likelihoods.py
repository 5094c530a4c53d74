"""Scores of an LM on whole texts: nats a token, and how far they lie above what is known."""

from typing import Any

from arcee_lab.evals.metrics.kinds import exp_ratio, ratio


def likelihood_items(log_likelihood: float, tokens: int, nats: float) -> dict[str, Any]:
    """One document's item for each score of this page.

    Args:
        log_likelihood: Of the whole text, a negative number of nats.
        tokens: How many tokens that were.
        nats: The text's exact information, where the text was drawn from known odds.

    Returns:
        `nats_per_token` and `perplexity` as (nats, tokens), `excess` as (nats above what the text
        holds, tokens).
    """
    spent = -float(log_likelihood)
    return {
        "nats_per_token": (spent, tokens),
        "perplexity": (spent, tokens),
        "excess": (spent - nats, tokens),
    }


nats_per_token = ratio("nats_per_token")
perplexity = exp_ratio("perplexity")
excess = ratio("excess")
