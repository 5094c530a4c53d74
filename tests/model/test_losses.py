"""Pooling of the sequence head, and the losses of every head."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import NAMES, PAD, assert_same, assert_same_gradients, batch, labels, pair
from torch.nn import functional


def run(model, **inputs):
    with torch.no_grad():
        return model(**inputs)


def scores_at(model, inputs, positions):
    """The sequence head's scores at one position per row, by plain arithmetic."""
    hidden = run(model.model, **inputs).last_hidden_state
    return hidden[torch.arange(len(positions)), positions] @ model.score.weight.T


@given(
    rows=st.integers(1, 4),
    padding=st.sampled_from([None, "left", "right"]),
    seed=st.integers(0, 2**16),
    pad_token=st.sampled_from([PAD, None, 7]),
)
def test_the_last_attended_token_is_pooled_whatever_its_id(rows, padding, seed, pad_token):
    """The reference reads token ids: a sequence that ends with the pad id is read too early."""
    ours, _ = pair("sequence", pad_token_id=pad_token)
    inputs = batch(rows=rows, padding=padding, seed=seed)
    last = (inputs["attention_mask"] * torch.arange(10)).argmax(-1)
    inputs["input_ids"][torch.arange(rows), last] = 7  # the pad id of one of the three configs
    pooled = run(ours, **inputs).logits
    torch.testing.assert_close(pooled, scores_at(ours, inputs, last))
    # By its embeddings, and by a mask of booleans, the same.
    embeds = ours.model.embed_tokens(inputs["input_ids"])
    by_embeds = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"].bool()}
    assert torch.equal(run(ours, **by_embeds).logits, pooled)


@given(
    rows=st.integers(1, 4),
    padding=st.sampled_from([None, "left", "right"]),
    seed=st.integers(0, 2**16),
    embeds=st.booleans(),
)
def test_without_a_mask_the_reference_decides(rows, padding, seed, embeds):
    ours, theirs = pair("sequence")
    inputs = {"input_ids": batch(rows=rows, padding=padding, seed=seed)["input_ids"]}
    if embeds:
        inputs = {"inputs_embeds": ours.model.embed_tokens(inputs["input_ids"])}
    assert_same(run(ours, **inputs), run(theirs, **inputs))


def test_without_mask_and_pad_id_one_row_is_read_to_its_end_and_several_are_refused():
    ours, theirs = pair("sequence", pad_token_id=None)
    ids = batch(padding=None)["input_ids"]
    assert_same(run(ours, input_ids=ids[:1]), run(theirs, input_ids=ids[:1]))
    with pytest.raises(ValueError, match=r"where 3 sequences end.*Pass the tokenizer's"):
        ours(ids)
    mask = torch.ones_like(ids)
    scored = run(ours, input_ids=ids, attention_mask=mask).logits  # a mask is enough
    torch.testing.assert_close(
        scored, scores_at(ours, {"input_ids": ids}, torch.full((3,), 9)), rtol=1e-5, atol=1e-6
    )


def test_pooling_under_a_cache_reads_this_calls_tokens():
    """The mask covers the cached tokens too."""
    ours, _ = pair("sequence")
    inputs = batch(padding="right")
    inputs["attention_mask"][0, 8:] = 0
    whole = run(ours, **inputs).logits
    filled = run(ours.model, input_ids=inputs["input_ids"][:, :4], use_cache=True).cache
    rest = run(
        ours,
        input_ids=inputs["input_ids"][:, 4:],
        attention_mask=inputs["attention_mask"],
        cache=filled,
    )
    torch.testing.assert_close(rest.logits, whole, atol=1e-5, rtol=1e-5)


SEQUENCE = {
    "single label": (None, lambda: torch.tensor([0, 2, 1]), 3),
    "named single label": (
        "single_label_classification",
        lambda: torch.tensor([0, 2, 1]),
        3,
    ),
    "multi label": (None, lambda: torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 1]]), 3),
    "named multi label": (
        "multi_label_classification",
        lambda: torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 1]]),
        3,
    ),
    "regression": (None, lambda: torch.tensor([0.5, -1.0, 2.0]), 1),
    "regression of several": ("regression", lambda: torch.randn(3, 3), 3),
}


@pytest.mark.parametrize("case", SEQUENCE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sequence_losses(case, dtype):
    kind, make, num_labels = SEQUENCE[case]
    ours, theirs = pair("sequence", dtype=dtype, problem_type=kind, num_labels=num_labels)
    inputs = batch()
    target = make()
    target = target.to(dtype) if target.is_floating_point() else target
    outputs = [model(**inputs, labels=target) for model in (ours, theirs)]
    assert_same(*outputs)
    for output in outputs:
        output.loss.backward()
    assert_same_gradients(ours, theirs, "sequence")
    scores = outputs[0].logits.detach()
    plain = {
        "single label": lambda: functional.cross_entropy(scores, target),
        "multi label": lambda: functional.binary_cross_entropy_with_logits(scores, target),
        "regression": lambda: ((scores.squeeze() - target) ** 2).mean(),
    }[case.removeprefix("named ").removesuffix(" of several")]()
    torch.testing.assert_close(outputs[0].loss.detach(), plain, atol=2e-2, rtol=2e-2)


def test_the_language_models_loss_is_shifted_and_ignores_minus_100():
    ours, theirs = pair()
    inputs = batch()
    inputs |= labels("causal", inputs)
    output = run(ours, **inputs)
    assert_same(output, run(theirs, **inputs))
    log_probs = output.logits[:, :-1].log_softmax(-1)
    target = inputs["labels"][:, 1:]
    picked = log_probs.gather(2, target.clamp(min=0)[..., None]).squeeze(-1)
    torch.testing.assert_close(output.loss, -picked[target != -100].mean())


def test_the_language_models_loss_over_a_number_of_items():
    """What the Trainer passes under gradient accumulation: a sum over a count of its own."""
    ours, theirs = pair()
    inputs = batch()
    inputs |= labels("causal", inputs)
    count = torch.tensor(37)
    mine = run(ours, **inputs, num_items_in_batch=count)
    assert_same(mine, run(theirs, **inputs, num_items_in_batch=count))
    n = int((inputs["labels"][:, 1:] != -100).sum())
    torch.testing.assert_close(mine.loss, run(ours, **inputs).loss * n / 37)


@pytest.mark.parametrize("dropout", [{}, {"classifier_dropout": 0.4}, {"hidden_dropout": 0.3}])
@pytest.mark.parametrize("training", [False, True])
def test_token_losses_with_dropout(dropout, training):
    ours, theirs = pair("token", **dropout)
    assert ours.dropout.p == theirs.dropout.p == next(iter(dropout.values()), 0.1)
    inputs = batch()
    inputs |= labels("token", inputs)
    outputs = []
    for model in (ours, theirs):
        model.train(training)
        torch.manual_seed(5)
        outputs.append(model(**inputs))
    assert_same(*outputs)
    flat, target = outputs[0].logits.flatten(0, 1), inputs["labels"].flatten()
    torch.testing.assert_close(outputs[0].loss, functional.cross_entropy(flat, target))


def test_a_token_head_without_bias():
    ours, theirs = pair("token", token_classification_bias=False)
    assert ours.score.bias is None
    assert_same(run(ours, **batch()), run(theirs, **batch()))


@pytest.mark.parametrize("beyond", [False, True])
def test_question_answering_losses(beyond):
    """Positions beyond the text are ignored; the loss is the mean of both ends."""
    ours, theirs = pair("qa")
    inputs = batch()
    inputs |= {
        "start_positions": torch.tensor([2, 5, 12 if beyond else 6]),
        "end_positions": torch.tensor([[4], [15 if beyond else 7], [8]]).squeeze(-1),
    }
    output = run(ours, **inputs)
    assert_same(output, run(theirs, **inputs))
    parts = [
        functional.cross_entropy(scores, position.clamp(max=10), ignore_index=10)
        for scores, position in (
            (output.start_logits, inputs["start_positions"]),
            (output.end_logits, inputs["end_positions"]),
        )
    ]
    torch.testing.assert_close(output.loss, sum(parts) / 2)
    one = {key: value for key, value in inputs.items() if key != "end_positions"}
    assert run(ours, **one).loss is None


@pytest.mark.parametrize("head", [h for h in NAMES if h != "base"])
def test_labels_do_not_change_the_scores(head):
    ours, _ = pair(head)
    inputs = batch()
    with_labels, without = run(ours, **inputs, **labels(head, inputs)), run(ours, **inputs)
    assert without.loss is None
    for name in ("logits", "start_logits", "end_logits"):
        if name in without:
            assert torch.equal(with_labels[name], without[name])


def test_pooling_under_caches(tiny):
    """The last attended token of this call, whatever the cache holds and however long the mask."""
    from transformers import DynamicCache, StaticCache

    model = tiny("sequence")
    ids = torch.randint(3, 50, (2, 10))
    mask = torch.ones_like(ids)
    ids[1, 8:], mask[1, 8:] = 0, 0
    expected = model(input_ids=ids, attention_mask=mask).logits
    for cache in (DynamicCache(config=model.config), StaticCache(model.config, max_cache_len=16)):
        static = isinstance(cache, StaticCache)
        wide = torch.nn.functional.pad(mask, (0, 6)) if static else mask
        model(input_ids=ids[:, :6], attention_mask=wide if static else mask[:, :6], cache=cache)
        got = model(input_ids=ids[:, 6:], attention_mask=wide, cache=cache).logits
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
