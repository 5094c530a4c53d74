"""What tokens are called in a result."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from jaxtyping import Int
from torch import Tensor


class TokenWords(Mapping[int, str]):
    """The text of each token, decoded when the first is asked for.

    To decode some hundred tokens takes longer than to count the ranks of all, and a reader of ranks
    asks for none. A copy, and what is pickled, is a plain dictionary.

    Args:
        tokenizer: Of the tokens; None: they are called by their numbers.
        ids: The tokens; negative ones are none.
    """

    def __init__(self, tokenizer: Any, ids: Int[Tensor, "*any"]):
        self._tokenizer, self._ids = tokenizer, ids

    @cached_property
    def _texts(self) -> dict[int, str]:
        ids = sorted({i for i in self._ids.flatten().tolist() if i >= 0})
        if self._tokenizer is None:
            return {i: str(i) for i in ids}
        return {i: self._tokenizer.decode([i]) for i in ids}

    def __getitem__(self, token: int) -> str:
        return self._texts[token]

    def __iter__(self) -> Iterator[int]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return repr(self._texts)

    def __reduce__(self) -> tuple[type, tuple[dict[int, str]]]:
        return dict, (self._texts,)
