"""What is refused as an intervention or as JSON of one; a script without shape checks."""

import json
import re

import numpy as np
import torch

import arcee_lab as al
from arcee_lab.interventions import from_json
from arcee_lab.patching.pairs import Pairs

POST = "layers.1.mlp.hook_post"
DIRECTION = torch.tensor([0.1, -2.0, 3.0])
ROWS = torch.arange(6.0).reshape(2, 3)


def row(**changes):
    base = {"kind": "Scale", "sites": [POST], "factor": 2.0}
    return {"version": 1, "interventions": [base | changes]}


def tensor(**changes):
    whole = al.interventions.constants.Constant(DIRECTION).to_json() | changes
    return row(factor={"tensor": whole})


TEXTS = [
    ("{", "not JSON"),
    ("[]", "version 1"),
    ('{"version": 2, "interventions": []}', "got version 2"),
    (row(kind="Replace"), "Expected a kind among"),
    (row(kind="os.system"), "Expected a kind among"),
    (row(command="ls"), "Scale has no command"),
    (row(sites=7), "sites is a name or a list of names; got 7"),
    (row(sites=[7]), "sites is a name or a list of names"),
    (row(units=["a"]), "units must be one or more whole numbers"),
    (row(units=[1, 1]), "names an index twice"),
    (row(factor="2"), "factor must be a number"),
    (row(factor={"tensor": {}}), "needs dtype, shape and data"),
    (row(factor={"pickle": "x"}), "Expected a tensor or values by site"),
    (tensor(dtype="object"), "needs dtype"),
    (tensor(shape=[10**12]), "does not take 12 bytes"),
    (tensor(shape=[-3]), "does not take 12 bytes"),
    (tensor(shape=[1.5, 2]), "does not take 12 bytes"),
    (tensor(data="????"), "needs dtype"),
    (tensor(data=3), "needs dtype"),
]
VALUES = [
    (lambda: al.Ablate([]), "sites is a name or a list of names"),
    (lambda: al.Ablate(5), "sites is a name or a list of names; got 5"),
    (lambda: al.Ablate(POST, units=3.0), "units must be one or more whole numbers"),
    (lambda: al.Ablate(POST, units=np.array([True, False])), "units must be one or more whole"),
    (lambda: al.Ablate(POST, units=torch.tensor([[1], [2]])), "units must be one or more whole"),
    (lambda: al.Ablate(POST, units=[]), "units must be one or more whole numbers"),
    (lambda: al.Ablate(POST, tokens=[1.5]), "tokens must be one or more whole numbers"),
    (lambda: al.Ablate(POST, positions=[1, 1]), "positions names an index twice"),
    (lambda: al.Ablate(POST, mask=torch.ones(2, 3)), "mask must be bools"),
    (lambda: al.Ablate(POST, mask=torch.ones(3, dtype=torch.bool)), "mask must be bools"),
    (lambda: al.Ablate(POST, mask=[[True]]), "mask must be a tensor of bools .* got list"),
    (lambda: al.Ablate(POST, "median"), "expected one of zero, mean, resample"),
    (lambda: al.Ablate(POST, "mean"), "needs the mean"),
    (lambda: al.Ablate(POST, value=1.0), "takes no value"),
    (lambda: al.Ablate(POST, "resample", seed="x"), "seed must be a whole number"),
    (lambda: al.Scale(POST, torch.nan), "factor must be finite"),
    (lambda: al.Scale(POST, None), "factor must be a number, a tensor"),
    (lambda: al.Scale(POST, True), "factor must be a number or a tensor"),
    (lambda: al.Clamp(POST), "needs low, high or both"),
    (lambda: al.Clamp(POST, 2, 1), "needs low <= high"),
    (lambda: al.Add(POST, DIRECTION, DIRECTION), "alpha must be a number"),
    (lambda: al.Add(POST, torch.ones(3, requires_grad=True)), "requires a gradient"),
    (lambda: al.Add(POST, DIRECTION.to(torch.complex64)), "real numbers; got torch.complex64"),
    (lambda: al.Add(POST, [0.1, 0.2]), "direction must be a number, a tensor, .* got list"),
    (lambda: al.ProjectOut(POST, DIRECTION, units=3), "leave units out"),
    (lambda: al.TopK(POST, 0), "k must be a whole number from 1"),
    (lambda: al.TopK(POST, 0.5), "k must be a whole number from 1"),
    (lambda: al.Cett(POST, 0), "eps must be a positive number"),
    (lambda: al.Cett(POST, DIRECTION), "eps must be a positive number"),
    (lambda: al.Patch(POST, [ROWS, ROWS]), "as a capture of 2 forwards"),
    (lambda: al.Replace(POST, 3), "takes a function"),
    (lambda: al.intervene(None, ["zero"]), "Expected interventions such as"),
    (lambda: al.intervene(None, None), r"Expected interventions such as .* got NoneType"),
    (lambda: al.intervene(None, al.Ablate), "Expected interventions such as"),
    (lambda: Pairs.read(None, {}, {}, 5, -1), "metric must be a function of logits.* got 5"),
]


def refusal(make) -> str:
    try:
        return f"accepted: {make()}"
    except ValueError as error:
        return str(error)


for text, message in TEXTS:
    written = text if isinstance(text, str) else json.dumps(text)
    got = refusal(lambda written=written: from_json(written))
    assert re.search(message, got), (written, message, got)
for make, message in VALUES:
    got = refusal(make)
    assert re.search(message, got), (message, got)

# Whole numbers of NumPy and torch are units like any other.
for units in (np.array([4, 2]), [np.int64(4), 2], torch.tensor([4, 2]), list(torch.tensor([4, 2]))):
    assert al.Ablate(POST, units=units) == al.Ablate(POST, units=[4, 2]), units
assert al.Ablate(POST, units=np.int64(4)) == al.Ablate(POST, units=4)
