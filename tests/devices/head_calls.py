"""Training and evaluating heads, once on each device; `device_calls.py` has the other calls."""

import copy
from typing import Any

from device_calls import call
from device_lab import Lab, Read

from arcee_lab.training.heads import HeadRecipe, evaluate_head, read_labelled, train_head

FEW = {"epochs": 1, "batch_size": 4}


def _trained(lab: Lab, head: str, **settings: Any) -> Read:
    texts = read_labelled("demo:train", head=head, limit=8)
    test = read_labelled("demo:test", head=head, limit=4)
    model = copy.deepcopy(lab.model())  # the trained head shares the backbone
    recipe = HeadRecipe(**FEW, **settings)
    found = train_head(model, lab.tokenizer, texts, test=test, recipe=recipe, progress=False)
    head = found.model.qa_outputs if head == "qa" else found.model.score
    return lambda: [list(found.losses), [one.value for one in found.scores], head.weight.detach()]


@call
def train_a_sequence_head(lab: Lab) -> Read:
    return _trained(lab, "sequence")


@call
def train_a_token_head(lab: Lab) -> Read:
    return _trained(lab, "token")


@call
def train_a_question_head(lab: Lab) -> Read:
    return _trained(lab, "qa")


@call
def train_a_whole_backbone(lab: Lab) -> Read:
    return _trained(lab, "sequence", tune="full")


@call
def evaluate_a_head(lab: Lab) -> Read:
    texts = read_labelled("demo:test", head="sequence", limit=4)
    found = evaluate_head(
        lab.model("sequence"), lab.tokenizer, data=texts, draws=20, progress=False
    )
    return lambda: found.frame()
