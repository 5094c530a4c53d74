"""Arguments of public calls, checked against the types that the signature states.

    @checked
    def measure(model, tokenizer, texts: Iterable[str], *, batch_size: int = 8): ...

An argument of another type ends in one sentence, before anything is computed, and two arguments in
each other's place are recognised as such. Only the outermost type is looked at: whether a text is
hidden in a list of texts is seen where the list is read. Nothing is imported for the check.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from arcee_lab.errors import WrongType

Function = TypeVar("Function", bound=Callable[..., Any])
_SHOWN = 60  # characters of a value in an error


class Rule(NamedTuple):
    """What an argument may be.

    Attributes:
        holds: Whether a value is that.
        expected: In words.
        is_path: Whether it may be a path, which holds no null byte.
    """

    holds: Callable[[Any], bool]
    expected: str
    is_path: bool = False


def checked(function: Function) -> Function:
    """A function whose arguments are checked at every call.

    Raises:
        WrongType: At the call: an argument is of another type, or two are swapped.
    """
    signature = inspect.signature(function)
    called = function.__qualname__.removesuffix(".__init__")
    order = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    rules = {
        p.name: rule
        for p in signature.parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (rule := _rule(p.name, p.annotation)) is not None
    }

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in zip(order, args, strict=False):
            rule = rules.get(name)
            if rule is not None and not _fits(rule, value):
                raise _wrong(called, signature, rules, name, args, kwargs)
        for name, value in kwargs.items():
            rule = rules.get(name)
            if rule is not None and not _fits(rule, value):
                raise _wrong(called, signature, rules, name, args, kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def check_fields(value: Any) -> None:
    """The same for the fields of a dataclass, to be called in its `__post_init__`.

    Raises:
        WrongType: A field is of another type.
    """
    for name, rule in _field_rules(type(value)).items():
        given = getattr(value, name)
        if not _fits(rule, given):
            raise WrongType(_sentence(type(value).__name__, name, given, rule))


@functools.cache
def _field_rules(kind: type) -> dict[str, Rule]:
    found = {name: _rule(name, one.type) for name, one in kind.__dataclass_fields__.items()}
    return {name: rule for name, rule in found.items() if rule is not None}


def _fits(rule: Rule, value: Any) -> bool:
    if not rule.holds(value):
        return False
    return not (rule.is_path and isinstance(value, str | PurePath) and "\0" in str(value))


def _wrong(
    called: str,
    signature: inspect.Signature,
    rules: Mapping[str, Rule],
    name: str,
    args: Any,
    kwargs: Any,
) -> WrongType:
    given = signature.bind_partial(*args, **kwargs).arguments
    value = given[name]
    for other, rule in rules.items():
        swapped = other != name and other in given and rule.holds(value)
        if swapped and rules[name].holds(given[other]) and not rule.holds(given[other]):
            order = ", ".join(one for one in signature.parameters if one in (name, other))
            return WrongType(
                f"{name} and {other} of {called} are swapped: {name} is {_short(value)} and "
                f"{other} is {_short(given[other])}; expected the order {order}."
            )
    return WrongType(_sentence(called, name, value, rules[name]))


def _sentence(called: str, name: str, value: Any, rule: Rule) -> str:
    if rule.is_path and isinstance(value, str | PurePath) and "\0" in str(value):
        return (
            f"{name} of {called} is {_short(str(value))}, which holds a null byte; expected a "
            "path, and no path has one."
        )
    if name in ("texts", "paths") and isinstance(value, str | PurePath):
        return f"{name} of {called} is one {name[:-1]}; expected a list, so pass [{name[:-1]}]."
    return f"{name} of {called} is {_short(value)}; expected {rule.expected}."


def _short(value: Any) -> str:
    kind = type(value).__name__
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str | bytes | int | float):
        text = repr(value)
        return f"{text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'} ({kind})"
    return f"{'an' if kind[:1] in 'AEIOUaeiou' else 'a'} {kind}"


# ---------------------------------------------------------------------- rules


def _rule(name: str, annotation: Any) -> Rule | None:
    """The rule of one parameter; None where anything goes, or where we cannot tell."""
    if annotation is Any and name == "model":
        return Rule(_is_module, "a model (a torch module)")
    if name == "tokenizer" and not _is_none_alone(annotation):
        optional = annotation is Any or NoneType in get_args(annotation)
        return Rule(lambda x: (optional and x is None) or _is_tokenizer(x), "a tokenizer")
    return _of(annotation)


def _is_none_alone(annotation: Any) -> bool:
    return annotation in (inspect.Parameter.empty, str, None)


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _is_tokenizer(value: Any) -> bool:
    plain = isinstance(value, str | bytes | int | float | list | tuple | PurePath | type)
    return value is not None and not plain and not _is_module(value)


def _of(annotation: Any) -> Rule | None:
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return _union([_of(one) for one in get_args(annotation)])
    if origin is Literal:
        known = get_args(annotation)
        return Rule(
            lambda x: any(x is one or (type(x) is type(one) and x == one) for one in known),
            f"one of {', '.join(map(repr, known))}",
        )
    if isinstance(origin, type):
        return _instance(origin)
    tensor = getattr(annotation, "array_type", None)  # of jaxtyping; the shape is not looked at
    if isinstance(tensor, type):
        return Rule(lambda x: isinstance(x, tensor), f"a {tensor.__name__}")
    return _instance(annotation) if isinstance(annotation, type) else None


def _union(rules: list[Rule | None]) -> Rule | None:
    known = [rule for rule in rules if rule is not None]
    if len(known) < len(rules):
        return None
    words = list(dict.fromkeys(rule.expected for rule in known))
    return Rule(
        lambda x: any(rule.holds(x) for rule in known),
        " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words),
        any(rule.is_path for rule in known),
    )


def _instance(kind: type) -> Rule | None:
    if getattr(kind, "_is_protocol", False):
        held = [one for one in vars(kind) if not one.startswith("_")]
        return Rule(lambda x: all(_has(x, one) for one in held), f"a {kind.__name__} or its like")
    module, name = kind.__module__, kind.__name__
    if issubclass(kind, PurePath) or kind is os.PathLike:
        return Rule(lambda x: isinstance(x, os.PathLike), "a path", is_path=True)
    if module == "collections.abc" or kind in (list, tuple, dict, set):
        word = _CONTAINERS.get(name, f"a {name}")
        # Arrays and tensors are no Sequence to Python, and can be read like one.
        if name in ("Sequence", "Iterable", "Collection"):
            return Rule(lambda x: _is_listed(x, kind), word)
        return Rule(lambda x: isinstance(x, kind), word)
    return Rule(lambda x: isinstance(x, kind), _CLASSES.get(name, f"a {name}"))


def _is_listed(value: Any, kind: type) -> bool:
    if isinstance(value, str | bytes):
        return False
    return isinstance(value, kind) or (
        all(hasattr(type(value), name) for name in ("__len__", "__getitem__", "__iter__"))
        and not isinstance(value, Mapping)
    )


def _has(value: Any, name: str) -> bool:
    """Whether it has an attribute, without computing that of a property."""
    return hasattr(type(value), name) or name in getattr(value, "__dict__", ())


def _is_bool(value: Any) -> bool:
    kind = type(value)  # NumPy's is called bool_ or bool, by release
    return isinstance(value, bool) or (kind.__module__ == "numpy" and kind.__name__[:4] == "bool")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


_SIMPLE: dict[Any, Rule | None] = {
    Any: None,
    object: None,
    inspect.Parameter.empty: None,
    None: Rule(lambda x: x is None, "None"),
    NoneType: Rule(lambda x: x is None, "None"),
    str: Rule(lambda x: isinstance(x, str), "a text"),
    bool: Rule(_is_bool, "True or False"),
    int: Rule(_is_whole, "a whole number"),
    float: Rule(_is_real, "a number"),
}
_CONTAINERS = {
    "Iterable": "a list, or something else that can be iterated over",
    "Sequence": "a list",
    "Mapping": "a mapping",
    "Callable": "a function",
    "list": "a list",
    "tuple": "a tuple",
    "dict": "a mapping",
    "Iterator": "an iterator",
}
_CLASSES = {
    "Module": "a model (a torch module)",
    "PreTrainedTokenizerBase": "a tokenizer",
    "dtype": "a torch dtype",
    "device": "a torch device",
    "Tensor": "a tensor",
}
