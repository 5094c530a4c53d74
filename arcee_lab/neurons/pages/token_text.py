"""Token ids as text: one piece per token, which together are the text."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from arcee_lab.data.token_words import BROKEN, token_word

_WORD = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's mark for a space before a word
_KNOWN: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()  # by tokenizer


class TokenText:
    """The text of token ids, each decoded once per tokenizer.

    A token that holds a part of a character has no text of its own: the first token of the
    character gets the whole of it, the others get "".

    Args:
        tokenizer: A Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._known = _KNOWN.setdefault(tokenizer, {})

    def __call__(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token of a window or of a part of one."""
        pieces = [self._piece(number) for number in ids]
        first = 0
        while first < len(pieces):
            stop = first
            while stop < len(pieces) and BROKEN in pieces[stop]:
                stop += 1
            if stop > first:
                whole = str(self._tokenizer.decode(list(ids[first:stop])))
                if BROKEN not in whole:  # else a character is cut off: it stays marked as such
                    pieces[first:stop] = [whole, *[""] * (stop - first - 1)]
            first = stop + 1
        return tuple(pieces)

    def one(self, number: int) -> str:
        """The text of a single token id; of a part of a character its bytes."""
        piece = self._piece(number)
        return token_word(self._tokenizer, number) if BROKEN in piece else piece

    def _piece(self, number: int) -> str:
        piece = self._known.get(number)
        if piece is None:
            piece = str(self._tokenizer.decode([number]))
            name = getattr(self._tokenizer, "convert_ids_to_tokens", lambda _: None)(number)
            if isinstance(name, str) and name.startswith(_WORD) and not piece.startswith(" "):
                piece = f" {piece}"
            self._known[number] = piece
        return piece
