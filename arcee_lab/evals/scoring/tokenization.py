"""Token ids of contexts and continuations, as lm-eval makes them, each distinct text only once."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from transformers import PreTrainedTokenizerBase

from arcee_lab.errors import SettingError

Pair = tuple[list[int], list[int]]


class Encoder(NamedTuple):
    """lm-eval's way with special tokens.

    Attributes:
        tokenizer: Of the model.
        prefix: The token that stands for an empty context; None if the tokenizer has neither BOS
            nor EOS, which is an error where one is needed.
        add_bos: Whether BOS is set before a text; None leaves it to the tokenizer.
    """

    tokenizer: PreTrainedTokenizerBase
    prefix: int | None
    add_bos: bool | None = None

    def texts(self, texts: Iterable[str], *, special: bool | None = None) -> dict[str, list[int]]:
        """Ids of each distinct text; one that begins with the prefix's text gets no second one."""
        told = special if special is not None else self.add_bos
        bare: dict[str, Any] = {"add_special_tokens": False}
        options: dict[str, Any] = {} if told is None else {"add_special_tokens": told}
        bos = "" if self.prefix is None else cast(str, self.tokenizer.decode(self.prefix))
        found: dict[str, list[int]] = {}
        distinct = dict.fromkeys(texts)
        has = [text for text in distinct if special is None and bos and text.startswith(bos)]
        begun = set(has)
        for given, chosen in (
            (has, bare),
            ([text for text in distinct if text not in begun], options),
        ):
            if given:
                ids = self.tokenizer(given, verbose=False, **chosen)["input_ids"]
                found.update(zip(given, ids, strict=True))
        return found

    def start(self) -> int:
        """The token that stands for an empty context.

        Raises:
            SettingError: The tokenizer has none.
        """
        if self.prefix is None:
            raise SettingError(
                "The tokenizer has neither a BOS nor an EOS token, so nothing can stand before a "
                "text without a context; give the id of one with prefix_token_id=."
            )
        return self.prefix

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
        """Ids of contexts and continuations.

        Spaces at the end of a context go to the continuation, and both are tokenised as one text,
        which is cut where the context's own tokens end. Either part may be without a token, and
        then there is nothing to score.

        Args:
            pairs: Contexts and continuations.
        """
        moved = []
        for context, continuation in pairs:
            kept = context.rstrip()
            moved.append((kept, context[len(kept) :] + continuation))
        # A context of spaces alone is not empty to lm-eval: its spaces move, nothing is left.
        empty = [not context for context, _ in pairs]
        contexts = self.texts(c for (c, _), none in zip(moved, empty, strict=True) if not none)
        wholes = self.texts(c + t for (c, t), none in zip(moved, empty, strict=True) if not none)
        bare = self.texts(
            (t for (_, t), none in zip(moved, empty, strict=True) if none), special=False
        )
        found: list[Pair] = []
        for index, (context, continuation) in enumerate(moved):
            if empty[index]:
                ids = bare[continuation]
                # A text that begins with the prefix itself is not given a second one.
                prefix = self.start()
                start = ids[:1] == [prefix]
                before, after = (ids[:1], ids[1:]) if start else ([prefix], ids)
            else:
                before = contexts[context]
                after = wholes[context + continuation][len(before) :]
            found.append((before, after))
        return found
