"""nnsight traces of our models; test_trace.py runs it in a process of its own."""

import copy
import os
import re
import runpy
import sys

import nnsight
import pytest
import torch
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import ArceeConfig as ReferenceConfig
from transformers import PreTrainedTokenizerFast
from transformers.models.arcee import modeling_arcee as reference

import arcee_lab as al
from arcee_lab.model import ArceeConfig
from arcee_lab.model.anatomy import HEADS, anatomy_of

WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 50)}
core = Tokenizer(models.WordLevel(WORDS, unk_token="w3"))
core.pre_tokenizer = WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=core, pad_token="<pad>", eos_token="</s>", padding_side="right"
)
LONG, SHORT = "w5 w9 w14 w6 w21 w8", "w7 w30 w4"


def build(head="causal", **overrides):
    config = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.1,
        "num_labels": 3,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    return HEADS[head](ArceeConfig(**(config | overrides))).eval()


def raises(text, run):
    with pytest.raises(ValueError, match=text):
        run()


def clean(model):
    """Nothing of a trace stays on the model."""
    points = [m for name, m in model.named_modules() if "hook_" in name]
    attentions = [layer.self_attn for layer in anatomy_of(model).backbone.layers]
    return not any(p._forward_hooks for p in points) and not any(
        a.capture_hooks or a.current_mode() != "off" for a in attentions
    )


def captured(model, sites, **inputs):
    with torch.no_grad(), al.capture(model, sites) as acts:
        model(**inputs)
    return acts


# ---------------------------------------------------------------------- every head, every site


def every_site():
    for head in HEADS:
        model = build(head)
        lm = al.to_nnsight(model, tokenizer)
        assert lm._module is model
        batch = tokenizer([LONG, SHORT], return_tensors="pt", padding=True)
        batch = {k: batch[k] for k in ("input_ids", "attention_mask")}
        sites = ["*", "*hook_scores", "*hook_pattern"]
        expected = captured(model, sites, **batch)
        with torch.no_grad(), lm.trace(**batch):
            acts = al.trace.read(lm, sites[::-1])  # whatever the order
        assert list(acts) == list(expected)
        for name in expected:
            assert torch.equal(acts[name], expected[name]), (head, name)
        assert clean(model)
    assert torch.equal(acts["blocks.1.attn.hook_q"], expected["layers.1.self_attn.hook_q"])
    with torch.no_grad(), lm.trace(**batch):
        acts = al.trace.read(lm, "hook_embed")
    with pytest.raises(KeyError, match="was not read"):
        acts["layers.0.mlp.hook_post"]


def heads():
    """Texts go into every head, and what it gives is what the model gives."""
    outputs = {
        "base": ["last_hidden_state"],
        "causal": ["logits"],
        "sequence": ["logits"],
        "token": ["logits"],
        "qa": ["start_logits", "end_logits"],
    }
    for head, names in outputs.items():
        model = build(head)
        lm = al.to_nnsight(model, tokenizer)
        batch = tokenizer(LONG, return_tensors="pt")
        with torch.no_grad():
            expected = model(input_ids=batch.input_ids)
            # Two forms of a trace: the whole output, and a site that is edited on the way.
            with lm.trace(LONG):
                output = lm.output.save()
            with al.intervene(model, al.Scale("layers.2.mlp.hook_post", 2.0)):
                doubled = model(input_ids=batch.input_ids)
            with lm.trace(LONG):
                lm.layers[2].mlp.hook_post.output *= 2
                edited = lm.output.save()
        for name in names:
            assert torch.equal(output[name], expected[name]), (head, name)
            assert torch.equal(edited[name], doubled[name]), (head, name)
            assert not torch.equal(edited[name], expected[name]), (head, name)


def texts_and_padding():
    model = build()
    lm = al.to_nnsight(model, tokenizer)
    assert tokenizer.padding_side == "right"
    assert lm.tokenizer.padding_side == "left"
    plain = al.to_nnsight(model, None)
    sites = ["layers.*.mlp.hook_post", "layers.1.self_attn.hook_pattern", "hook_logits"]
    alone = [captured(model, sites, **tokenizer(t, return_tensors="pt")) for t in (LONG, SHORT)]
    with torch.no_grad(), lm.trace() as tracer:
        with tracer.invoke(LONG):
            first = al.trace.read(lm, sites)
        with tracer.invoke(SHORT):
            second = al.trace.read(lm, sites[::-1])
    for name in first:
        assert torch.allclose(first[name], alone[0][name], atol=1e-5), name
        pad = 3  # on the left
        real = second[name][..., pad:, pad:] if "pattern" in name else second[name][:, pad:]
        assert torch.allclose(real, alone[1][name], atol=1e-5), name
    ids = tokenizer(LONG, return_tensors="pt").input_ids
    with torch.no_grad(), plain.trace(input_ids=ids):
        acts = al.trace.read(plain, sites)
    assert all(torch.equal(acts[name], alone[0][name]) for name in acts)


# ---------------------------------------------------------------------- generation, edits, skips


def generation():
    model = build()
    lm = al.to_nnsight(model, tokenizer)
    ids = tokenizer(LONG, return_tensors="pt").input_ids
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    sites = ["layers.2.mlp.hook_post", "layers.0.self_attn.hook_pattern"]
    with al.capture(model, sites) as acts:
        model.generate(ids, max_new_tokens=4, do_sample=False)
    with lm.generate(LONG, max_new_tokens=4, do_sample=False) as tracer:
        steps = nnsight.save([])
        for _ in tracer.iter[:4]:
            steps.append(al.trace.read(lm, sites))
        result = tracer.result.save()
    assert torch.equal(result, expected)
    for name in sites:
        assert len(acts[name]) == len(steps) == 4
        assert all(torch.equal(a, s[name]) for a, s in zip(acts[name], steps, strict=True))
    assert steps[3][sites[1]].shape == (1, 4, 1, 9)
    # A loop without an end ends with the model, whatever was asked last; that is no error.
    with lm.generate(LONG, max_new_tokens=3, do_sample=False) as tracer:
        steps = nnsight.save([])
        for _ in tracer.iter[:]:
            steps.append(lm.layers[1].self_attn.hook_pattern.output)
    assert [s.shape[-1] for s in steps] == [6, 7, 8]
    # Steps need not be all.
    with lm.generate(LONG, max_new_tokens=4, do_sample=False) as tracer:
        steps = nnsight.save([])
        for _ in tracer.iter[[1, 3]]:
            steps.append(lm.layers[1].self_attn.hook_pattern.output)
    assert [s.shape[-1] for s in steps] == [7, 9]
    assert clean(model)


def edits():
    model = build()
    lm = al.to_nnsight(model, tokenizer)
    ids = tokenizer(LONG, return_tensors="pt").input_ids
    site = "layers.1.mlp.hook_post"
    plain = model(ids).logits
    with torch.no_grad(), al.intervene(model, al.Ablate(site, units=[3, 5])):
        expected = model(ids).logits
    assert not torch.equal(plain, expected)
    with torch.no_grad(), lm.trace(LONG):
        lm.layers[1].mlp.hook_post.output[..., [3, 5]] = 0
        logits = lm.output.logits.save()
    assert torch.equal(logits, expected)
    with lm.edit() as (_, edited):
        edited.layers[1].mlp.hook_post.output[..., [3, 5]] = 0
    with torch.no_grad(), edited.trace(LONG):
        acts = al.trace.read(edited, [site, "hook_logits"])
    assert torch.equal(acts["hook_logits"], expected)
    assert acts[site][..., [3, 5]].abs().sum() == 0
    with torch.no_grad(), lm.trace(LONG):
        logits = lm.hook_logits.output.save()
    assert torch.equal(logits, plain)
    # Skip a layer: the residual stream goes past it.
    with torch.no_grad(), lm.trace(LONG):
        before = lm.layers[0].hook_resid_post.output.save()
        lm.layers[1].skip(lm.layers[1].input)
        after = al.trace.read(lm, "layers.2.hook_resid_pre")
    assert torch.equal(before, after["blocks.2.hook_resid_pre"])

    # A capture records what nnsight changed; nnsight sees what is there before a torch hook.
    capture = al.capture(model, [site, "hook_logits"])
    with torch.no_grad(), capture as seen, lm.trace(LONG):
        lm.layers[1].mlp.hook_post.output = torch.zeros(1, 6, 72)
        logits = lm.hook_logits.output.save()
    assert seen[site].abs().sum() == 0
    assert torch.equal(seen["hook_logits"], logits)
    with torch.no_grad(), al.intervene(model, al.Ablate(site)), lm.trace(LONG):
        before = al.trace.read(lm, site)
        after = lm.output.logits.save()
    assert before[site].abs().sum() > 0
    assert torch.equal(after, logits)
    assert clean(model)


def patterns():
    model = build()
    eager = copy.deepcopy(model)
    lm = al.to_nnsight(model, tokenizer)
    eager.set_attn_implementation("eager")
    ids = tokenizer(LONG, return_tensors="pt").input_ids
    name = "layers.1.self_attn.hook_pattern"
    flat = torch.full((1, 4, 6, 6), 1 / 6)
    plain = model(ids).logits
    with torch.no_grad(), lm.trace(LONG):
        pattern = lm.layers[1].self_attn.hook_pattern.output.save()
        logits = lm.output.logits.save()
    assert torch.equal(logits, plain)  # the data stayed on the fast kernel
    expected = eager(ids, output_attentions=True).attentions[1]
    assert torch.allclose(pattern, expected, atol=2e-6)
    with torch.no_grad(), al.intervene(model, al.Replace(name, lambda x: flat)):
        expected = model(ids).logits
    with torch.no_grad(), lm.trace(LONG):
        lm.layers[1].self_attn.hook_pattern.output = flat
        logits = lm.output.logits.save()
    assert torch.equal(logits, expected)
    assert not torch.allclose(logits, plain, atol=1e-4)

    # An edit in place cannot be told from a look, and is refused where it would be lost.
    def in_place():
        with torch.no_grad(), lm.trace(LONG):
            lm.layers[1].self_attn.hook_pattern.output[:] = flat

    raises("only read.*pattern_mode = 'write'", in_place)
    model.model.layers[1].self_attn.pattern_mode = "write"
    with torch.no_grad(), lm.trace(LONG):
        lm.layers[1].self_attn.hook_pattern.output[:] = flat
        logits = lm.output.logits.save()
    assert torch.equal(logits, expected)
    model.model.layers[1].self_attn.pattern_mode = "off"

    # With a capture on the same pattern; and an input is a look, too.
    capture = al.capture(model, name)
    with torch.no_grad(), capture as acts, lm.trace(LONG):
        seen = lm.layers[1].self_attn.hook_pattern.input.save()
    assert torch.equal(seen, acts[name])
    assert torch.equal(seen, pattern)
    assert clean(model)


def gradients():
    labels = {
        "causal": {"labels": tokenizer(LONG, return_tensors="pt").input_ids},
        "sequence": {"labels": torch.tensor([2])},
        "token": {"labels": torch.tensor([[0, 1, 2, 0, 1, 2]])},
        "qa": {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([3])},
    }
    for head in labels:
        model = build(head)
        lm = al.to_nnsight(model, tokenizer)
        batch = {"input_ids": tokenizer(LONG, return_tensors="pt").input_ids} | labels[head]
        sites = ["layers.0.mlp.hook_post", "layers.2.hook_resid_post"]
        with al.capture(model, sites, grad=True) as acts:
            model(**batch).loss.backward()
        with lm.trace(**batch):
            values = al.trace.read(lm, sites)
            with lm.output.loss.backward():
                last = values[sites[1]].grad.save()
                first = values[sites[0]].grad.save()
        assert torch.equal(last, acts.grad(sites[1]))
        assert torch.equal(first, acts.grad(sites[0]))
        assert clean(model)


# ---------------------------------------------------------------------- transformers' own Arcee


def stock(model, head):
    """The reference class on the same weights."""
    config = ReferenceConfig(**model.config.to_dict(), attn_implementation="eager")
    other = getattr(reference, type(model).__name__)(config).eval()
    weights = model.state_dict()
    if head == "qa":
        weights = {re.sub("^model", "transformer", k): v for k, v in weights.items()}
    other.load_state_dict(weights)
    return other


def same(x, y, name):
    # Ours is computed next to the data; see al.capture.
    return torch.allclose(x, y, atol=2e-6) if "pattern" in name else torch.equal(x, y)


def stock_paths():
    ids = torch.stack([torch.arange(3, 9), torch.arange(20, 26)])
    without = ("hook_relu", "hook_scale", "hook_rot_q", "hook_rot_k", "hook_scores")
    for head in HEADS:
        model = build(head, attn_implementation="eager")
        wrapper = nnsight.NNsight(stock(model, head))
        every = anatomy_of(model).legend.sites()
        sites = [name for name in every if not name.endswith(without)]
        for name in set(every) - set(sites):
            raises(
                "No module of transformers' own Arcee",
                lambda name=name, head=head: al.trace.stock_path(name, head=head),
            )
        expected = captured(model, sites, input_ids=ids)
        with torch.no_grad(), wrapper.trace(input_ids=ids):
            acts = al.trace.read(wrapper, sites[::-1])
        assert set(acts) == set(sites)
        for name in sites:
            assert same(acts[name], expected[name], name), (head, name)
        # One by one, by the plain path.
        for name in sites if head == "causal" else ():
            path = al.trace.stock_path(name, head=head)
            with torch.no_grad(), wrapper.trace(input_ids=ids):
                value = path.read(wrapper).save()
            assert same(value, expected[name], name), (head, name)
    assert (
        str(al.trace.stock_path("blocks.3.hook_attn_out")) == "model.layers.3.self_attn.output[0]"
    )
    raises("head='lm'; expected one of base", lambda: al.trace.stock_path("hook_embed", head="lm"))

    wrapper = nnsight.NNsight(stock(build(), "causal"))
    wrapper._module.set_attn_implementation("sdpa")

    def fast():
        with torch.no_grad(), wrapper.trace(input_ids=ids):
            al.trace.read(wrapper, "layers.0.self_attn.hook_pattern")

    raises(r"self_attn.output\[1\] is None: only eager attention", fast)


# ---------------------------------------------------------------------- errors


def errors():
    model = build()
    lm = al.to_nnsight(model, tokenizer)

    def past():
        with torch.no_grad(), lm.trace(LONG):
            lm.layers[2].hook_resid_post.output.save()
            lm.layers[0].mlp.hook_post.output.save()

    raises("layers.0.mlp.hook_post was asked for, but the model had run past it", past)

    def past_read():
        with torch.no_grad(), lm.trace(LONG):
            lm.layers[2].hook_resid_post.output.save()
            al.trace.read(lm, "layers.0.self_attn.hook_pattern")

    raises("layers.0.self_attn.hook_pattern was asked for, but", past_read)

    def skipped():
        with torch.no_grad(), lm.trace(LONG):
            lm.layers[1].skip(lm.layers[1].input)
            al.trace.read(lm, "layers.1.mlp.hook_post")

    raises("layers.1.mlp.hook_post was asked for, but it never fired: its layer was", skipped)

    def unknown():
        with torch.no_grad(), lm.trace(LONG):
            al.trace.read(lm, "layers.9.mlp.hook_post")

    raises("matches no hook point", unknown)
    raises("inside the block", lambda: al.trace.read(lm, "hook_embed"))

    def own_wrapper():
        other = nnsight.NNsight(build())
        with torch.no_grad(), other.trace(torch.arange(3, 9)[None]):
            al.trace.read(other, "hook_embed")

    raises("the wrapper that al.to_nnsight gives", own_wrapper)

    def no_arcee():
        other = nnsight.NNsight(torch.nn.Linear(2, 2))
        with other.trace(torch.ones(1, 2)):
            al.trace.read(other, "hook_embed")

    raises("Expected nnsight's wrapper of an Arcee model", no_arcee)
    raises("Expected a model of arcee_lab", lambda: al.to_nnsight(torch.nn.Linear(2, 2), None))

    # After all this the model is as before.
    assert clean(model)
    with torch.no_grad(), lm.trace(LONG):
        logits = lm.output.logits.save()
    assert torch.equal(logits, build()(tokenizer(LONG, return_tensors="pt").input_ids).logits)


def compiling():
    model = build()
    lm = al.to_nnsight(model, tokenizer)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad(), lm.trace(LONG):
        al.trace.read(lm, ["layers.*.mlp.hook_post", "*hook_pattern"])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(ids).logits, model(ids).logits)


def page():
    """The page on nnsight, block after block. nnsight reads a trace's source: hence a file."""
    runpy.run_path(os.environ["NNSIGHT_PAGE"])


for part in sys.argv[1:]:
    globals()[part]()
