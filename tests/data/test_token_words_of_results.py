"""The texts of tokens in a result: decoded when asked for, and a dictionary when copied."""

import copy
import pickle

import pytest
import torch

import arcee_lab as al
from arcee_lab.data.token_words import TokenWords

IDS = torch.tensor([[7, 9], [-1, 7]])


class Counting:
    """A tokenizer that keeps what it was asked for."""

    def __init__(self):
        self.asked = []

    def decode(self, ids):
        self.asked.append(ids)
        return f"<{ids[0]}>"


def test_tokens_are_decoded_once_and_only_when_asked_for():
    tokenizer = Counting()
    words = TokenWords(tokenizer, IDS)
    assert tokenizer.asked == []
    assert words[9] == "<9>"
    assert dict(words) == {7: "<7>", 9: "<9>"}
    assert len(words) == 2
    assert 8 not in words
    assert tokenizer.asked == [[7], [9]]
    with pytest.raises(KeyError):
        words[-1]


def test_without_a_tokenizer_tokens_are_called_by_their_numbers():
    assert dict(TokenWords(None, IDS)) == {7: "7", 9: "9"}


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_is_a_dictionary(copied):
    words = TokenWords(Counting(), IDS)
    assert type(copied(words)) is dict
    assert copied(words) == words == {7: "<7>", 9: "<9>"}
    assert repr(words) == repr(dict(words))


def test_words_of_a_lens_are_those_of_the_tokenizer(demo):
    model, tokenizer = demo
    ids = tokenizer("The dogs near the door")["input_ids"]
    found = al.lens.logit_lens(
        model, tokenizer, "The dogs near the door", answers=[7, 9], sites="hook_embed", top=2
    )
    strongest = set(found.top_ids.flatten().tolist())
    assert dict(found.words) == {i: tokenizer.decode([i]) for i in strongest | {7, 9}}
    assert dict(found.text) == {i: tokenizer.decode([i]) for i in ids}
