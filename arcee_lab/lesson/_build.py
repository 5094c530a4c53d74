"""`build`: chooses once what a notebook reads."""

from functools import cache
from typing import Any

from torch import nn

from arcee_lab.data.tokenization import token_ids
from arcee_lab.errors import TextError, WrongType
from arcee_lab.lesson import of_demo, own_texts, plain
from arcee_lab.lesson.outline import Lesson, longest_text
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import tokenizer_fingerprint
from arcee_lab.runs.arguments import checked


@checked
def build(model: nn.Module, tokenizer: Any, *, texts: Any = None) -> Lesson:
    """What a notebook reads on this model, chosen once: texts, labels, pairs, strings and tasks.

    A model with the demo's tokenizer gets the demo's world, whose truth is known; every other one
    gets plain English of our own, which comes with the package. Texts of the user take the place of
    the texts and labels; pairs and strings stay.

    Args:
        model: One of arcee_lab's models, with any head.
        tokenizer: Its tokenizer.
        texts: None; or a text, a list of texts, or a mapping from kinds of text to lists of texts.
            Of files: `list(al.data.read_files(["notes.txt"]))`.

    Raises:
        TextError: Texts without any word, or of one token each.
        WrongType: Something that is no text.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> lesson = al.lesson.build(model, tokenizer)
        >>> lesson.source, len(lesson.pairs("agreement"))
        ('demo', 24)
    """
    anatomy_of(model)
    if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
        raise WrongType(
            f"tokenizer is {type(tokenizer).__name__}; expected the tokenizer that al.load gives."
        )
    known = tokenizer_fingerprint(tokenizer) == _demo_tokenizer()
    base = of_demo.material() if known else plain.material()
    most = longest_text(model)
    material = base if texts is None else own_texts.material(texts, base, tokenizer, most)
    lesson = Lesson(model, tokenizer, material)
    if max(map(len, token_ids(tokenizer, lesson.texts))) < 2:
        raise TextError(
            "No text has two tokens, and a model says what comes after one; give longer texts."
        )
    return lesson


@cache
def _demo_tokenizer() -> str:
    from arcee_lab.model.checks.tokenizer_files import read_tokenizer
    from arcee_lab.model.loading import DEMO

    return tokenizer_fingerprint(read_tokenizer(DEMO, vocab_size=1 << 20))
