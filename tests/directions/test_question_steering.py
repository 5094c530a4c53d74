"""Steering a question-answering head against plain hooks on the stream, and what it refuses."""

import numpy as np
import pytest
import torch

import arcee_lab as al
from arcee_lab.demo.tasks import dataset
from arcee_lab.directions import Direction

SITE = "layers.2.hook_resid_post"


@pytest.fixture(scope="module")
def reader():
    return al.load("demo", head="qa")


@pytest.fixture(scope="module")
def passages():
    """Pairs of question and context, the right spot and another one of each."""
    rows = dataset("qa", train=1, validation=1, test=10)["test"]
    pairs, right, other = [], [], []
    for row in rows:
        (answer,) = row["answers"]["text"]
        spots = [
            sentence.split(" visited ")[1].split(" or ")[0]
            for sentence in row["context"].split(".")
            if " visited " in sentence
        ]
        different = [spot for spot in spots if spot != answer]
        pairs.append((row["question"], row["context"]))
        right.append(answer)
        other.append(different[-1])
    return pairs, right, other


def direction_for(model):
    base = vars(al.directions.neuron(model, 2, 7))
    vector = torch.randn(1, 128, generator=torch.Generator().manual_seed(4))
    settings = {"site": SITE, "vectors": vector / vector.norm(), "scale": torch.tensor([30.0])}
    return Direction(**(base | settings))


def score(start, end, offsets, inside, context, answer):
    """Start logit plus end logit of the first place of an answer, in a loop over tokens."""
    begin = context.index(answer)
    covered = [
        token
        for token, (a, b) in enumerate(offsets)
        if inside[token] and a < begin + len(answer) and b > begin
    ]
    return float(start[covered[0]] + end[covered[-1]])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_success_is_that_of_plain_hooks(reader, passages, batch_size):
    model, tokenizer = reader
    pairs, right, other = passages
    found = direction_for(model)
    turned = pairs[1:] + pairs[:1]
    curve = al.directions.steer(
        model,
        tokenizer,
        found,
        pairs,
        target=other,
        versus=right,
        strengths=(1.0, 3.0),
        positions=None,
        batch_size=batch_size,
        progress=False,
    )
    at_one = al.directions.steer(
        model,
        tokenizer,
        found,
        pairs,
        target=other,
        versus=right,
        strengths=(1.0,),
        positions=3,
        sources=turned,
        batch_size=batch_size,
        progress=False,
    )
    layer, step = model.model.layers[2], found.scale[0] * found.vectors[0]

    def share(change):
        said = []
        for number, (question, context) in enumerate(pairs):
            encoded = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
            inside = [part == 1 for part in encoded.sequence_ids(0)]
            offsets = encoded.pop("offset_mapping")[0].tolist()
            handle = layer.register_forward_hook(lambda m, a, out, n=number: change(out, n))
            with torch.no_grad():
                output = model(**encoded)
            handle.remove()
            wanted, replaced = (
                score(
                    output.start_logits[0], output.end_logits[0], offsets, inside, context, answer
                )
                for answer in (other[number], right[number])
            )
            said.append(wanted > replaced)
        return np.mean(said)

    def at_three(value):
        def change(x, number):
            new = x.clone()
            new[:, 3] = value(new[:, 3], number)
            return new

        return change

    assert curve.success[0] < 0.5, "the head knows the right spot"
    for column, strength in enumerate(curve.strengths):
        assert curve.success[column] == share(lambda x, n, s=strength: x + s * step)
    assert at_one.success[1] == share(at_three(lambda x, n: x + step))
    streams = []
    for question, context in turned:
        ids = tokenizer(question, context, return_tensors="pt")
        with torch.no_grad(), al.capture(model, SITE) as acts:
            model(**ids)
        streams.append(acts[SITE][:, 3])
    assert at_one.whole == share(at_three(lambda x, n: streams[n]))


def test_refusals(reader, passages):
    model, tokenizer = reader
    pairs, right, other = passages
    found = direction_for(model)

    def steer(prompts=pairs, **changed):
        given = {"target": other, "versus": right, "positions": None, "progress": False}
        return al.directions.steer(model, tokenizer, found, prompts, **(given | changed))

    for changed, said in (
        ({"prompts": ["one text"]}, "must be pairs of texts, a question and its context"),
        ({"prompts": []}, "There are no prompts"),
        ({"versus": None}, "has nothing to set it against; give versus="),
        ({"target": other[:3]}, "names 3 answers, and there are 10 prompts"),
        ({"target": 3}, "is an answer in the context, or a list"),
        ({"target": "elephant"}, "The context of question 0 does not hold the answer 'elephant'"),
        ({"target": " "}, "does not hold the answer"),
        ({"positions": -1}, "behind both answers of every prompt, whose logits they cannot change"),
        ({"positions": 999}, "no token at position 999"),
        ({"sources": pairs[:2]}, "2 sources and 10 prompts"),
        ({"sources": ["a"] * 10}, "sources of a question-answering head must be pairs"),
        ({"neutral": ["The dogs bark ."]}, "cost is read from a causal head"),
        ({"prompts": [("Who?", " ")] * 10}, "must hold text"),
    ):
        with pytest.raises(ValueError, match=said):
            steer(**changed)
