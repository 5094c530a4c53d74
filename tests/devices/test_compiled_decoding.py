"""Recording inside a compiled decoding loop: one graph for the prompt and one for every step.

Compiled code runs in processes without the shape checks of conftest.py, which break a full graph.
"""

import re
import shutil
from pathlib import Path

import pytest
from tiny_calls import EVERYTHING, batch_of
from transformers import DynamicCache, StaticCache

import arcee_lab as al
from arcee_lab.reducers import FiringRate, Grouped

TESTS = Path(__file__).parent.parent
SIZE = 16

LOOP = f"""
import sys
sys.path.append({str(TESTS)!r})
import torch
from tiny_calls import EVERYTHING, batch_of, hooks_of, modes_of
from transformers import StaticCache
import arcee_lab as al
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.reducers import CoActivation, FiringRate, Grouped, TopK

torch.set_num_threads(1)
torch.manual_seed(0)
SIZE, STEPS = {SIZE}, 5
graphs = []
def keep(graph, example):
    graphs.append(graph)
    return graph

def tiny(attn, kv_heads=2):
    return ArceeForCausalLM(ArceeConfig(
        vocab_size=50, hidden_size=32, intermediate_size=72, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=kv_heads, max_position_embeddings=64,
        initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        attn_implementation=attn)).eval()

def decode(prompt, step, batch, cache):
    '''The logits of each call of a greedy loop; `prompt` and `step` are called like the model.'''
    mask = batch["attention_mask"]
    whole = torch.ones(2, SIZE, dtype=torch.long)
    whole[:, : mask.shape[1]] = mask
    places = (mask.cumsum(1) - 1).clamp(min=0)
    output = prompt(batch["input_ids"], attention_mask=whole, position_ids=places, cache=cache)
    yield output.logits
    for i in range(STEPS):
        ids, place = output.logits[:, -1:].argmax(-1), places[:, -1:] + 1 + i
        output = step(ids, attention_mask=whole, position_ids=place, cache=cache)
        yield output.logits
"""


# Uncompiled, transformers folds the grouped queries of a single token under SDPA; compiled it does
# not, and its sums round otherwise: without groups the two are the same.
def test_every_step_records_what_an_eager_capture_does(run_forked):
    """All sites, whole and cut; the loop begins anew with the same cache and with another."""
    run_forked(
        LOOP
        + """
cuts = [(EVERYTHING, {}), (["*hook_post", "*pattern"], dict(positions=[-1], dtype=torch.float64)),
        ("*hook_z", dict(heads=[1], units=[2, 0]))]
cases = [(tiny("eager"), *cut) for cut in cuts] + [(tiny("sdpa", kv_heads=4), *cuts[0])]
for model, sites, cut in cases:
    before = hooks_of(model)
    make = dict(batch=2, cache_length=SIZE, backend=keep, **cut)
    prompt = al.capture_compiled(model, sites, length=9, **make)
    step = al.capture_compiled(model, sites, length=1, **make)
    cache = StaticCache(model.config, max_cache_len=SIZE)
    graphs.clear()
    for seed, padding in ((0, "left"), (1, None), (2, "left")):
        if seed == 1:
            cache.reset()
        if seed == 2:
            cache = StaticCache(model.config, max_cache_len=SIZE)
        batch = batch_of(seed=seed, padding=padding)
        got, found = [], []
        with torch.no_grad():
            for logits in decode(prompt, step, batch, cache):
                got.append(logits.clone())
                called = step if found else prompt
                found.append({site: x.clone() for site, x in called.items()})
            with al.capture(model, sites, **cut) as acts:
                other = StaticCache(model.config, max_cache_len=SIZE)
                wanted = list(decode(model, model, batch, other))
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
        for site, calls in acts.items():
            assert step.plan.sites[list(step).index(site)].shape == calls[1].shape
            for mine, theirs in zip(found, calls, strict=True):
                assert mine[site].dtype == theirs.dtype
                assert torch.equal(mine[site].nan_to_num(9), theirs.nan_to_num(9)), site
    assert len(graphs) == 2, len(graphs)  # the prompt's and the step's
    assert hooks_of(model) == before and set(modes_of(model)) == {"off"}
assert not torch._dynamo.utils.counters["graph_break"]
"""
    )


@pytest.mark.slow
def test_the_blocks_of_the_page_run(run_forked):
    page = (TESTS.parent / "docs" / "reference" / "sites.md").read_text(encoding="utf-8")
    section = page.split("## Captures inside compiled graphs")[1].split("## The attention")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) == 2
    loads = "import torch\nimport arcee_lab as al\nmodel, tokenizer = al.load('demo')\n"
    assert run_forked(loads + "\n".join(blocks)) == "torch.Size([1, 1, 896])\n"


def test_steps_add_up_as_in_an_eager_loop(run_forked):
    """First tokens and groups are found by what the cache held before the call."""
    run_forked(
        LOOP
        + """
model = tiny("eager")
post = "layers.*.mlp.hook_post"
asked = {post: [FiringRate(first="only"), FiringRate(first="exclude"), TopK(3),
                CoActivation([3, 17, 4]), Grouped(FiringRate(), 2)]}
labels = torch.arange(SIZE)[None].expand(2, -1) % 3  # 2 is no group
make = dict(batch=2, cache_length=SIZE, backend=keep)
prompt, step = (al.capture_compiled(model, asked, length=n, **make) for n in (9, 1))
prompt.set_labels(labels), step.set_labels(labels)
site = "layers.0.mlp.hook_post"
with torch.no_grad():
    list(decode(prompt, step, batch_of(padding="left"), StaticCache(model.config, SIZE)))
    assert len(graphs) == 2
    loop = decode(model, model, batch_of(padding="left"), StaticCache(model.config, SIZE))
    for record, calls in ((prompt, 1), (step, STEPS)):
        with al.capture(model, asked) as stats:
            stats.set_labels(labels)
            for _ in range(calls):
                next(loop)
        for mine, theirs in zip(record.states[site], stats.states[site], strict=True):
            for name in theirs:
                torch.testing.assert_close(mine[name], theirs[name], rtol=1e-12, atol=1e-14)
first, rest, *_ = prompt.merge(step)[site]
assert first.tokens == 2 and rest.tokens == 2 * (9 + STEPS) - 3 - 2
"""
    )


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not shutil.which("g++"), reason="inductor compiles with g++"),
            ],
        ),
    ],
)
def test_compilers_agree_within_rounding(run_forked, backend):
    """6 sums of up to 72 products in a row, in another order: 6 * 72 * 2^-24 of the norm."""
    run_forked(
        LOOP
        + f"""
model = tiny("sdpa")
make = dict(batch=2, cache_length=SIZE, backend={backend!r})
prompt = al.capture_compiled(model, EVERYTHING, length=9, **make)
step = al.capture_compiled(model, EVERYTHING, length=1, **make)
batch = batch_of(padding="left")
with torch.no_grad(), al.capture(model, EVERYTHING) as acts:
    list(decode(model, model, batch, StaticCache(model.config, max_cache_len=SIZE)))
with torch.no_grad():
    for _ in decode(prompt, step, batch, StaticCache(model.config, max_cache_len=SIZE)):
        pass
for site, calls in acts.items():
    for got, want in ((prompt[site], calls[0]), (step[site], calls[-1])):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert (got - want).norm() <= 6 * 72 * 2**-24 * want.norm(), site
"""
    )


def test_what_does_not_fit_the_cache_is_an_error(tiny):
    """Inside a capture the recorder runs eagerly; no compiler is needed for that."""
    import torch._dynamo

    model = tiny()
    ids = batch_of(length=1)["input_ids"]
    plain = al.capture_compiled(model, "*hook_post", batch=2, length=1)
    with pytest.raises(ValueError, match=r"without a cache; got one\. Give capture_compiled"):
        plain(ids, cache=StaticCache(model.config, max_cache_len=SIZE))
    step = al.capture_compiled(model, EVERYTHING, batch=2, length=1, cache_length=SIZE)
    for cache, got in (
        (None, "none"),
        (DynamicCache(config=model.config), "DynamicCache"),
        (StaticCache(model.config, max_cache_len=8), "StaticCache of 8 tokens"),
    ):
        with pytest.raises(ValueError, match=f"StaticCache of 16 tokens; got {got}"):
            step(ids, cache=cache)
    cache = StaticCache(model.config, max_cache_len=SIZE)
    with pytest.raises(ValueError, match="attention_mask has 2 columns; expected 16"):
        step(ids, torch.ones(2, 2), cache=cache)
    small = StaticCache(model.config, max_cache_len=SIZE)
    model(ids[:1], cache=small)
    with pytest.raises(ValueError, match="cache holds 1 sequences; expected 2"):
        step(ids, cache=small)
    with pytest.raises(ValueError, match="cache_length=4 holds fewer than the 5 tokens"):
        al.capture_compiled(model, "*hook_post", batch=2, length=5, cache_length=4)
    groups = al.capture_compiled(
        model, {"*hook_post": Grouped(FiringRate(), 2)}, batch=2, length=1, cache_length=SIZE
    )
    with pytest.raises(ValueError, match=r"labels are \[2, 1\]; expected \[2, 16\]"):
        groups.set_labels(torch.zeros(2, 1, dtype=torch.long))
    with al.capture(model, EVERYTHING) as acts, torch.no_grad():
        step(ids, cache=cache)
    assert all(torch.equal(step[site], acts[site]) for site in acts)
    assert step["layers.0.self_attn.hook_pattern"].shape == (2, 4, 1, SIZE)
