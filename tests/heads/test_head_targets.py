"""`target=`: the logit that is meant, against transformers' own heads, and its direction."""

import pytest
import torch
import transformers

import arcee_lab as al
from arcee_lab.heads.targets import Target, target_of

STOCK = {
    "causal": transformers.ArceeForCausalLM,
    "sequence": transformers.ArceeForSequenceClassification,
    "token": transformers.ArceeForTokenClassification,
    "qa": transformers.ArceeForQuestionAnswering,
}


def twin(model, head):
    """transformers' own model with the same weights."""
    config = transformers.ArceeConfig(**model.config.to_dict())
    stock = STOCK[head](config).eval()
    state = model.state_dict()
    if head == "qa":  # transformers calls its backbone so
        state = {name.replace("model.", "transformer.", 1): x for name, x in state.items()}
    stock.load_state_dict(state)
    return stock.to(model.dtype)


def padded(side: str, lengths: list[int], vocab: int):
    """Random ids and their mask; the columns of each row's first and last real token."""
    width = max(lengths)
    ids, mask = torch.zeros(2, len(lengths), width, dtype=torch.long)
    first, last = [], []
    for row, length in enumerate(lengths):
        start = width - length if side == "left" else 0
        ids[row, start : start + length] = torch.randint(3, vocab, (length,))
        mask[row, start : start + length] = 1
        first.append(start)
        last.append(start + length - 1)
    return {"input_ids": ids, "attention_mask": mask}, torch.tensor(first), torch.tensor(last)


CASES = [
    ("causal", 7, None),
    ("causal", [4, 9, 4], [5, 5, 6]),
    ("causal", [4, 9, 4], 8),
    ("sequence", "LABEL_1", None),
    ("sequence", "label_1", "LABEL_0"),
    ("sequence", ["LABEL_0", "LABEL_2", "LABEL_1"], "LABEL_2"),
    ("token", "LABEL_2", 0),
    ("qa", "start", None),
    ("qa", "end", None),
    ("qa", "span", None),
]


def by_hand(head, logits, target, versus, first, last):
    """The number per example, in plain Python, from transformers' output."""

    def column(answer, row):
        one = answer[row] if isinstance(answer, list) else answer
        return int(one[-1]) if isinstance(one, str) else one

    found = []
    for row in range(3):
        if head == "qa":
            start = float(logits.start_logits[row, first[row]])
            end = float(logits.end_logits[row, last[row]])
            at_last = float(logits.start_logits[row, last[row]])
            found.append({"start": at_last, "end": end, "span": start + end}[target])
            continue
        line = logits.logits[row] if head == "sequence" else logits.logits[row, last[row]]
        right = float(line[column(target, row)])
        found.append(right - (0.0 if versus is None else float(line[column(versus, row)])))
    return found


@pytest.mark.parametrize(("head", "target", "versus"), CASES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("dtype", "attn"), [(torch.float32, "eager"), (torch.bfloat16, "sdpa")])
def test_values_are_those_of_transformers_logits(tiny, head, target, versus, side, dtype, attn):
    model = tiny(head, attn=attn, dtype=dtype)
    batch, first, last = padded(side, [5, 9, 2], model.config.vocab_size)
    stock = twin(model, head)
    stock.set_attn_implementation(attn)
    with torch.no_grad(), al.capture(model, ["hook_logits", "norm.hook_normalized"]) as acts:
        model(**batch)
        expected = by_hand(head, stock(**batch), target, versus, first, last)
    found = target_of(model, target, versus=versus)
    at = None if head == "sequence" else last
    at = torch.stack([first, last], dim=1) if target == "span" else at
    got = found.value(acts["hook_logits"], at)
    # The logits are transformers' bit for bit (test_heads); a sum of two in fp32 rounds once.
    torch.testing.assert_close(got.tolist(), expected, rtol=2**-22, atol=0.0)

    # The same number as a product with the direction: a sum of d_model products rounds each of them
    # by at most the dtype's epsilon, once in the model and once here.
    x = acts["norm.hook_normalized"].float()[torch.arange(3), last]
    direction, offset = found.direction(model), found.offset(model)
    if target == "span":
        x = torch.stack([acts["norm.hook_normalized"].float()[torch.arange(3), first], x], dim=1)
    product = (x * direction).flatten(1).sum(-1) + offset
    scale = (x.abs() * direction.abs()).flatten(1).sum(-1).max()
    terms = 2 if versus is not None or target == "span" else 1
    bound = float(scale + 1) * torch.finfo(dtype).eps * (2 + terms) * 4
    torch.testing.assert_close(product, got, rtol=0.0, atol=bound)


def test_gradients_reach_the_direction(tiny):
    model = tiny("sequence")
    batch, _, last = padded("left", [4, 6, 3], 50)
    with al.capture(model, ["norm.hook_normalized"], grad=True) as acts:
        logits = model(**batch).logits
        target_of(model, "LABEL_1", versus=0).value(logits).sum().backward()
    grad = acts.grad("norm.hook_normalized")
    rows = torch.arange(3)
    expected = target_of(model, 1, versus=0).direction(model)
    torch.testing.assert_close(grad[rows, last], expected.expand(3, -1))
    grad[rows, last] = 0
    assert not grad.any()


def test_answers_of_the_vocabulary(demo):
    model, tokenizer = demo
    found = target_of(model, "keep", versus="skip", tokenizer=tokenizer)
    assert found.name == "keep - skip"
    keep, skip = (tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in ("keep", "skip"))
    assert [term.columns for term in found.terms] == [(keep,), (skip,)]
    assert target_of(model, found) is found
    by_id = target_of(model, keep, versus=skip, tokenizer=tokenizer)
    torch.testing.assert_close(by_id.direction(model), found.direction(model), rtol=0, atol=0)
    rows = model.lm_head.weight.detach().float()
    torch.testing.assert_close(found.direction(model), rows[keep] - rows[skip], rtol=0, atol=0)
    assert found.offset(model) == 0


REFUSED = [
    ("base", 1, {}, al.errors.ModelError, "has no head"),
    ("causal", 50, {}, al.errors.SettingError, "target=50 is no token id; expected 0 to 49"),
    ("causal", -1, {}, al.errors.SettingError, "expected 0 to 49"),
    ("causal", True, {}, al.errors.SettingError, "target must be a label"),
    ("causal", [], {}, al.errors.SettingError, "target must be a label"),
    ("causal", "dog", {}, al.errors.SettingError, "there is no tokenizer"),
    ("causal", [1, 2], {"versus": [1, 2, 3]}, al.errors.SettingError, "give as many"),
    ("sequence", "LABEL_11", {}, al.errors.SettingError, "nearest: LABEL_1"),
    ("sequence", "x", {}, al.errors.SettingError, "expected one of LABEL_0, LABEL_1, LABEL_2."),
    ("token", 3, {}, al.errors.SettingError, "expected 0 to 2"),
    ("token", 1, {"versus": "LABEL_9"}, al.errors.SettingError, "versus='LABEL_9' is no label"),
    ("qa", 0, {}, al.errors.SettingError, "start, end, span"),
    ("qa", "span", {"versus": "start"}, al.errors.SettingError, "leave versus out"),
]


@pytest.mark.parametrize(("head", "target", "more", "kind", "said"), REFUSED)
def test_what_no_head_has_is_refused(tiny, head, target, more, kind, said):
    with pytest.raises(kind) as caught:
        target_of(tiny(head), target, **more)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("answer", ["keep the", "", "Zzyzx"])
def test_an_answer_of_several_tokens_is_refused(demo, answer):
    model, tokenizer = demo
    with pytest.raises(al.errors.TextError, match=r"expected an answer of one token.*\.$"):
        target_of(model, answer, tokenizer=tokenizer)


def test_a_target_of_another_head_is_refused(tiny):
    found = target_of(tiny("sequence"), 1)
    for call in (lambda m: target_of(m, found), found.direction, found.offset):
        with pytest.raises(al.errors.ModelError, match="is of a sequence head"):
            call(tiny("token"))


@pytest.mark.parametrize(
    ("head", "shape", "at", "said"),
    [
        ("sequence", (3, 4, 3), None, "must have 2 axes"),
        ("token", (3, 3), torch.tensor([0, 0, 0]), "must have 3 axes"),
        ("token", (3, 4, 3), None, "read at positions"),
        ("token", (3, 4, 3), torch.tensor([0, 0]), "read at positions"),
        ("sequence", (3, 3), torch.tensor([0, 0, 0]), "leave the positions out"),
        ("qa", (3, 4, 2), torch.tensor([0, 0, 0]), "read at positions"),
    ],
)
def test_logits_of_another_shape_are_refused(tiny, head, shape, at, said):
    found: Target = target_of(tiny(head), "span" if head == "qa" else 1)
    with pytest.raises(al.errors.SettingError, match=said):
        found.value(torch.zeros(shape), at)
    several = target_of(tiny("causal"), [1, 2])
    with pytest.raises(al.errors.SettingError, match="answers for 2 examples, and there are 3"):
        several.value(torch.zeros(3, 4, 50), torch.tensor([0, 0, 0]))
