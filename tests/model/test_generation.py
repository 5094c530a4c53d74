"""Every way to generate gives the reference's ids, with every kind of cache."""

import shutil
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import DTYPES, PAD, ROPES, batch, pair, shapes

import arcee_lab as al

STATIC_ROPES = tuple(rope for rope in ROPES if rope != "longrope")  # it cannot switch tables there


def generate(model, inputs, *, seed=0, **options):
    """Generates 8 tokens per row that no end token cuts short."""
    torch.manual_seed(seed)
    defaults = {"max_new_tokens": 8, "eos_token_id": None, "pad_token_id": PAD, "do_sample": False}
    return model.generate(**inputs, **(defaults | options))


WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 0.9, "top_k": 12, "top_p": 0.95},
    "several samples": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "sampled beams": {"num_beams": 2, "do_sample": True},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "static cache, beams": {"cache_implementation": "static", "num_beams": 2},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    "processed in chunks": {"prefill_chunk_size": 3},
}
ONE_ROW = {"prompt lookup"}


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("way", WAYS)
def test_ids_equal_the_references(way, attn):
    ours, theirs = pair(attn=attn)
    inputs = batch(rows=1 if way in ONE_ROW else 3)
    mine, other = (generate(m, inputs, **WAYS[way]) for m in (ours, theirs))
    assert torch.equal(mine, other)
    assert mine.shape[1] == inputs["input_ids"].shape[1] + 8


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="quanto builds its 4-bit kernels with g++")
def test_a_quantised_cache():
    kind = {"backend": "quanto", "nbits": 4, "q_group_size": 16, "residual_length": 4}
    options = {"cache_implementation": "quantized", "cache_config": kind}
    ours, theirs = pair()
    inputs = batch()
    assert torch.equal(generate(ours, inputs, **options), generate(theirs, inputs, **options))


@settings(max_examples=20)
@given(
    shape=shapes(ropes=STATIC_ROPES),
    dtype=st.sampled_from(DTYPES),
    attn=st.sampled_from(["sdpa", "eager"]),
    way=st.sampled_from(["greedy", "sampling", "beams", "static cache"]),
    padding=st.sampled_from([None, "left"]),
    captured=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_ids_over_random_shapes(shape, dtype, attn, way, padding, captured, seed):
    """12 prompt tokens and 8 new ones, so that dynamic RoPE grows on the way."""
    ours, theirs = pair(attn=attn, dtype=dtype, seed=seed, **shape)
    inputs = batch(padding=padding, length=12, seed=seed)
    with al.capture(ours, "*") if captured else nullcontext():
        mine = generate(ours, inputs, seed=seed, **WAYS[way])
    assert torch.equal(mine, generate(theirs, inputs, seed=seed, **WAYS[way]))


def test_longrope_switches_tables_on_the_way():
    ours, theirs = pair(rope_parameters=ROPES["longrope"])
    inputs = batch(length=12, padding=None)
    assert torch.equal(generate(ours, inputs), generate(theirs, inputs))


@pytest.mark.parametrize("do_sample", [False, True])
def test_assisted_by_a_smaller_model(do_sample):
    ours, theirs = pair()
    helper, their_helper = pair(num_hidden_layers=1, seed=1)
    inputs = batch(rows=1)
    mine = generate(ours, inputs, assistant_model=helper, do_sample=do_sample)
    other = generate(theirs, inputs, assistant_model=their_helper, do_sample=do_sample)
    assert torch.equal(mine, other)
    if not do_sample:
        assert torch.equal(mine, generate(ours, inputs))
        # Either of ours and the reference's assists the other.
        assert torch.equal(mine, generate(ours, inputs, assistant_model=their_helper))


def test_caches_agree_with_each_other():
    """Greedy ids do not depend on the cache, on padding or on the kernel."""
    ours, _ = pair()
    inputs = batch()
    expected = generate(ours, inputs)
    for options in ({"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(generate(ours, inputs, **options), expected)
    ours.set_attn_implementation("eager")
    assert torch.equal(generate(ours, inputs), expected)
    row = inputs["input_ids"][2:, inputs["attention_mask"][2] == 1]
    alone = generate(ours, {"input_ids": row, "attention_mask": torch.ones_like(row)})
    assert torch.equal(alone[:, -8:], expected[2:, -8:])


def test_a_sequence_ends_at_its_end_token_and_is_padded():
    ours, _ = pair()
    inputs = batch()
    free = generate(ours, inputs)
    end = int(free[0, inputs["input_ids"].shape[1] + 2])
    ended = generate(ours, inputs, eos_token_id=end)
    new = ended[0, inputs["input_ids"].shape[1] :]
    first = new.tolist().index(end)
    assert torch.equal(new[: first + 1], free[0, inputs["input_ids"].shape[1] :][: first + 1])
    assert (new[first + 1 :] == PAD).all()


def test_scores_hidden_states_and_attentions_of_every_step():
    ours, theirs = pair(attn="eager")
    inputs = batch()
    asked = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": True,
    }
    mine, other = (generate(m, inputs, **asked) for m in (ours, theirs))
    for name in ("scores", "logits"):
        assert len(mine[name]) == 8
        assert all(torch.equal(a, b) for a, b in zip(mine[name], other[name], strict=True))
    for name in ("hidden_states", "attentions"):
        for step, their_step in zip(mine[name], other[name], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(step, their_step, strict=True))
    assert len(mine.hidden_states[0]) == 3
    assert mine.attentions[3][0].shape == (3, 4, 1, 13)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_generation_from_embeddings_and_from_a_filled_cache():
    ours, theirs = pair()
    inputs = batch(padding=None)
    embeds = ours.get_input_embeddings()(inputs["input_ids"])
    by_embeds = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    expected = generate(ours, inputs)[:, 10:]
    assert torch.equal(generate(ours, by_embeds), expected)
    assert torch.equal(generate(theirs, by_embeds), expected)
    static = {"cache_implementation": "static"}
    assert torch.equal(generate(ours, by_embeds, **static), expected)
    for name in ("cache", "past_key_values"):
        prefix = ours(input_ids=inputs["input_ids"][:, :6], use_cache=True)
        continued = generate(ours, inputs, **{name: prefix.cache})
        assert torch.equal(continued[:, 10:], expected)
