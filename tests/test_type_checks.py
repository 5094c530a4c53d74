"""The hooks of conftest.py are in place: a wrong type or shape stops a test."""

import pytest
import torch


def test_types_are_checked_where_there_are_no_shapes():
    from arcee_lab.demo.document import words

    with pytest.raises(Exception, match="violates type hint") as error:
        words(3)
    assert "Beartype" in type(error.value).__name__


def test_shapes_are_checked():
    from arcee_lab.lens.readout import normalised

    with pytest.raises(Exception, match="Type-check") as error:
        normalised(torch.nn.Identity(), "no tensor")
    assert "TypeCheck" in type(error.value).__name__
