"""Which tokens count, in every kind of call: masks, packing, caches, generate, training."""

import pytest
import torch
from transformers import DynamicCache, QuantoConfig, StaticCache

import arcee_lab as al
from arcee_lab.reducers import FiringRate, Grouped, Moments, TopK

POST = "layers.*.mlp.hook_post"
SITE = "layers.1.mlp.hook_post"


def ids_of(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(3, 50, (rows, length), generator=torch.Generator().manual_seed(0))


def run(model, calls, reducer=None, site=SITE):
    """The statistics of some calls, and the dense activations of each."""
    with al.capture(model, {site: reducer or FiringRate()}) as stats, al.capture(model, site) as x:
        for call in calls:
            model(**call)
    return stats[site], x[site] if isinstance(x[site], list) else [x[site]]


def counted(result, values, masks) -> None:
    """Exactly the tokens under the masks were counted."""
    kept = torch.cat([x[mask] for x, mask in zip(values, masks, strict=True)])
    assert result.tokens == len(kept)
    assert torch.equal(result.fired, (kept > 0).sum(0))


def four_d(allowed: torch.Tensor, kind: str) -> torch.Tensor:
    """`[batch, q, k]` as a mask that transformers takes."""
    allowed = allowed[:, None]
    if kind == "bool":
        return allowed
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("kind", ["bool", "additive"])
@pytest.mark.parametrize("first", ["include", "exclude", "only"])
def test_four_dimensional_masks(tiny, kind, first):
    """Left padding and two packed documents, each as a matrix of who may read whom."""
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    allowed = torch.stack([causal, causal])
    allowed[0, :, :3] = False  # three pads on the left
    allowed[0, :3] = False
    allowed[1, 4:, :4] = False  # a document of four tokens, and one of five
    real = torch.ones(2, 9, dtype=torch.bool)
    real[0, :3] = False
    starts = torch.zeros(2, 9, dtype=torch.bool)
    starts[0, 3] = starts[1, 0] = starts[1, 4] = True
    mask = {"include": real, "exclude": real & ~starts, "only": starts}[first]
    call = {"input_ids": ids_of(), "attention_mask": four_d(allowed, kind)}
    counted(*run(tiny(attn="eager"), [call], FiringRate(first=first)), [mask])


@pytest.mark.parametrize("first", ["include", "exclude", "only"])
def test_packed_documents_are_told_by_their_position_ids(tiny, first):
    places = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [5, 6, 7, 0, 0, 1, 2, 3, 4]])
    starts = torch.zeros(2, 9, dtype=torch.bool)
    # The second row goes on with a document, has one of a single token, and another.
    starts[0, [0, 4]] = starts[1, [0, 3, 4]] = True
    masks = {"include": torch.ones_like(starts), "exclude": ~starts, "only": starts}
    call = {"input_ids": ids_of(), "position_ids": places, "use_cache": False}
    counted(*run(tiny(), [call], FiringRate(first=first)), [masks[first]])


def test_no_mask_means_that_all_are_real(tiny):
    for first, mask in (("include", [1] * 9), ("only", [1] + [0] * 8)):
        expected = torch.tensor([mask, mask]).bool()
        counted(*run(tiny(), [{"input_ids": ids_of()}], FiringRate(first=first)), [expected])


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("padding", ["left", None])
@pytest.mark.parametrize("first", ["include", "exclude", "only"])
def test_a_cached_decode_counts_each_token_once(tiny, cache, padding, first):
    """Prompt, a chunk and single steps: only the prompt holds first tokens."""
    model, ids = tiny(attn="eager"), ids_of(3, 9)
    real = torch.ones(3, 9, dtype=torch.bool)
    if padding:
        real[1, :2] = real[2, :6] = False  # the third sequence begins within the chunk
    made = {"dynamic": DynamicCache, "static": StaticCache}[cache]
    more = {"max_cache_len": 12} if cache == "static" else {}
    kept = made(config=model.config, **more)
    calls, masks = [], []
    for start, stop in ((0, 4), (4, 7), (7, 8), (8, 9)):
        call = {"input_ids": ids[:, start:stop], "cache": kept}
        if padding:
            wide = torch.zeros(3, 12, dtype=torch.long)
            wide[:, :stop] = real[:, :stop]
            call["attention_mask"] = wide if cache == "static" else wide[:, :stop]
            call["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)[:, start:stop]
        calls.append(call)
        starts = real & (real.cumsum(1) == 1)
        masks.append(
            {"include": real, "exclude": real & ~starts, "only": starts}[first][:, start:stop]
        )
    with torch.no_grad():
        counted(*run(model, calls, FiringRate(first=first)), masks)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_cache_that_was_filled_before_holds_sequences_too(tiny, tmp_path, cache):
    """Largest values stand in the sequences of the cache, at their places in the whole text."""
    model, ids = tiny(attn="eager"), ids_of(3, 9)
    made = {"dynamic": DynamicCache, "static": StaticCache}[cache]
    kept = made(config=model.config, **({"max_cache_len": 12} if cache == "static" else {}))
    with torch.no_grad():
        model(ids[:, :5], cache=kept)
        with al.capture(model, {SITE: TopK(2)}) as stats, al.capture(model, SITE) as acts:
            model(ids[:, 5:8], cache=kept)
            model(ids[:, 8:], cache=kept)
            model(ids[:1])  # and another after them
    best = stats[SITE]
    assert best.rows_read == 4
    later = torch.cat(acts[SITE][:2], dim=1)  # [3, 4, units], of tokens 5 to 8
    for unit in range(later.shape[-1]):
        values = [(later[row, p, unit].item(), row, 5 + p) for row in range(3) for p in range(4)]
        values += [(acts[SITE][2][0, p, unit].item(), 3, p) for p in range(9)]
        expected = sorted(values, key=lambda found: -found[0])[:2]
        assert [value for value, _, _ in expected] == best.values[unit].tolist()
        if best.values[unit, 1] > 0:  # of zeros there are many
            assert [row for _, row, _ in expected] == best.rows[unit].tolist()
            assert [place for _, _, place in expected] == best.positions[unit].tolist()
    stats.save(tmp_path / "run")
    assert al.reducers.load(tmp_path / "run")[SITE].rows_read == 4


def test_generate_counts_prompt_and_new_tokens(tiny):
    """As one forward over all but the last token; rows and positions are those of that forward."""
    model, ids = tiny(attn="eager"), ids_of(2, 6)
    mask = torch.ones_like(ids)
    ids[1, :3], mask[1, :3] = 0, 0
    asked = {SITE: [FiringRate(), FiringRate(first="only"), TopK(3)]}
    with al.capture(model, asked) as stats, al.capture(model, SITE) as acts:
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4,
                             min_new_tokens=4, do_sample=False, pad_token_id=0)  # fmt: skip
    whole = torch.cat(acts[SITE], dim=1)
    assert whole.shape[:2] == (2, 9)
    assert out.shape == (2, 10)
    real = torch.cat([mask, torch.ones(2, 3)], dim=1).bool()
    rates, firsts, best = stats[SITE]
    counted(rates, [whole], [real])
    counted(firsts, [whole], [real & (real.cumsum(1) == 1)])
    values = torch.where(real[..., None], whole, -torch.inf).flatten(0, 1)
    assert torch.equal(best.values[:, 0], values.amax(0))
    assert best.rows_read == 2
    for unit in range(whole.shape[-1]):
        row, position = int(best.rows[unit, 0]), int(best.positions[unit, 0])
        column = int((real[row].cumsum(0) - 1 == position).nonzero()[0])
        assert whole[row, column, unit] == best.values[unit, 0]


def test_generate_with_a_static_cache_and_inference_mode(tiny):
    model, ids = tiny(), ids_of(2, 6)
    results = []
    for more in ({}, {"cache_implementation": "static"}):
        with torch.inference_mode(), al.capture(model, {SITE: FiringRate()}) as stats:
            model.generate(
                input_ids=ids, max_new_tokens=4, do_sample=False, eos_token_id=None, **more
            )
        with torch.no_grad():  # what was made in inference mode can be merged outside of it
            results.append(stats.merge(stats)[SITE])
    assert results[0].tokens == 2 * 2 * 9
    assert results[0].tokens == results[1].tokens
    assert torch.equal(results[0].fired, results[1].fired)


def test_labels_lie_over_the_whole_sequence(tiny):
    """In a cached decode each call takes its own columns; tokens past the end have no label."""
    model, ids = tiny(), ids_of(2, 5)
    labels = torch.tensor([[0, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0]])
    asked = {SITE: Grouped(FiringRate(), 2)}
    with al.capture(model, asked) as stats, al.capture(model, SITE) as acts:
        stats.set_labels(labels)
        model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    whole = torch.cat(acts[SITE], dim=1)[:, :6]
    for group, result in stats[SITE].items():
        counted(result, [whole], [labels == group])
    assert stats[SITE].counts == (6, 6, 2)


@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": False}, {"use_reentrant": True}])
def test_training_counts_a_recomputed_layer_once(tiny, checkpointing):
    model, ids = tiny().train(), ids_of()
    if checkpointing:
        model.activation_checkpointing_enable(checkpointing)
    with al.capture(model, {POST: [FiringRate(), Moments()]}) as stats:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    gradient = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert torch.equal(gradient, model.model.embed_tokens.weight.grad)
    for rates, moments in stats.values():
        assert rates.tokens == moments.tokens == 18
        assert not moments.mean.requires_grad


def test_autocast_leaves_counts_exact(tiny):
    """A product of masks in bf16 could not count beyond 256."""
    model, ids = tiny(), ids_of(8, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        counted(*run(model, [{"input_ids": ids}] * 2), [torch.ones(8, 40).bool()] * 2)
        covariance = al.reducers.MeanCovariance()
        with al.capture(model, {"layers.0.hook_resid_post": covariance}) as stats:
            model(ids)
    assert stats["layers.0.hook_resid_post"].covariance.dtype == torch.float64


def test_quantised_linears(tmp_path, tiny):
    from arcee_lab.model import ArceeForCausalLM

    tiny().save_pretrained(tmp_path)
    model = ArceeForCausalLM.from_pretrained(
        tmp_path, quantization_config=QuantoConfig(weights="int8")
    ).eval()
    with torch.no_grad():
        counted(*run(model, [{"input_ids": ids_of()}]), [torch.ones(2, 9).bool()])


def test_interventions_hooks_and_stops_compose(tiny):
    """A reducer sees the final value, and a forward may end after it."""
    model, ids = tiny(), ids_of()
    before = model(ids).logits
    with al.intervene(model, al.Ablate(SITE, units=[5])):  # noqa: SIM117
        with al.capture(model, {SITE: FiringRate()}, stop_at=True) as stats:
            assert model(ids) is None
            assert model(ids) is None
    assert stats[SITE].tokens == 36
    assert stats[SITE].fired[5] == 0
    assert stats[SITE].dead == 1
    with al.capture(model, {"*": Moments()}) as every:
        assert torch.equal(model(ids).logits, before)
    assert len(every) == len(al.plan(model, "*", batch=1, length=1).sites)
    assert all(result.tokens == 18 for result in every.values())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_user_code_may_put_a_new_tensor_into_the_state(tiny):
    """`state[name] = state[name] + ...`, as one writes it first."""
    from dataclasses import dataclass

    from arcee_lab.reducers import Reducer

    @dataclass(frozen=True)
    class Total(Reducer):
        def init(self, shape, device):
            return {"total": torch.zeros(shape, device=device)}

        def update(self, state, x, token_mask, **asked):
            state["total"] = state["total"] + (x * token_mask[..., None]).sum((0, 1))

    model, ids = tiny(), ids_of()
    with al.capture(model, {SITE: Total()}) as stats, al.capture(model, SITE) as acts:
        model(ids)
        model(ids)
    torch.testing.assert_close(stats[SITE]["total"], sum(x.sum((0, 1)) for x in acts[SITE]))
    with al.capture(model, {SITE: Grouped(Total(), 2)}) as grouped:
        grouped.set_labels(torch.tensor([[0], [1]]).expand(2, 9))
        model(ids)
    torch.testing.assert_close(grouped[SITE][1]["total"], acts[SITE][0][1].sum(0))


def test_mappings_of_several_filters_and_spellings(tiny):
    model, ids = tiny(), ids_of()
    asked = {"blocks.*.mlp.hook_post": FiringRate(), ("layers.0.*_post", SITE): [Moments()]}
    with al.capture(model, asked) as stats:
        assert "nothing yet" in repr(stats)
        with pytest.raises(ValueError, match="has not fired yet"):
            stats[SITE]
        model(ids)
    assert list(stats) == ["layers.0.mlp.hook_post", "layers.0.hook_resid_post", SITE,
                           "layers.2.mlp.hook_post"]  # fmt: skip
    both = stats["model.layers.1.mlp.hook_post"]
    assert [type(result).__name__ for result in both] == ["FiringRates", "MomentsOf"]
    assert isinstance(stats["blocks.2.mlp.hook_post"], al.reducers.FiringRates)
    assert "blocks.2.mlp.hook_post" in stats
    assert "layers.2.mlp.hook_pre" not in stats
    assert "nothing" not in stats
    with pytest.raises(KeyError, match="was not reduced"):
        stats["hook_embed"]
    assert "N = 18 tokens" in repr(stats)
    assert "<table " in stats._repr_html_()
    assert "<table" in both[0]._repr_html_()


def test_the_frame_of_all_sites(tiny):
    model, ids = tiny(), ids_of()
    with al.capture(model, {POST: [FiringRate(), TopK(2)]}) as stats:
        model(ids)
    frame = stats.frame()
    assert list(frame.columns) == ["site", "layer", "unit", "fired", "rate", "n_tokens"]
    assert len(frame) == 3 * 72
    assert list(frame[frame["layer"] == 1]["fired"]) == stats[SITE][0].fired.tolist()
    assert list(stats.frame(1).columns[:3]) == ["site", "layer", "unit"]
    with al.capture(model, {POST: FiringRate(), "hook_embed": Moments()}) as mixed:
        model(ids)
    with pytest.raises(ValueError, match=r"of different kinds.*stats\[site\]\.frame\(\)"):
        mixed.frame()
    with pytest.raises(ValueError, match=r"which=2: expected 0 to 1, a reducer of every site\."):
        stats.frame(2)


def test_a_plain_value_makes_no_frame(tiny):
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Tokens(al.reducers.Reducer):
        def init(self, shape, device):
            return {"tokens": torch.zeros((), dtype=torch.int64, device=device)}

        def update(self, state, x, token_mask, **asked):
            state["tokens"] += token_mask.sum()

        def finalize(self, state):
            return int(state["tokens"])

    model, ids = tiny(), ids_of()
    with al.capture(model, {POST: Tokens(), "hook_embed": Grouped(Tokens(), 2)}) as stats:
        stats.set_labels(torch.tensor([[0] * 9, [1] * 9]))
        model(ids)
    assert dict(stats["hook_embed"]) == {0: 9, 1: 9}
    assert stats[SITE] == 18
    said = r"The result is of the type int and has no frame\(\)"
    with pytest.raises(ValueError, match=said):
        stats["hook_embed"].frame()
    with al.capture(model, {POST: Tokens()}) as plain:
        model(ids)
    with pytest.raises(ValueError, match=said):
        plain.frame()
