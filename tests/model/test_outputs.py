"""What a forward accepts and returns: call styles, masks, hidden states, attentions."""

import pytest
import torch
from reference import NAMES, assert_same, batch, labels, pair, tensors
from transformers import DynamicCache


def run(model, **inputs):
    with torch.no_grad():
        return model(**inputs)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@pytest.mark.parametrize("head", NAMES)
def test_both_names_of_the_cache(head, name):
    ours, theirs = pair(head)
    inputs = batch(padding=None)
    first = {key: value[:, :6] for key, value in inputs.items()}
    backbone = getattr(ours, "model", ours)
    filled = run(backbone, **first, use_cache=True).cache
    assert filled.get_seq_length() == 6
    rest = {"input_ids": inputs["input_ids"][:, 6:], "attention_mask": inputs["attention_mask"]}
    mine = run(ours, **rest, **{name: filled})
    assert filled.get_seq_length() == 10
    their_backbone = getattr(theirs, "transformer", getattr(theirs, "model", theirs))
    their_cache = run(their_backbone, **first, use_cache=True).cache
    assert_same(mine, run(theirs, **rest, cache=their_cache))
    if head == "causal":  # and it is what one call gives
        whole = run(ours, **inputs).logits[:, 6:]
        torch.testing.assert_close(mine.logits, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["base", "causal", "sequence"])
def test_the_cache_that_comes_back_has_both_names(head):
    ours, _ = pair(head)
    output = run(ours, **batch(), use_cache=True)
    assert isinstance(output.cache, DynamicCache)
    assert output.past_key_values is output.cache
    assert run(ours, **batch(), use_cache=False).cache is None


@pytest.mark.parametrize("head", NAMES)
def test_embeddings_in_place_of_ids(head):
    ours, theirs = pair(head)
    inputs = batch(padding=None if head == "sequence" else "left")
    ids = inputs.pop("input_ids")
    embeds = ours.get_input_embeddings()(ids)
    mine = run(ours, **inputs, inputs_embeds=embeds)
    assert_same(mine, run(ours, **inputs, input_ids=ids))
    assert_same(mine, run(theirs, **inputs, inputs_embeds=embeds))


@pytest.mark.parametrize("head", NAMES)
@pytest.mark.parametrize("both", [False, True])
def test_ids_or_embeddings_but_not_both(head, both):
    ours, _ = pair(head)
    inputs = batch()
    extra = {"inputs_embeds": torch.zeros(3, 10, 32)} if both else {}
    if not both:
        del inputs["input_ids"]
    with pytest.raises(ValueError, match="got both" if both else "got neither"):
        ours(**inputs, **extra)


@pytest.mark.parametrize("head", NAMES)
def test_a_tuple_on_request(head):
    ours, theirs = pair(head)
    inputs = batch()
    inputs |= labels(head, inputs)
    asked: dict = {"return_dict": False, "output_hidden_states": True}
    if head in ("base", "causal", "sequence"):
        asked["use_cache"] = False
    mine, other = run(ours, **inputs, **asked), run(theirs, **inputs, **asked)
    assert isinstance(mine, tuple)
    assert len(mine) == len(other)
    flat = [dict(enumerate(output)) for output in (mine, other)]
    assert_same(*flat)
    ours.config.return_dict = False
    again = run(ours, **inputs, output_hidden_states=True)
    assert isinstance(again, tuple)
    assert torch.equal(again[0], mine[0])


KEEP = {
    "none": 0,
    "last": 1,
    "last four": 4,
    "index": torch.tensor([0, 3, 9]),
    "index per row": torch.tensor([[0, 1], [4, 9], [2, 3]]),
    "mask": torch.tensor([[True, False] * 5] * 3),
}


@pytest.mark.parametrize("keep", KEEP)
def test_logits_to_keep(keep):
    ours, theirs = pair()
    inputs, kept = batch(), KEEP[keep]
    whole = run(ours, **inputs).logits
    mine = run(ours, **inputs, logits_to_keep=kept).logits
    assert torch.equal(mine, run(theirs, **inputs, logits_to_keep=kept).logits)
    if isinstance(kept, int):
        expected = whole[:, -kept:] if kept else whole
    elif kept.ndim == 1:
        expected = whole[:, kept]
    elif kept.dtype == torch.bool:
        expected = whole[kept]
    else:
        expected = whole.gather(1, kept[..., None].expand(-1, -1, 40))
    torch.testing.assert_close(mine.reshape(expected.shape), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", NAMES)
@pytest.mark.parametrize("asked", [True, 1, [0, 2]])
def test_hidden_states(head, asked):
    """All, one or some; the last is after the final norm, as the reference has it."""
    ours, theirs = pair(head)
    inputs = batch()
    mine = run(ours, **inputs, output_hidden_states=asked)
    assert_same(mine, run(theirs, **inputs, output_hidden_states=asked))
    if asked is True:
        assert len(mine.hidden_states) == 3
        backbone = getattr(ours, "model", ours)
        assert torch.equal(mine.hidden_states[-1], run(backbone, **inputs).last_hidden_state)
        assert torch.equal(mine.hidden_states[0], backbone.embed_tokens(inputs["input_ids"]))
    assert run(ours, **inputs).hidden_states is None


@pytest.mark.parametrize("head", NAMES)
def test_hidden_states_by_the_config(head):
    ours, theirs = pair(head, output_hidden_states=True)
    assert_same(run(ours, **batch()), run(theirs, **batch()))
    assert len(run(ours, **batch()).hidden_states) == 3


@pytest.mark.parametrize("head", NAMES)
@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_attentions(head, padding, attn):
    """Bit for bit the reference's under eager; under SDPA, where the reference has none, close.

    A query of padding reads nothing: its row is zero under SDPA. Under eager the reference's row
    there is uniform, and so is ours.
    """
    ours, theirs = pair(head, attn="eager")
    inputs = batch(padding=padding)
    expected = run(theirs, **inputs, output_attentions=True)
    ours.set_attn_implementation(attn)
    plain = run(ours, **inputs)
    mine = run(ours, **inputs, output_attentions=True)
    assert len(mine.attentions) == 2
    assert mine.attentions[0].shape == (3, 4, 10, 10)
    kept = {k: v for k, v in tensors(mine).items() if not k.startswith("attentions")}
    assert_same(kept, plain)  # asking changes nothing
    if attn == "eager":
        assert_same(mine, expected)
        return
    real = inputs["attention_mask"].bool()
    sees_nothing = inputs["attention_mask"].cumsum(-1) == 0
    for got, want in zip(mine.attentions, expected.attentions, strict=True):
        per_query, wanted = got.transpose(1, 2), want.transpose(1, 2)
        assert (per_query[real] - wanted[real]).abs().max() < 2e-6
        assert (per_query[sees_nothing] == 0).all()
        torch.testing.assert_close(per_query[real].sum(-1), torch.ones(int(real.sum()), 4))


def test_attentions_under_a_cache():
    """Under SDPA the queries of this call over all keys; the causal triangle ends at the end."""
    ours, theirs = pair(attn="eager")
    inputs = batch()
    for attn in ("eager", "sdpa"):
        ours.set_attn_implementation(attn)
        caches = [DynamicCache(config=ours.config), DynamicCache(config=theirs.config)]
        for start, end in ((0, 6), (6, 7), (7, 10)):
            part = {
                "input_ids": inputs["input_ids"][:, start:end],
                "attention_mask": inputs["attention_mask"][:, :end],
            }
            mine = run(ours, **part, cache=caches[0], output_attentions=True).attentions
            other = run(theirs, **part, cache=caches[1], output_attentions=True).attentions
            real = inputs["attention_mask"][:, start:end].bool()
            for got, want in zip(mine, other, strict=True):
                assert got.shape == (3, 4, end - start, end)
                difference = (got - want).transpose(1, 2)[real]
                assert difference.abs().max() < (2e-6 if attn == "sdpa" else 1e-30)


def band(length):
    """A mask that is not causal: each token reads its neighbours, the first reads all."""
    away = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    allowed = away <= 1
    allowed[0] = True
    return allowed


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("head", NAMES)
def test_four_dimensional_masks(head, attn):
    ours, theirs = pair(head, attn=attn)
    ids = batch(padding=None)["input_ids"]
    allowed = band(10).expand(3, 1, 10, 10)
    least = torch.finfo(torch.float32).min
    mask = torch.where(allowed, 0.0, least) if attn == "eager" else allowed
    mine = run(ours, input_ids=ids, attention_mask=mask)
    assert_same(mine, run(theirs, input_ids=ids, attention_mask=mask))
    shown = run(ours, input_ids=ids, attention_mask=mask, output_attentions=True).attentions[0]
    assert torch.equal(shown > 0, allowed.expand(3, 4, 10, 10))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("head", ["base", "causal", "token"])
@pytest.mark.parametrize("padding", [None, "right"])
def test_attention_that_is_not_causal(head, attn, padding):
    ours, theirs = pair(head, attn=attn, is_causal=False)
    inputs = batch(padding=padding)
    mine = run(ours, **inputs, is_causal=False)
    assert_same(mine, run(theirs, **inputs, is_causal=False))
    shown = run(ours, **inputs, is_causal=False, output_attentions=True).attentions[0]
    real = inputs["attention_mask"].bool()
    both = real[:, None, :, None] & real[:, None, None, :]
    assert torch.equal((shown > 0) & real[:, None, :, None], both.expand_as(shown))


def test_packed_sequences_by_their_positions():
    """Positions that start again start a sequence: it reads nothing before."""
    ours, theirs = pair()
    ids = batch(padding=None, rows=1)["input_ids"]
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    packed = run(ours, input_ids=ids, position_ids=positions, use_cache=False).logits
    assert torch.equal(
        packed, run(theirs, input_ids=ids, position_ids=positions, use_cache=False).logits
    )
    alone = run(ours, input_ids=ids[:, 4:]).logits
    torch.testing.assert_close(packed[:, 4:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", NAMES)
def test_a_model_is_as_before_after_every_kind_of_call(head):
    ours, _ = pair(head)
    inputs = batch()
    before = run(ours, **inputs)
    for extra in ({"output_attentions": True}, {"output_hidden_states": True}):
        run(ours, **inputs, **extra)
        assert_same(run(ours, **inputs), before)
    assert all(
        layer.self_attn.pattern_mode == "off" for layer in getattr(ours, "model", ours).layers
    )
