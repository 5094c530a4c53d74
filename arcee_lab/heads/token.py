"""One label per word from a token head: that of the word's last token.

A causal model has read the whole word only at its last token, so the label of the first token,
which is the convention for bidirectional models, would be a guess.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.data.tokenization import token_offsets
from arcee_lab.errors import ModelError, TextError
from arcee_lab.heads.batches import Advance, head_labels, in_batches, require_head, require_room
from arcee_lab.model.anatomy import Anatomy


def place_words(words: Sequence[str], text: str | None = None) -> tuple[str, list[tuple[int, int]]]:
    """A running text, and the positions of words in it.

    Args:
        words: The words, in order.
        text: A text that holds them in this order; joined by spaces by default.

    Returns:
        The text, and the first and last-plus-one character of each word.

    Raises:
        TextError: A word is blank, or the text does not contain it after the previous word.
    """
    text = " ".join(words) if text is None else text
    spans, at = [], 0
    for number, word in enumerate(words):
        start = text.find(word, at) if word.strip() else -1
        if start < 0:
            raise TextError(
                f"Word {number}, {word!r}, is blank, or the text does not hold it after character "
                f"{at}; expected words in the order of their text."
            )
        at = start + len(word)
        spans.append((start, at))
    return text, spans


def last_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """For each word, the last token that covers a part of it.

    Args:
        offsets: First and last-plus-one character of each token; equal for special tokens.
        spans: The same of each word, in order.

    Raises:
        TextError: The tokenizer has dropped a word.
    """
    found, token = [], 0
    for number, (start, end) in enumerate(spans):
        last = -1
        token = max(token - 1, 0)  # a token may cover the end of one word and the start of the next
        while token < len(offsets) and offsets[token][0] < end:
            if offsets[token][1] > max(start, offsets[token][0]):
                last = token
            token += 1
        if last < 0:
            raise TextError(f"The tokenizer makes no token of word {number}; leave the word out.")
        found.append(last)
    return found


@torch.no_grad()
def label_words(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    words_batch: Sequence[Sequence[str]],
    *,
    texts: Sequence[str | None] | None = None,
    expected: Iterable[str] = (),
    batch_size: int = 8,
    advance: Advance | None = None,
) -> list[list[str]]:
    """The labels that a token head gives to words.

    Args:
        model: A token model (`al.load(..., head="token")`).
        tokenizer: Its tokenizer, a fast one (it has to know the characters of a token).
        words_batch: The words of each document.
        texts: The running text of each document, if its words are not joined by single spaces: a
            full stop after a space may be another token.
        expected: Labels that the head must know, such as the correct ones.
        batch_size: Documents per forward.
        advance: Called after each forward with its fraction of the work.

    Returns:
        One label per word.

    Raises:
        ModelError: The model has another head or lacks an expected label.
        TextError: A document is longer than the context, or a word is blank, not in its text, or
            dropped by the tokenizer.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.heads.token import label_words
        >>> model, tokenizer = al.load("demo", head="token")
        >>> label_words(model, tokenizer, [["Port", "Gazis", "flooded"]])[0][0]
        'B-LOC'
    """
    anatomy = require_head(model, "token")
    names = head_labels(anatomy)
    unknown = sorted(set(expected) - set(names))
    if unknown:
        raise ModelError(
            f"The head has no label {unknown[0]!r}; it knows {', '.join(names)}; set id2label in "
            "config.json (or heads.json) to the data set's names, in the head's order."
        )
    labels: list[list[str]] = [[] for _ in words_batch]
    for number, logits in _word_logits(anatomy, tokenizer, words_batch, texts, batch_size, advance):
        labels[number] = [names[best] for best in logits.argmax(-1).tolist()]
    return labels


@torch.no_grad()
def score_words(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    words_batch: Sequence[Sequence[str]],
    *,
    texts: Sequence[str | None] | None = None,
    batch_size: int = 8,
    advance: Advance | None = None,
) -> list[Float[Tensor, "word n_labels"]]:
    """Log-probabilities of the labels of words; see `label_words` for arguments and errors.

    Returns:
        One tensor per document, natural logarithms over the labels of the head, in its order, in
        float32 on the CPU.
    """
    anatomy = require_head(model, "token")
    scores: list[Any] = [None] * len(words_batch)
    for number, logits in _word_logits(anatomy, tokenizer, words_batch, texts, batch_size, advance):
        scores[number] = logits.float().log_softmax(-1)
    return scores


def _word_logits(
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    words_batch: Sequence[Sequence[str]],
    texts: Sequence[str | None] | None,
    batch_size: int,
    advance: Advance | None,
) -> Iterator[tuple[int, Float[Tensor, "word n_labels"]]]:
    """Numbers of documents, in any order, and the logits at the last token of each word."""
    placed = [
        place_words(words, texts[n] if texts is not None else None)
        for n, words in enumerate(words_batch)
    ]
    rows, ends = [], []
    for text, spans in placed:
        ids, offsets = token_offsets(tokenizer, text)
        rows.append(ids)
        ends.append(last_tokens(offsets, spans))
    require_room(anatomy, rows)
    for numbers, ids, mask in in_batches(anatomy, rows, batch_size=batch_size, advance=advance):
        logits = anatomy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        at = [ends[number] for number in numbers]
        places = [(slot, end) for slot, row in enumerate(at) for end in row]
        slots, last = torch.tensor(places, dtype=torch.int64, device=logits.device).T.reshape(2, -1)
        picked = logits[slots, last].cpu()  # once per batch
        yield from zip(numbers, picked.split([len(row) for row in at]), strict=True)
