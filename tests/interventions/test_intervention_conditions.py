"""Conditions on tokens: against Python loops over the tokens, in caches and in generate."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import changed, meant
from tiny_calls import batch_of, reference_of

import arcee_lab as al

SITE = "layers.1.hook_resid_post"
WIDTH = 32


def some(numbers):
    return st.none() | st.lists(numbers, min_size=1, unique=True)


def step(seed=1):
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def moved(model, batch, edit, *, tags=None, **call):
    """Where the site differs from the clean run, `[batch, pos]`."""
    with torch.no_grad(), al.capture(model, SITE) as acts:
        model(**batch, **call)
        with al.intervene(model, edit) as block:
            if tags is not None:
                block.set_tags(tags)
            model(**batch, **call)
    before, after = acts[SITE]
    return (before != after).any(-1)


@given(
    padding=st.sampled_from([None, "left", "right"]),
    positions=some(st.integers(-7, 8)),
    tokens=some(st.integers(3, 12)),
    tags=some(st.integers(0, 2)),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_conditions_equal_loops(tiny, padding, positions, tokens, tags, masked, seed):
    model, batch = tiny(), batch_of(batch=3, padding=padding, seed=seed)
    batch["input_ids"] = batch["input_ids"] % 10 + 3
    batch["input_ids"][batch["attention_mask"] == 0] = 0
    source = torch.Generator().manual_seed(seed)
    table = torch.randint(-1, 3, (3, 9), generator=source)
    mask = torch.rand(3, 9, generator=source) < 0.5 if masked else None
    edit = al.Add(SITE, step(), positions=positions, tokens=tokens, tags=tags, mask=mask)
    hit = meant(batch, positions=positions, tokens=tokens, tags=tags, table=table, mask=mask)
    if edit.where.everywhere:
        hit[:] = True
    if hit.any():
        assert torch.equal(moved(model, batch, edit, tags=table), hit)
    else:
        with pytest.raises(ValueError, match="No token met the conditions of Add"):
            moved(model, batch, edit, tags=table)


def test_a_four_dimensional_mask_says_what_padding_is(tiny):
    model, batch = tiny(), batch_of(padding="left")
    triangle = torch.ones(9, 9, dtype=torch.bool).tril()
    real = batch["attention_mask"].bool()
    whole = (triangle & real[:, None, :])[:, None]
    edit = al.Add(SITE, step(), positions=[0, -2])
    hit = meant(batch, positions=[0, -2])
    ids = {"input_ids": batch["input_ids"]}
    assert torch.equal(moved(model, ids, edit, attention_mask=whole), hit)
    additive = torch.where(whole, 0.0, torch.finfo(torch.float32).min)
    assert torch.equal(moved(model, ids, edit, attention_mask=additive), hit)


@pytest.mark.parametrize(
    ("kind", "padding"),
    [(kind, padding) for kind in ("2-D", "4-D", "static") for padding in (None, "left")]
    + [("none", None)],
)
def test_positions_count_the_cache_and_steps(tiny, padding, kind):
    """A sequence given in pieces through a cache: each position is met once, in its piece."""
    from transformers import DynamicCache, StaticCache

    model, batch = tiny(), batch_of(padding=padding)
    ids, real = batch["input_ids"], batch["attention_mask"]
    table = torch.arange(9).expand(2, 9).clone()
    edits = {
        (2, 5): al.Add(SITE, step(), positions=[2, 5]),
        (4, 6): al.Add(SITE, step(), tags=[4, 6]),
        (3, 8): al.Add(SITE, step(), mask=(table == 3) | (table == 8)),
    }
    for wanted, edit in edits.items():
        static = kind == "static"
        cache = StaticCache(model.config, 12) if static else DynamicCache(config=model.config)
        with torch.no_grad(), al.capture(model, SITE) as acts, al.intervene(model, edit) as block:
            block.set_tags(table)
            for start, stop in ((0, 4), (4, 5), (5, 9)):
                mask = real[:, :stop]
                if kind == "4-D":
                    rows = torch.arange(start, stop)[:, None] >= torch.arange(stop)
                    mask = (rows & mask[:, None, :].bool())[:, None]
                given = {} if kind == "none" else {"attention_mask": mask}
                model(input_ids=ids[:, start:stop], cache=cache, use_cache=True, **given)
            seen = torch.cat(acts.take()[SITE], dim=1)
        with torch.no_grad(), al.capture(model, SITE) as whole:
            if edit.positions is None:
                hit = torch.zeros(2, 9, dtype=torch.bool)
                hit[:, list(wanted)] = True
                hit &= real.bool()
            else:
                hit = meant(batch, positions=wanted)
            model(**batch)
        delta = seen - whole[SITE]
        rows = real.bool()
        expected = hit[..., None] * step()
        torch.testing.assert_close(delta[rows], expected[rows], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("padding", [None, "left"])
@pytest.mark.parametrize(
    ("kind", "use_cache"),
    [(kind, c) for kind in ("positions", "tokens", "patch", "scale", "mask") for c in (True, False)]
    + [("last", True)],  # without a cache every call ends with another last token
)
def test_generate_equals_steps_of_the_reference(tiny, kind, use_cache, padding):
    """Greedy ids of generate, and of whole forwards of the reference with plain hooks."""
    model, batch = tiny(), batch_of(padding=padding, length=7)
    reference = reference_of(model, model.config._attn_implementation)
    with al.capture(model, SITE) as acts:
        model(**batch_of(padding=padding, length=7, seed=5))
    source, big = 5 * acts[SITE], 3 * step()
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[0, 4] = mask[1, 5] = True
    ids = batch["input_ids"]
    edit = {
        "positions": al.Add(SITE, big, positions=[3, 8]),
        "last": al.Add(SITE, big, positions=-1),
        "tokens": al.Add(SITE, big, tokens=list(range(3, 30))),
        "patch": al.Patch(SITE, source, positions=[3]),
        "scale": al.Scale(SITE, 0.25),
        "mask": al.Add(SITE, big, mask=mask),
    }[kind]
    grown, real = ids, batch["attention_mask"]
    steps = 5
    sites = []
    for index in range(steps):
        here = {"input_ids": grown, "attention_mask": real}
        if kind == "last":  # the last token of each call so far: the prompt's, then every new one
            hit = torch.zeros(grown.shape, dtype=torch.bool)
            hit[:, 6:] = True
        elif kind == "positions":
            hit = meant(here, positions=[3, 8])
        elif kind == "tokens":
            hit = meant(here, tokens=range(3, 30))
        elif kind == "patch":
            hit = meant(here, positions=[3])
        elif kind == "mask":
            wide = torch.nn.functional.pad(mask, (0, index))
            hit = meant(here, mask=wide)
        else:
            hit = real.bool()
        other = torch.nn.functional.pad(source, (0, 0, 0, index))

        def change(x, hit=hit, other=other):
            new = {"patch": other, "scale": x * 0.25}.get(kind, x + big)
            return torch.where(hit[..., None], new, x)

        with torch.no_grad(), changed(reference, SITE, change):
            logits = reference(**here).logits[:, -1]
        sites.append(logits)
        grown = torch.cat([grown, logits.argmax(-1, keepdim=True)], dim=1)
        real = torch.nn.functional.pad(real, (0, 1), value=1)
    settings = {"do_sample": False, "eos_token_id": None, "max_new_tokens": steps}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    with al.intervene(model, [edit]):
        got = model.generate(**batch, **settings, use_cache=use_cache)
    assert torch.equal(got.sequences, grown)
    logits = torch.stack(got.logits)
    torch.testing.assert_close(logits, torch.stack(sites), atol=1e-5, rtol=1e-4)
    plain = torch.stack(model.generate(**batch, **settings).logits)
    assert (plain - logits).abs().max() > 0.01, "the intervention changed nothing"


def test_generate_in_other_ways(tiny):
    """Beams, a static cache and resampling run; each beam is a sequence of its own."""
    model, batch = tiny(), batch_of(padding="left")
    edits = [
        al.Add(SITE, step(), positions=[3, -1]),
        al.Ablate("layers.0.mlp.hook_post", "resample"),
    ]
    for settings in ({"num_beams": 2}, {"cache_implementation": "static"}, {"do_sample": True}):
        with al.intervene(model, edits):
            ids = model.generate(**batch, max_new_tokens=3, **settings)
        assert ids.shape[1] <= 12
    assert "generate" not in model.__dict__


def test_what_a_call_lacks_is_said_before_it_runs(tiny):
    model, batch = tiny(), batch_of()
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with (
        pytest.raises(ValueError, match="tokens= needs token ids"),
        al.intervene(model, al.Add(SITE, 1.0, tokens=5)),
    ):
        model(inputs_embeds=embeds)
    with (
        pytest.raises(ValueError, match="tags= needs tags"),
        al.intervene(model, al.Add(SITE, 1.0, tags=5)),
    ):
        model(**batch)
    mask = torch.ones(3, 9, dtype=torch.bool)
    with (
        pytest.raises(ValueError, match="mask has 3 rows and the call 2 sequences"),
        al.intervene(model, al.Add(SITE, 1.0, mask=mask)),
    ):
        model(**batch)
    with (
        pytest.raises(ValueError, match="tags must be whole numbers"),
        al.intervene(model, al.Add(SITE, 1.0, tags=5)) as block,
    ):
        block.set_tags(torch.ones(2, 9))
    with (
        pytest.raises(ValueError, match="hook_logits holds 1 of the 9 tokens"),
        al.intervene(model, al.Add("hook_logits", 1.0, positions=3)),
    ):
        model(**batch, logits_to_keep=1)


def test_positions_follow_a_call_with_embeddings(tiny):
    model, batch = tiny(), batch_of(padding="right")
    embeds = model.get_input_embeddings()(batch["input_ids"]).detach()
    edit = al.Add(SITE, step(), positions=[1, -1])
    call = {"inputs_embeds": embeds, "attention_mask": batch["attention_mask"]}
    assert torch.equal(moved(model, call, edit), meant(batch, positions=[1, -1]))
