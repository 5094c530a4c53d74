"""What tokens are called where they stand alone."""

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Any

from jaxtyping import Int
from torch import Tensor

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a part of a character decodes to


def token_word(tokenizer: Any, token: int) -> str:
    """The text of a token; of one that holds a part of a character, with its bytes written out.

    Without that, all such tokens would look alike. A byte is written as `<0xE2>`, as tokenizers
    with a token per byte call them.

    Args:
        tokenizer: A Hugging Face tokenizer.
        token: The id.

    Example:
        >>> import arcee_lab as al
        >>> _, tokenizer = al.load("demo")
        >>> token_word(tokenizer, tokenizer("dogs")["input_ids"][-1])
        'dogs'
    """
    text = str(tokenizer.decode([token]))
    if BROKEN not in text:
        return text
    name = getattr(tokenizer, "convert_ids_to_tokens", lambda _: None)(token)
    if not isinstance(name, str) or not name:
        return text
    if not set(name) <= _bytes().keys():
        return name  # the tokenizer's own name of it
    spelled = bytes(_bytes()[letter] for letter in name).decode("utf-8", "surrogateescape")
    return "".join(
        f"<0x{ord(x) - 0xDC00:02X}>" if 0xDC80 <= ord(x) <= 0xDCFF else x for x in spelled
    )


@cache
def _bytes() -> dict[str, int]:
    """The byte that each letter of a byte-level tokenizer's vocabulary stands for.

    Visible letters of Latin-1 stand for their own byte, the next letters after Latin-1 for the
    others in order, as in the tokenizer of GPT-2 (Radford et al., 2019) and all that follow it.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


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
        return {i: token_word(self._tokenizer, i) for i in ids}

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
