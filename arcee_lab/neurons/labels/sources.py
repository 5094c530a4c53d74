"""Labels of texts that the caller has: spans, regular expressions, functions of a text."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from arcee_lab.errors import SettingError, WrongType
from arcee_lab.neurons.labels.labelled import Labels, Span, spans_of, texts_of


def spans(
    texts: Iterable[Any],
    where: Any,
    *,
    asked: Any = None,
    documents: Sequence[int] = (),
    domains: Sequence[str] = (),
) -> Labels:
    """Labels from spans of characters.

    Args:
        texts: The texts.
        where: Name of a label -> for each text, a list of (first, last-plus-one) character.
        asked: Likewise, where a label applies at all; by default everywhere.
        documents: Number of each text's document; by default each text is one.
        domains: A word for each text's kind.

    Raises:
        TextError: A span outside its text, or a label without one list per text.

    Example:
        >>> import arcee_lab as al
        >>> al.neurons.labels.spans(["Ann sleeps ."], {"person": [[(0, 3)]]}).names
        ('person',)
    """
    found = texts_of(texts)
    return Labels(
        found,
        spans_of(found, where),
        spans_of(found, asked or {}),
        tuple(documents),
        tuple(domains),
    )


def regex(
    texts: Iterable[Any],
    patterns: Mapping[str, str],
    *,
    flags: int = 0,
    documents: Sequence[int] = (),
    domains: Sequence[str] = (),
) -> Labels:
    r"""Labels from regular expressions: a label holds at every match that is not empty.

    Python's `re` is used as it is; a pattern that backtracks without end does so here too.

    Args:
        texts: The texts.
        patterns: Name of a label -> its pattern.
        flags: Of `re.compile`.
        documents: Number of each text's document; by default each text is one.
        domains: A word for each text's kind.

    Raises:
        SettingError: A pattern that `re` does not read.

    Example:
        >>> import arcee_lab as al
        >>> labels = al.neurons.labels.regex(["born in 1950"], {"year": r"\d{4}"})
        >>> labels.spans["year"]
        (((8, 12),),)
    """
    compiled = {}
    for name, pattern in patterns.items():
        try:
            compiled[name] = re.compile(pattern, flags)
        except (re.error, TypeError, OverflowError) as error:
            raise SettingError(
                f"the pattern of label {name!r}, {pattern!r}, is no regular expression: {error}."
            ) from error

    def finder(pattern: re.Pattern[str]) -> Callable[[str], list[Span]]:
        return lambda text: [m.span() for m in pattern.finditer(text) if m.start() < m.end()]

    return function(
        texts,
        {name: finder(pattern) for name, pattern in compiled.items()},
        documents=documents,
        domains=domains,
    )


def function(
    texts: Iterable[Any],
    functions: Mapping[str, Any],
    *,
    documents: Sequence[int] = (),
    domains: Sequence[str] = (),
) -> Labels:
    """Labels from functions of a text, such as another model's predictions.

    Args:
        texts: The texts.
        functions: Name of a label -> what gives the spans where it holds in a text.
        documents: Number of each text's document; by default each text is one.
        domains: A word for each text's kind.

    Raises:
        TextError: A function gives a span outside its text.
        WrongType: One is no function.

    Example:
        >>> import arcee_lab as al
        >>> first = lambda text: [(0, text.index(" "))]
        >>> al.neurons.labels.function(["The dogs sleep ."], {"first": first}).spans["first"]
        (((0, 3),),)
    """
    rows = texts_of(texts)
    for name, find in functions.items():
        if not callable(find):
            raise WrongType(
                f"label {name!r} has {type(find).__name__}; expected a function from a text to "
                "spans."
            )
    where = {name: [list(find(text)) for text in rows] for name, find in functions.items()}
    return Labels(rows, spans_of(rows, where), {}, tuple(documents), tuple(domains))
