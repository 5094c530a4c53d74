"""A restricted pattern is the cut of the whole, and nothing else is multiplied."""

import pytest
import torch
from largest import Largest
from tiny_calls import CASES, EVERYTHING, batch_of, call_of, reference_patterns

import arcee_lab as al

PAIRS = ["*scores", "*pattern"]
CUTS = [{"heads": [3, 0]}, {"positions": [0, -1, 7]}, {"heads": 2, "positions": -2}]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_parts_are_cuts_of_the_whole(tiny, attn, case):
    model = tiny(attn=attn)
    expected = reference_patterns(model, case)
    for cut in CUTS:
        # With gradients kept a capture records the whole and cuts it when it is read.
        with al.capture(model, PAIRS, grad=True, **cut) as whole:
            model(**call_of(model, case))
        with al.capture(model, PAIRS, **cut) as part:
            model(**call_of(model, case))
        for site in part:
            got, want = (
                x[site][-1] if isinstance(x[site], list) else x[site] for x in (part, whole)
            )
            torch.testing.assert_close(
                got,
                want.detach(),
                atol=2e-6,
                rtol=0,
                equal_nan=True,
                msg=lambda m, at=site: f"{at}: {m}",
            )
        if "positions" not in cut:
            # Rows that are -inf throughout make the reference's later layers NaN.
            for layer, pattern in enumerate(expected[: 1 if case == "-inf" else 3]):
                got = part[f"layers.{layer}.self_attn.hook_pattern"]
                got = got[-1] if isinstance(got, list) else got
                read = got.sum(-1) != 0  # the eager kernel is uniform where no key may be read
                torch.testing.assert_close(
                    got[read], pattern[:, cut["heads"]][read], atol=2e-6, rtol=0
                )


def test_a_part_has_the_plans_bytes_and_logits_do_not_change(tiny):
    model, batch = tiny(), batch_of(padding="left")
    before = model(**batch).logits
    cut = {"heads": [1, 3], "positions": [0, -1, 8], "dtype": torch.bfloat16}
    with al.capture(model, PAIRS, **cut) as acts:
        assert torch.equal(model(**batch).logits, before)
    size = sum(x.untyped_storage().nbytes() for x in acts.values())
    assert size == al.plan(model, PAIRS, batch=2, length=9, **cut).bytes
    short = acts["layers.1.self_attn.hook_pattern"][1]  # six tokens: the ninth is not there
    assert short[:, 2].isnan().all()
    assert not short[:, :2].isnan().any()
    assert all(not module.readers for module in attentions(model))


def attentions(model):
    return [layer.self_attn for layer in model.model.layers]


def test_nothing_else_is_multiplied(tiny):
    model = tiny(max_position_embeddings=256)
    ids = torch.randint(3, 50, (1, 256), generator=torch.Generator().manual_seed(0))
    largest = {}
    for name, cut in {"all": {}, "head": {"heads": 1}, "query": {"positions": [-1, 3]}}.items():
        with al.capture(model, "*pattern", **cut) as acts, Largest() as made:
            model(ids, use_cache=False)
        assert acts["layers.0.self_attn.hook_pattern"].shape[-1] == 256
        largest[name] = made.numel
    pairs = 256 * 256
    assert largest["all"] == 4 * pairs
    assert largest["head"] == pairs
    assert largest["query"] < pairs / 2


def test_a_part_sees_what_flows_on(tiny):
    """An edit puts the layer in write mode; the part is cut out of the edited pattern."""
    model, batch = tiny(), batch_of()

    def upside_down(module, args, pattern):
        return pattern.flip(1)

    with al.capture(model, "layers.1.*pattern") as plain:
        model(**batch)
    handle = model.model.layers[1].self_attn.hook_pattern.register_forward_hook(upside_down)
    with al.capture(model, "layers.1.*pattern", heads=[0, 3], positions=-1) as edited:
        model(**batch)
    handle.remove()
    site = "layers.1.self_attn.hook_pattern"
    expected = plain[site][:, [3, 0], -1:]
    torch.testing.assert_close(edited[site], expected, atol=2e-6, rtol=0)


def test_parts_under_checkpointing_and_stops_and_errors(tiny):
    model, batch = tiny(), batch_of()
    site = "layers.1.self_attn.hook_pattern"
    with al.capture(model, site, heads=0) as expected:
        model(**batch)
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    with al.capture(model, site, heads=0) as acts:
        model(**batch, labels=batch["input_ids"]).loss.backward()
    assert torch.equal(acts[site], expected[site])  # recomputed, and not recorded twice
    model.eval().gradient_checkpointing_disable()
    with al.capture(model, site, heads=0, stop_at=True) as acts:
        assert model(**batch) is None
    assert torch.equal(acts[site], expected[site])
    with pytest.raises(ZeroDivisionError), al.capture(model, site, heads=0):
        raise ZeroDivisionError
    assert all(not module.readers for module in attentions(model))
    assert {module.current_mode() for module in attentions(model)} == {"off"}


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", [None, "left"])
def test_cached_decode_equals_full_forward_equals_generate_at_every_site(tiny, attn, padding):
    """Scores and pattern too, row by row: what a step reads is what the whole reads."""
    model, batch = tiny(attn=attn), batch_of(padding=padding)
    with al.capture(model, EVERYTHING) as generated:
        ids = model.generate(
            **batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0
        )
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 4, dtype=torch.long)], dim=1)
    where = (mask.cumsum(-1) - 1).clamp_min(0)
    with al.capture(model, EVERYTHING) as full:
        model(input_ids=ids, attention_mask=mask, position_ids=where)
    with al.capture(model, EVERYTHING) as decoded:
        cache = None
        for start, stop in ((0, 9), (9, 10), (10, 11), (11, 12)):
            cache = model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=where[:, start:stop],
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
            ).cache
    real = mask[:, :-1].bool()
    for steps in (generated, decoded):
        for site in steps:
            whole = full[site]
            if site == "hook_logits":  # the last position of each step
                joined, expected = torch.cat(steps[site], dim=1), whole[:, 8:12]
            elif site.endswith(("scores", "pattern")):
                rows = [
                    torch.nn.functional.pad(step, (0, 12 - step.shape[-1])) for step in steps[site]
                ]
                joined, whole = torch.cat(rows, dim=2)[..., :12], whole[:, :, :12, :12]
                both = torch.ones(12, 12, dtype=torch.bool).tril() & real[:, None, :]
                both = (both & real[:, :, None])[:, None].expand_as(joined)
                joined, expected = joined[both], whole[both]
            else:
                joined, expected = torch.cat(steps[site], dim=1)[real], whole[:, :-1][real]
            torch.testing.assert_close(
                joined, expected, atol=2e-5, rtol=2e-5, msg=lambda m, at=site: f"{at}: {m}"
            )
