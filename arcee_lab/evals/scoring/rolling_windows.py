"""Whole texts: each as windows that a model can read, every token scored once."""

from collections.abc import Sequence

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from arcee_lab.evals.scoring.token_trie import TargetRequest


def rolling_windows(
    texts: Sequence[Sequence[int]], *, prefix: int, longest: int
) -> list[list[TargetRequest]]:
    """Cuts texts into windows as lm-eval does.

    Each window begins with one token that is read and not scored: the prefix, or the last token of
    the window before. The last window reads as much before it as there is room for.

    Args:
        texts: Token ids of each.
        prefix: The token before a text.
        longest: Tokens per window.

    Returns:
        Of each text its windows, numbered through all texts.
    """
    found: list[list[TargetRequest]] = []
    number = 0
    for ids in texts:
        mine = []
        pairs = get_rolling_token_windows(list(ids), prefix, max_seq_len=longest, context_len=1)
        for before, after in map(make_disjoint_window, pairs):
            tokens = [*before, *after[:-1]]
            mine.append(TargetRequest(number, tokens, len(before) - 1, after))
            number += 1
        found.append(mine)
    return found
