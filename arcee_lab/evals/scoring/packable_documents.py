"""Groups requests by document, so that the choices of one share a row."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance

from arcee_lab.evals.scoring.token_trie import TargetRequest
from arcee_lab.evals.scoring.tokenization import Pair


def packable(
    requests: Sequence[Instance],
    pairs: Sequence[Pair],
    *,
    longest: int,
) -> tuple[list[list[TargetRequest]], int]:
    """The requests of each document, numbered in the order of `requests`.

    A context that does not fit is cut from the left, as lm-eval does.

    Args:
        requests: What lm-eval asks.
        pairs: Token ids of the context and the continuation of each request.
        longest: Tokens that the model reads; no continuation alone is longer.

    Returns:
        The documents, and how many requests were cut.
    """
    documents: dict[Any, list[TargetRequest]] = defaultdict(list)
    room = longest + 1  # the last token is scored and not read
    truncated = 0
    for number, (request, (before, after)) in enumerate(zip(requests, pairs, strict=True)):
        tokens = before + after
        cut = len(tokens) - room
        truncated += cut > 0
        # A context that was cut begins elsewhere for each choice: no branch of the others.
        key = (request.task_name, request.doc_id, number if cut > 0 else -1)
        tokens = tokens[max(cut, 0) :]
        wanted = TargetRequest(number, tokens[:-1], len(tokens) - len(after) - 1, after)
        documents[key].append(wanted)
    return list(documents.values()), truncated
