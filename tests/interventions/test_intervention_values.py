"""Interventions as values: shown, compared, hashed, written and read back, checked."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import arcee_lab as al
from arcee_lab.interventions import from_json, to_json

POST = "layers.1.mlp.hook_post"
REFUSED = Path(__file__).with_name("refused.py")
DIRECTION = torch.tensor([0.1, -2.0, 3.0])
ROWS = torch.arange(6.0).reshape(2, 3)
VALUES = [
    al.Ablate(POST, units=[17, 3]),
    al.Ablate(["layers.*.hook_mlp_out", "hook_embed"], "mean", DIRECTION, positions=[0, -1]),
    al.Ablate("layers.1:.mlp.hook_post", "mean", {POST: 0.5, "layers.2.mlp.hook_post": DIRECTION}),
    al.Ablate(POST, "resample", ROWS, seed=7),
    al.Scale(POST, 1 / 3, tokens=[5]),
    al.Clamp(POST, high=DIRECTION.double()),
    al.Add(POST, DIRECTION.bfloat16(), -0.1, tags=[0, 2]),
    al.ProjectOut(POST, DIRECTION.half(), heads=[1]),
    al.TopK(POST, 3, mask=torch.tensor([[True, False]])),
    al.Threshold(POST, 1e-300),
    al.Cett(POST, {"layers.1.mlp.hook_post": 0.1}),
    al.Patch(POST, ROWS[:, None]),
    al.Patch(POST, {POST: ROWS[:, :0]}),
]


def test_what_they_look_like():
    assert repr(VALUES[0]) == "Ablate('layers.1.mlp.hook_post', units=[17, 3])"
    assert repr(VALUES[6]) == (
        "Add('layers.1.mlp.hook_post', direction=bfloat16[3], alpha=-0.1, tags=[0, 2])"
    )
    assert repr(VALUES[2]) == (
        "Ablate('layers.1:.mlp.hook_post', to='mean', value={'layers.1.mlp.hook_post': 0.5, "
        "'layers.2.mlp.hook_post': float32[3]})"
    )
    assert repr(VALUES[1]).startswith("Ablate(['layers.*.hook_mlp_out', 'hook_embed'], to='mean'")


def test_they_are_equal_by_content():
    assert al.Scale(POST, 2, units=3) == al.Scale([POST], 2.0, units=[3])
    assert al.Scale(POST, 2) != al.Scale(POST, 3)
    assert al.Ablate(POST) != al.Scale(POST, 0)
    one, two = al.Add(POST, DIRECTION), al.Add(POST, DIRECTION.clone())
    assert one == two
    assert hash(one) == hash(two)
    assert one != al.Add(POST, DIRECTION.double())
    assert one != al.Add(POST, DIRECTION[None])
    assert len({*VALUES, *from_json(to_json(VALUES))}) == len(VALUES)
    with pytest.raises(AttributeError):
        one.alpha = 2.0


def test_json_gives_back_the_same_values():
    text = to_json(VALUES)
    assert from_json(text) == VALUES
    assert to_json(from_json(text)) == text
    assert from_json(to_json(VALUES[0])) == VALUES[:1]
    row = json.loads(text)["interventions"][0]
    assert row == {"kind": "Ablate", "sites": [POST], "units": [17, 3]}
    assert json.loads(text)["interventions"][4]["factor"] == 1 / 3


@given(
    numbers=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    alpha=st.floats(allow_nan=False, allow_infinity=False),
    positions=st.none() | st.lists(st.integers(-(2**40), 2**40), min_size=1, unique=True),
)
def test_json_loses_no_bit(numbers, dtype, alpha, positions):
    tensor = torch.tensor(numbers).to(dtype)
    edit = al.Patch(POST, tensor, positions=positions)
    (back,) = from_json(to_json([edit]))
    assert back == edit
    assert torch.equal(back.source.tensor, tensor)
    assert back.source.tensor.dtype == dtype
    assert from_json(to_json(al.Scale(POST, alpha))) == [al.Scale(POST, alpha)]


def test_a_function_is_not_written():
    one = al.Replace(POST, torch.tanh)
    assert one == al.Replace(POST, torch.tanh)
    assert hash(one) == hash(al.Replace(POST, torch.tanh))
    assert one != al.Replace(POST, torch.sin)
    with pytest.raises(ValueError, match="holds a function, which JSON cannot"):
        to_json([one])


def test_what_is_no_intervention(run_forked):
    """Both tables of refused.py, in a process where shape checks do not come first."""
    run_forked(REFUSED.read_text(encoding="utf-8"))


def test_a_tensor_changed_later_is_refused(tiny):
    direction = torch.ones(32)
    edit = al.Add("hook_embed", direction)
    direction += 1
    with pytest.raises(ValueError, match="changed in place since"):
        al.intervene(tiny(), edit)
    with torch.inference_mode():
        direction = torch.ones(32)
        edit = al.Add("hook_embed", direction)
        direction += 1
    assert edit == al.Add("hook_embed", torch.ones(32))
