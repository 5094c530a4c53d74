"""From texts and conversations to token ids, with one BOS where the tokenizer sets one.

The text of rendered chat prompts begins with BOS, and a tokenizer that adds BOS would put a second
one before it. `written_bos` decides for every reader of texts; the other functions use it.
"""

from collections.abc import Sequence
from typing import Any

from arcee_lab.errors import TextError


def written_bos(tokenizer: Any, text: str) -> int:
    """Length of a BOS at the beginning of a text that the tokenizer adds anyway.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The text.

    Returns:
        The characters to leave out before the text is tokenised. 0 if the text does not begin with
        BOS, or if the tokenizer has no BOS, does not add it, or reads its name as plain text.

    Example:
        >>> from arcee_lab import load
        >>> _, tokenizer = load("demo")
        >>> written_bos(tokenizer, "<bos> The dogs sleep ."), written_bos(tokenizer, "The dogs")
        (5, 0)
    """
    bos = getattr(tokenizer, "bos_token", None)
    if not bos or not text.lstrip().startswith(bos):
        return 0
    end = text.index(bos) + len(bos)
    (ids,) = tokenizer([text[:end]], verbose=False)["input_ids"]
    return end if list(ids[:2]) == [tokenizer.bos_token_id] * 2 else 0


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts, with the tokenizer's special tokens but no second BOS."""
    bare = [text[written_bos(tokenizer, text) :] for text in texts]
    # verbose=False: callers cut or refuse long texts, so the tokenizer's warning would mislead.
    return [list(ids) for ids in tokenizer(bare, verbose=False)["input_ids"]]


def token_offsets(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The token ids of one text, and the characters of each token in it.

    Args:
        tokenizer: A fast tokenizer.
        text: The text.

    Returns:
        Token ids; and first and last-plus-one character of each token, equal for special tokens
        that the text does not hold.
    """
    cut = written_bos(tokenizer, text)
    encoded = tokenizer(text[cut:], return_offsets_mapping=True, verbose=False)
    offsets = [(start + cut, end + cut) for start, end in encoded["offset_mapping"]]
    if cut:
        offsets[0] = (0, cut)  # the BOS that the tokenizer adds is the one in the text
    return encoded["input_ids"], offsets


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, each with a role."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, dict) and "role" in message for message in value)
    )


def render(tokenizer: Any, messages: Sequence[dict[str, Any]], *, where: str) -> str:
    """A conversation as the text that the tokenizer's chat template makes of it.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: Messages with `role` and `content`, both strings.
        where: The name of the conversation in errors.

    Raises:
        TextError: There is no tokenizer or no template, a message has no text, or the template
            rejects the conversation.
    """
    if tokenizer is None:
        raise TextError(
            f"{where} is a conversation, which a tokenizer's chat template turns into text; give "
            "tokenizer=."
        )
    if not getattr(tokenizer, "chat_template", None):
        raise TextError(
            f"{where} is a conversation, and the tokenizer has no chat template; expected one in "
            "its files. Give texts, or a model with a template."
        )
    for number, message in enumerate(messages):
        for name in ("role", "content"):
            if not isinstance(got := message.get(name), str):
                raise TextError(
                    f"{where}, message {number}: {name!r} is {type(got).__name__}; expected a "
                    "string."
                )
    # A Parquet file gives every message the columns of all, null where it has none.
    given = [{k: v for k, v in message.items() if v is not None} for message in messages]
    try:
        return tokenizer.apply_chat_template(given, tokenize=False)
    except Exception as error:  # a template is a program of the checkpoint
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TextError(
            f"{where}: the tokenizer's chat template refuses the conversation: {reason}. Correct "
            "the conversation, or give texts."
        ) from error
