"""A token that stands alone: its text, or its bytes where it holds a part of a character."""

import pytest
import torch

import arcee_lab as al
from arcee_lab.data.token_words import TokenWords, token_word
from arcee_lab.neurons.pages.token_text import TokenText


@pytest.fixture(scope="module")
def tokenizer(demo):
    return demo[1]


def spelled(word):
    """The bytes that a word stands for."""
    out, rest = b"", word
    while rest:
        if rest.startswith("<0x"):
            out, rest = out + bytes.fromhex(rest[3:5]), rest[6:]
        else:
            out, rest = out + rest[0].encode(), rest[1:]
    return out


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}", " \N{EM DASH} and", "Zürich", "日本", "a\n"])
def test_words_of_tokens_spell_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    words = [token_word(tokenizer, one) for one in ids]
    assert b"".join(map(spelled, words)).strip(b" ") == text.encode().strip(b" ")
    assert not any("\N{REPLACEMENT CHARACTER}" in word for word in words)
    assert [TokenText(tokenizer).one(one) for one in ids] == words
    assert dict(TokenWords(tokenizer, torch.tensor(ids))) == dict(zip(ids, words, strict=True))


def test_every_token_of_the_vocabulary_has_a_word_of_its_own(tokenizer):
    words = [token_word(tokenizer, one) for one in range(len(tokenizer))]
    bytes_of = [spelled(word) for word in words]
    assert len(set(bytes_of)) == len(tokenizer)
    for one, word in enumerate(words):
        text = tokenizer.decode([one])
        assert word == text or "\N{REPLACEMENT CHARACTER}" in text


def test_names_of_other_tokenizers():
    class Pieces:
        """With a token per byte, as SentencePiece has them, and one without any name."""

        def decode(self, ids):
            return "\N{REPLACEMENT CHARACTER}"

        def convert_ids_to_tokens(self, number):
            return {0: "<0xE2>", 1: None, 2: "日"}[number]

    assert token_word(Pieces(), 0) == "<0xE2>"
    assert token_word(Pieces(), 1) == "\N{REPLACEMENT CHARACTER}"
    assert token_word(Pieces(), 2) == "日"


def test_lists_of_next_tokens_tell_them_apart(demo):
    model, tokenizer = demo
    ids = tokenizer("\N{GRINNING FACE}", add_special_tokens=False)["input_ids"]
    found = al.lens.logit_lens(model, tokenizer, "The dogs", answers=ids, positions=-1, top=0)
    named = found.frame()["answer"]
    assert named.nunique() == len(set(ids))
