"""What does not fit a model or a call is said clearly, before the forward where it can be known."""

import pytest
import torch
from tiny_calls import batch_of, hooks_of

import arcee_lab as al

POST, RESID, Z = "layers.1.mlp.hook_post", "layers.0.hook_resid_post", "layers.0.self_attn.hook_z"
PATTERN = "layers.0.self_attn.hook_pattern"
NAN = torch.tensor([1.0] * 31 + [torch.nan])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: al.Ablate("layers.7.mlp.hook_post"), "matches no hook point"),
        (lambda: al.Ablate("mlp.up_proj"), "matches no hook point"),
        (lambda: al.Ablate(POST, units=[3, 72]), r"units \[72\] out of range"),
        (lambda: al.Ablate(POST, units=-1), r"units \[-1\] out of range"),
        (lambda: al.Ablate(Z, heads=4), r"heads \[4\] out of range"),
        (lambda: al.Ablate("layers.0.self_attn.hook_k", heads=2), r"expected 0 to 1 \(kv_head\)"),
        (lambda: al.Ablate(POST, heads=0), "heads cut the head axis"),
        (lambda: al.Ablate(PATTERN, units=0), "units cut a feature axis"),
        (lambda: al.Ablate(PATTERN, "resample"), "cannot be resampled"),
        (lambda: al.Add(RESID, NAN), "direction holds 1 values that are NaN or infinite"),
        (lambda: al.Add(RESID, torch.full((32,), torch.inf)), "direction holds 32 values"),
        (lambda: al.Add(RESID, torch.ones(31)), "where d_model is 32, not 31"),
        (lambda: al.Add(RESID, torch.ones(9, 32)), r"give a number or \[d_model\]"),
        (lambda: al.Add(PATTERN, torch.ones(9)), "give a number"),
        (lambda: al.Clamp(POST, torch.arange(72.0), 70.5), "at layers.1.mlp.hook_post 1 of the"),
        (lambda: al.Clamp(POST, 1, {POST: torch.zeros(72)}), "72 of the bounds cross"),
        (lambda: al.Scale(POST, torch.ones(5), units=[1, 2]), "where d_mlp is 72 or 2, not 5"),
        (lambda: al.Ablate(POST, "mean", {RESID: 1.0}), "value has nothing for layers.1.mlp"),
        (lambda: al.Ablate(POST, "resample", torch.ones(72)), r"must be rows \[n d_mlp\]"),
        (lambda: al.Ablate(POST, "resample", torch.ones(4, 71)), "where d_mlp is 72, not 71"),
        (lambda: al.ProjectOut(RESID, torch.zeros(32)), "zero or linearly dependent"),
        (lambda: al.ProjectOut(RESID, torch.ones(2, 32)), "zero or linearly dependent"),
        (lambda: al.ProjectOut(RESID, torch.ones(8)), r"directions must be \[32\]"),
        (lambda: al.ProjectOut(RESID, NAN), "directions holds 1 values that are NaN"),
        (lambda: al.ProjectOut(PATTERN, NAN), "needs a feature axis"),
        (lambda: al.TopK(RESID, 3), "TopK chooses among neurons"),
        (lambda: al.TopK(POST, 73), "only 72 neurons are meant"),
        (lambda: al.TopK(POST, 3, units=[1, 2]), "only 2 neurons are meant"),
        (lambda: al.Threshold(Z, 0.1), "Threshold chooses among neurons"),
        (lambda: al.Cett("layers.0.hook_mlp_out", 0.1), "Cett chooses among neurons"),
        (lambda: al.Patch(RESID, torch.ones(2, 9, 31)), "where d_model is 32, not 31"),
        (lambda: al.Patch(RESID, torch.ones(2, 9, 4, 32)), "or all 3 axes"),
        (lambda: al.Patch(RESID, torch.ones(9, 32)), "or all 3 axes"),
        (lambda: al.Patch(RESID, torch.full((2, 9, 32), torch.nan)), "source holds 576 values"),
        (lambda: al.Patch(RESID, 1.0), "source must be a tensor"),
        (lambda: al.Patch(RESID, {POST: torch.ones(72)}), "source has nothing for layers.0.hook"),
    ],
)
def test_what_does_not_fit_the_model(tiny, make, message):
    model = tiny()
    before = hooks_of(model)
    with pytest.raises(ValueError, match=message):
        al.intervene(model, make())
    assert hooks_of(model) == before


@pytest.mark.parametrize("what", ["positions", "tokens", "tags"])
def test_conditions_on_tokens_need_tokens(tiny, what):
    edit = al.Scale("hook_logits", 2.0, **{what: [0]})
    with pytest.raises(ValueError, match="has none"):
        al.intervene(tiny("sequence"), edit)


def in_call(model, batch, edits):
    with torch.no_grad(), al.intervene(model, edits):
        return model(**batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: al.Patch(RESID, torch.ones(2, 8, 32)), "source holds 8 tokens at .* the call 9"),
        (lambda: al.Patch(RESID, torch.ones(2, 10, 32)), "source holds 10 tokens at"),
        (lambda: al.Patch(RESID, torch.ones(3, 9, 32)), "source has 3 sequences at"),
        (lambda: al.Patch(RESID, torch.ones(2, 8, 32), positions=0), "holds 8 tokens"),
        (lambda: al.Patch(PATTERN, torch.ones(2, 4, 9, 8)), "broadcasts to"),
        (lambda: al.Patch("hook_logits", torch.ones(2, 9, 50)), None),
        (lambda: al.Replace(RESID, lambda x: None), "the function returned NoneType"),
        (lambda: al.Replace(RESID, lambda x: x[:1]), r"got the shape \[1, 9, 32\], expected"),
        (lambda: al.Replace(RESID, lambda x: x.double()), "got the dtype torch.float64"),
        (lambda: al.Replace(RESID, lambda x: x.to("meta")), "got the device meta"),
        (lambda: al.Replace(RESID, lambda x: x.zero_()), "in place; others hold that tensor"),
    ],
)
def test_what_does_not_fit_the_call(tiny, make, message):
    model, batch = tiny(), batch_of()
    before, clean = hooks_of(model), model(**batch).logits
    if message is None:
        assert (in_call(model, batch, make()).logits == 1).all()
    else:
        with pytest.raises(ValueError, match=message):
            in_call(model, batch, make())
    assert hooks_of(model) == before
    assert torch.equal(model(**batch).logits, clean)


def test_a_batch_of_one_has_nobody_to_resample_from(tiny):
    with pytest.raises(ValueError, match="needs two sequences or more; got 1"):
        in_call(tiny(), batch_of(batch=1), al.Ablate(POST, "resample"))


def test_logits_that_were_cut_are_not_patched_by_token(tiny):
    model, batch = tiny(), batch_of()
    with (
        pytest.raises(ValueError, match="hook_logits holds 1 of the 9 tokens"),
        al.intervene(model, al.Patch("hook_logits", torch.ones(2, 9, 50))),
    ):
        model(**batch, logits_to_keep=1)


def test_a_block_without_effect_is_an_error(tiny):
    model, other, batch = tiny(), tiny(), batch_of(padding="right")
    with (
        pytest.raises(ValueError, match="3 of 3 sites never fired"),
        al.intervene(model, al.Ablate("layers.*.mlp.hook_post")),
    ):
        other(**batch)
    never = al.Ablate(POST, positions=9)
    with pytest.raises(ValueError, match=r"positions=\[9\]\) in 1 forwards"):
        in_call(model, batch, [al.Ablate(POST, positions=0), never])
    with pytest.raises(ValueError, match="No token met"):  # padding is no token
        in_call(model, batch, al.Ablate(POST, tokens=0))
    with torch.no_grad(), al.intervene(model, never):  # one forward that has it is enough
        model(**batch)
        model(**batch_of(length=10))


@pytest.mark.parametrize("where", [{}, {"positions": [0]}, {"tokens": range(3, 50)}])
@pytest.mark.parametrize(("ours", "theirs"), [("left", "right"), ("right", "left"), (None, "left")])
def test_a_source_padded_on_the_other_side_is_refused(tiny, ours, theirs, where):
    """Columns are patched: other tokens would stand there, or padding."""
    model = tiny()
    one, two = batch_of(padding=theirs, seed=1), batch_of(padding=ours, seed=2)
    with torch.no_grad(), al.capture(model, [RESID, POST]) as acts:
        model(**one)
    edit = al.Patch(RESID, acts, **where)
    assert torch.equal(edit.attended.tensor, one["attention_mask"].bool())
    with pytest.raises(
        ValueError, match=r"patched into other tokens at layers\.0\.hook_resid_post"
    ):
        in_call(model, two, edit)
    # Where a padded sequence is left alone, and for a tensor, of which nothing is known.
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0] = True
    in_call(model, two, al.Patch(RESID, acts, mask=mask))
    in_call(model, two, al.Patch(RESID, acts[RESID], **where))
    in_call(model, one, edit)


def test_what_a_source_says_of_its_tokens_lasts(tiny):
    """Through JSON, in generate, for a shorter sequence on the right, and of the right length."""
    from arcee_lab.interventions import from_json, to_json

    model, batch = tiny(), batch_of(padding="right")
    with torch.no_grad(), al.capture(model, RESID) as acts:
        model(**batch)
    whole = {"input_ids": batch["input_ids"], "attention_mask": torch.ones_like(batch["input_ids"])}
    edit = al.Patch(RESID, acts, positions=[0, 5])
    in_call(model, whole, edit)  # both sequences have these, at the same columns
    (read,) = from_json(to_json(edit))
    assert read == edit
    wider = al.Patch(RESID, acts, positions=[0, 6])
    for late in (wider, from_json(to_json(wider))):  # the second sequence has six tokens
        with pytest.raises(ValueError, match="patched into other tokens"):
            in_call(model, whole, late)
    left = batch_of(padding="left")
    with torch.no_grad(), al.capture(model, RESID) as acts:
        model(**left)
    with al.intervene(model, al.Patch(RESID, acts)):
        model.generate(**left, max_new_tokens=3, do_sample=False, pad_token_id=0)
    with pytest.raises(ValueError, match="patched into other tokens"):  # noqa: SIM117
        with al.intervene(model, al.Patch(RESID, acts)):
            model.generate(**batch, max_new_tokens=3, do_sample=False, pad_token_id=0)
    short = al.Patch(RESID, acts[RESID], torch.ones(2, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="attended has 8 columns and source 9 tokens"):
        al.intervene(model, short)


def test_a_source_of_several_forwards_is_refused(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, RESID) as acts:
        model(**batch)
        model(**batch)
    with pytest.raises(ValueError, match="as a capture of 2 forwards does"):
        al.Patch(RESID, acts)


def test_what_is_no_intervention_or_no_model_of_ours(tiny):
    with pytest.raises(ValueError, match=r"Expected a model of arcee_lab"):
        al.intervene(torch.nn.Linear(2, 2), [])
