"""Small tokenizers and texts for the tests of neurons."""

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


class Letters:
    """One token per character of a-z, space and full stop; no BOS, no specials."""

    ALPHABET = "abcdefghijklmnopqrstuvwxyz ."

    @classmethod
    def tokenizer(cls) -> PreTrainedTokenizerFast:
        merges = {letter: number for number, letter in enumerate(cls.ALPHABET)}
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE(vocab=merges, merges=[]))
        )
