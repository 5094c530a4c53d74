"""Small tokenizers and texts for the tests of neurons."""

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


class Letters:
    """One token per character of a-z, space and marks; no BOS, no specials."""

    ALPHABET = "abcdefghijklmnopqrstuvwxyz .:\n"
    CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"

    @classmethod
    def tokenizer(cls, *, chat: bool = False) -> PreTrainedTokenizerFast:
        merges = {letter: number for number, letter in enumerate(cls.ALPHABET)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE(vocab=merges, merges=[]))
        )
        if chat:
            tokenizer.chat_template = cls.CHAT
        return tokenizer
