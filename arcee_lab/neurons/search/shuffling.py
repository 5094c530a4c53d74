"""Labels that go with the wrong texts: what a search finds where there is nothing to find."""

import numpy as np
from jaxtyping import Bool, Int


def shuffled(
    truth: Bool[np.ndarray, " token"],
    documents: Int[np.ndarray, " token"],
    source: np.random.Generator,
) -> Bool[np.ndarray, " token"]:
    """The same labels in another order.

    Documents are drawn in a new order and joined, and the whole is turned round by a random number
    of tokens. As many tokens have the label, and runs of it stay runs, except for one at the seam;
    only their place in the texts is gone. Shuffling single tokens would break up the runs, and
    labels without runs are easier to distinguish from chance than those of texts.

    Args:
        truth: Labels of the tokens to which the label applies, in the order of the texts.
        documents: The document of each, as runs of equal numbers.
        source: Random numbers.
    """
    starts = np.flatnonzero(np.diff(documents, prepend=documents[:1] - 1))
    pieces = np.split(truth, starts[1:])
    order = source.permutation(len(pieces))
    joined = np.concatenate([pieces[i] for i in order])
    return np.roll(joined, source.integers(len(joined)))
