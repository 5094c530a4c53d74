"""`checked`: which values fit which annotations, in which words the others are refused."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.errors import SettingError, WrongType
from arcee_lab.runs.arguments import check_fields, checked


class Counted(Protocol):
    @property
    def counts(self) -> int: ...


class Report:
    @property
    def counts(self) -> int:
        raise AssertionError("looking at a type computes nothing")


FITS = [
    (str, ["", "a"], [5, None, b"a", ["a"]]),
    (int, [0, -5, np.int64(3), 10**30], [1.0, "1", True, None]),
    (float, [0, 0.5, np.float32(1), float("nan")], ["1", None, True, [1.0]]),
    (bool, [True, np.bool_(False)], [0, 1, "yes", None]),
    (str | None, ["a", None], [5]),
    (str | os.PathLike, ["a", Path("a")], [5, None, "a\0b", Path("a\0b")]),
    (str | Path, ["a", Path("a")], [5]),
    (Literal["mean", "zero"], ["mean"], ["other", 0, None]),
    (Iterable[str], [["a"], ("a",), iter("a"), np.array(["a"])], ["a", 5, None]),
    (
        Sequence[int] | Tensor | None,
        [[1], (), np.arange(3), torch.arange(3), None, range(2)],
        ["12", 5, {1: 2}],
    ),
    (Mapping[str, int], [{}, os.environ], [[], "a", None]),
    (Callable[[int], int], [len, lambda x: x], [5, None]),
    (nn.Module, [nn.Linear(1, 1)], ["demo", 5, nn.Linear]),
    (torch.dtype | str | None, [torch.float16, "float16", None], [5]),
    (Float[Tensor, "a b"], [torch.ones(2), torch.ones(2, 3)], [[1.0], np.ones(2)]),
    (Counted, [Report()], [5, object()]),
    (Any, [5, None, "a"], []),
]


@pytest.mark.parametrize(("annotation", "right", "wrong"), FITS, ids=[str(f[0]) for f in FITS])
def test_what_fits(annotation, right, wrong):
    def plain(value, *, named=None):
        return value

    plain.__signature__ = inspect.Signature(
        [
            inspect.Parameter("value", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            inspect.Parameter(
                "named", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            ),
        ]
    )
    function = checked(plain)
    for value in right:
        assert function(value, named=value) is value
    for value in wrong:
        with pytest.raises(WrongType, match=r"^named of .*plain is .*; (expected|which).*\.$"):
            function(value, named=value)
    assert function(5) == 5  # a default is not looked at


def test_the_function_stays_what_it_was():
    @checked
    def measure(model: nn.Module, *, batch_size: int = 8) -> int:
        """Words."""
        return batch_size

    assert (measure.__name__, measure.__doc__) == ("measure", "Words.")
    assert str(inspect.signature(measure)).startswith("(model: torch.nn.modules.module.Module")
    with pytest.raises(TypeError, match="missing 1 required positional"):
        measure()
    with pytest.raises(TypeError, match="unexpected keyword"):
        measure(nn.Linear(1, 1), nonsense=5)


def test_swapped_arguments_are_named(demo):
    model, tokenizer = demo

    @checked
    def measure(model: Any, tokenizer: Any, texts: Iterable[str], out: str | Path = "."):
        return "done"

    assert measure(model, tokenizer, ["a"]) == "done"
    assert measure(model, None, ["a"]) == "done"  # who needs one says so
    with pytest.raises(
        WrongType, match=r"model and tokenizer of .* are swapped.*model, tokenizer\.$"
    ):
        measure(tokenizer, model, ["a"])
    with pytest.raises(WrongType, match=r"tokenizer and texts of .* are swapped"):
        measure(model, ["a"], tokenizer)
    with pytest.raises(WrongType, match=r"texts and out of .* are swapped"):
        measure(model, tokenizer, Path("a"), out=["a"])
    with pytest.raises(WrongType, match=r"texts of .*measure is one text; expected a list"):
        measure(model, tokenizer, "a")


def test_fields_of_a_dataclass():
    @dataclass(frozen=True)
    class Recipe:
        epochs: int = 3
        rate: float | None = None

        def __post_init__(self) -> None:
            check_fields(self)

    assert Recipe(epochs=np.int64(2), rate=1).rate == 1
    with pytest.raises(SettingError, match=r"^epochs of Recipe is '3' \(str\); expected a whole"):
        Recipe(epochs="3")
    with pytest.raises(TypeError, match="rate of Recipe"):
        Recipe(rate="x")
