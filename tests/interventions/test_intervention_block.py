"""The block: the values after it, in every call style, and everything put back after it."""

import copy

import pytest
import torch
from plain import changed, meant
from tiny_calls import EVERYTHING, batch_of, hooks_of, reference_of

import arcee_lab as al
from arcee_lab.model.anatomy import HEADS, anatomy_of

POST, RESID = "layers.1.mlp.hook_post", "layers.0.hook_resid_post"
KINDS = {
    "ablate": lambda: al.Ablate(POST, units=[3, 5]),
    "mean": lambda: al.Ablate(POST, "mean", torch.rand(72)),
    "resample": lambda: al.Ablate(POST, "resample", positions=[2, -1]),
    "draw": lambda: al.Ablate(POST, "resample", torch.rand(5, 72)),
    "scale": lambda: al.Scale("layers.*.self_attn.hook_z", 0.5, heads=[1], tokens=[7, 8, 9]),
    "clamp": lambda: al.Clamp(POST, 0.01, 0.02),
    "add": lambda: al.Add(RESID, torch.rand(32), 2.0, positions=[0, -1]),
    "project": lambda: al.ProjectOut(RESID, torch.rand(2, 32)),
    "topk": lambda: al.TopK(POST, 5),
    "threshold": lambda: al.Threshold(POST, 0.01),
    "cett": lambda: al.Cett("layers.*.mlp.hook_relu", 0.01),
    "patch": lambda: al.Patch(RESID, torch.rand(1, 9, 32), positions=[4]),
    "pattern": lambda: al.Scale("layers.1.self_attn.hook_pattern", 0.5, heads=[2], positions=-1),
    "tags": lambda: al.Add(RESID, 1.0, tags=[1]),
    "mask": lambda: al.Add(RESID, 1.0, mask=torch.rand(1, 9) < 0.7),
    "replace": lambda: al.Replace(RESID, torch.tanh),
}


KNOWN = torch.ones(1, 9, dtype=torch.bool)
ON_META = KINDS | {"patch of known tokens": lambda: al.Patch(RESID, torch.rand(1, 9, 32), KNOWN)}


def logits_of(output):
    names = ("logits", "start_logits", "last_hidden_state")
    return next(output[name] for name in names if name in output)


def run(model, batch, edits):
    with al.intervene(model, edits) as block:
        block.set_tags(batch["input_ids"] % 2)
        return model(**batch)


@pytest.mark.parametrize("kind", ON_META)
def test_nothing_is_read_from_the_device(kind):
    """On the meta device a read raises, and so does a CPU tensor among meta tensors."""
    edit = ON_META[kind]()
    from arcee_lab.model import ArceeConfig

    shape = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3, "vocab_size": 50}
    config = ArceeConfig(
        **shape, num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager"
    )
    with torch.device("meta"):
        model = HEADS["causal"](config)
    batch = {name: value.to("meta") for name, value in batch_of().items()}
    assert run(model, batch, [edit]).logits.is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_plain_torch(tiny, kind):
    """Gradients of all parameters, checkpointed or not, and the model as it was afterwards."""
    model, batch, edit = tiny(), batch_of(padding="left"), KINDS[kind]()
    batch["input_ids"][0, 2:5] = torch.tensor([7, 8, 9])
    model.train()
    clean = model(**batch).logits.detach()

    def gradients(checkpointing):
        model.zero_grad()
        if checkpointing:
            model.activation_checkpointing_enable()
        with al.intervene(model, [edit]) as block:
            losses = []
            for shift in (1, 3):  # two forwards before a backward: each is computed again as it was
                block.set_tags(batch["input_ids"] % shift)
                turned = {n: torch.cat([v[shift % 2 :], v[: shift % 2]]) for n, v in batch.items()}
                losses.append(model(**turned, labels=turned["input_ids"]).loss)
            sum(losses).backward()
        model.activation_checkpointing_disable()
        return {name: p.grad.clone() for name, p in model.named_parameters()}, losses

    plain, losses = gradients(False)
    again, others = gradients(True)
    assert losses == others
    assert all(torch.equal(again[name], grad) for name, grad in plain.items())
    assert all(grad.isfinite().all() for grad in plain.values())
    assert torch.equal(model(**batch).logits, clean)


def test_the_gradient_is_that_of_hooks_on_the_reference(tiny):
    model, batch = tiny(), batch_of()
    reference = reference_of(model, model.config._attn_implementation)

    def zero(x):
        keep = torch.ones(72)
        keep[[3, 5]] = 0
        return x * keep

    with changed(reference, POST, zero):
        reference(**batch, labels=batch["input_ids"]).loss.backward()
    with al.intervene(model, KINDS["ablate"]()):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, theirs[name].grad), name
    up = model.model.layers[1].mlp.up_proj.weight.grad
    assert up[[3, 5]].abs().max() == 0
    with al.capture(model, POST, grad=True) as acts, al.intervene(model, al.Ablate(POST)):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    assert acts.grad(POST).abs().max() > 0, "what a zero would add is still known"


def test_backward_after_the_block_is_refused_where_it_computes_again(tiny):
    model, batch = tiny().train(), batch_of()
    with al.intervene(model, al.Add(RESID, 1.0)):
        loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    model.activation_checkpointing_enable()
    with al.intervene(model, al.Add(RESID, 1.0)):
        loss = model(**batch, labels=batch["input_ids"]).loss
    with pytest.raises(ValueError, match="without the interventions"):
        loss.backward()


@pytest.mark.parametrize("settings", [{"use_reentrant": True}, {"use_reentrant": False}])
def test_each_recomputation_meets_its_own_forward(tiny, settings):
    """Two forwards with other draws and other tokens, then one backward."""
    model, batch = tiny().train(), batch_of(padding="left")
    edits = [KINDS["draw"](), al.Scale(POST, 0.0, tags=[1])]

    def gradient():
        model.zero_grad()
        with al.intervene(model, edits) as block:
            losses = []
            for modulus in (2, 3):
                block.set_tags(batch["input_ids"] % modulus)
                embeds = model.get_input_embeddings()(batch["input_ids"])
                losses.append(model(inputs_embeds=embeds, labels=batch["input_ids"]).loss)
            sum(losses).backward()
        return model.model.layers[1].mlp.down_proj.weight.grad.clone()

    expected = gradient()
    model.activation_checkpointing_enable(settings)
    assert torch.equal(gradient(), expected)


def test_checkpointing_is_enabled_before_the_block(tiny):
    model = tiny().train()
    with al.intervene(model, KINDS["ablate"]()):
        model.activation_checkpointing_enable()
        with pytest.raises(ValueError, match="enable it before"):
            model(**batch_of())
        model.activation_checkpointing_disable()
        model(**batch_of())


def test_replace_can_be_trained(tiny):
    model, batch = tiny(), batch_of()
    steer = torch.zeros(32, requires_grad=True)
    with al.intervene(model, al.Replace(RESID, lambda x: x + steer)):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    assert steer.grad.abs().max() > 0


@pytest.mark.parametrize("head", HEADS)
def test_every_class_of_head(tiny, head):
    model, batch = tiny(head), batch_of(padding="right")
    reference = reference_of(model, model.config._attn_implementation)
    with torch.no_grad(), changed(reference, RESID, lambda x: x * 0.5):
        expected = reference(**batch)
    with torch.no_grad(), al.intervene(model, al.Scale(RESID, 0.5)):
        got = model(**batch)
    real = batch["attention_mask"].bool()
    if head == "sequence":  # pooled at the last attended token, where a mask says which that is
        assert got.logits.shape == (2, 3)
        assert torch.equal(got.logits[:1], expected.logits[:1])
    else:
        assert torch.equal(logits_of(got)[real], logits_of(expected)[real])
    if head != "base":
        with torch.no_grad(), al.intervene(model, al.Ablate("hook_logits", "mean", 2.0)):
            assert (logits_of(model(**batch)) == 2.0).all()


def test_every_site_of_the_legend_is_writable(tiny):
    """There is no read-only site: a change at any of them changes the logits."""
    model, batch = tiny(), batch_of(padding="left")
    before, clean = hooks_of(model), model(**batch).logits
    for name in anatomy_of(model).legend.sites():
        with al.intervene(model, al.Scale(name, 1.5)):
            assert not torch.equal(model(**batch).logits, clean), name
        assert hooks_of(model) == before
    assert torch.equal(model(**batch).logits, clean)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_pattern_and_scores_are_written(tiny, attn):
    """One head looks at its own token only; another at what twice its scores choose."""
    model, batch = tiny(attn=attn), batch_of()
    at = "layers.0.self_attn"
    sites = [f"{at}.hook_v", f"{at}.hook_scores", f"{at}.hook_pattern", f"{at}.hook_z"]
    own = torch.eye(9).expand(2, 1, 9, 9).clone()
    edits = [
        al.Patch(f"{at}.hook_pattern", own, heads=[1]),
        al.Scale(f"{at}.hook_scores", 2.0, heads=[3]),
    ]
    with torch.no_grad(), al.capture(model, sites) as acts:
        model(**batch)
        with al.intervene(model, edits):
            model(**batch)
        model(**batch)
    value, z = acts[sites[0]][0], acts[sites[3]]
    masked = 2 * acts[sites[1]][0] + torch.full((9, 9), -torch.inf).triu(1)
    pattern = masked.softmax(-1)[:, 3]
    torch.testing.assert_close(z[1][..., 1, :], value[..., 0, :], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(z[1][..., 3, :], pattern @ value[..., 1, :], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(z[1][..., [0, 2], :], z[0][..., [0, 2], :], atol=1e-6, rtol=1e-5)
    assert torch.equal(acts[sites[2]][1][:, 1], own[:, 0])
    assert torch.equal(z[0], z[2])


def test_they_act_in_the_order_of_the_list(tiny):
    model, batch = tiny(), batch_of()
    add, scale = al.Add("layers.*.mlp.hook_post", 1.0), al.Scale(POST, 3.0, units=[0, 1])
    with torch.no_grad(), al.capture(model, POST) as acts:
        model(**batch)
        for edits in ([add, scale], [scale, add]):
            with al.intervene(model, edits):
                model(**batch)
        with al.intervene(model, add), al.intervene(model, scale):
            model(**batch)
    with torch.no_grad(), al.capture(model, POST) as alone, al.intervene(model, [add]):
        model(**batch)
    _, first, second, nested = acts[POST]
    added = alone[POST]
    assert torch.equal(first[..., :2], added[..., :2] * 3)
    assert torch.equal(first[..., 2:], added[..., 2:])
    assert not torch.equal(first, second)
    assert torch.equal(first, nested)


def test_captures_see_what_flows_on_inside_and_outside(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, [POST, "*pattern"]) as outer, al.intervene(model, KINDS["ablate"]()):
        with al.capture(model, POST) as inner:
            model(**batch)
        handle = model.model.layers[1].mlp.hook_post.register_forward_hook(lambda m, a, x: x + 1)
        model(**batch)
        handle.remove()
    assert torch.equal(inner[POST], outer[POST][0])
    assert inner[POST][..., [3, 5]].abs().max() == 0
    assert (outer[POST][1][..., [3, 5]] == 1).all()


def test_streams_that_are_one_tensor_change_apart(tiny):
    """A change at a layer's entry is not seen at the exit of the layer before."""
    model, batch = tiny(), batch_of()
    sites = [RESID, "layers.1.hook_resid_pre", "layers.1.hook_resid_mid", "layers.1.hook_attn_out"]
    with torch.no_grad(), al.capture(model, sites) as acts:
        clean = model(**batch, output_hidden_states=True).hidden_states
        with al.intervene(model, al.Add("layers.1.hook_resid_pre", 1.0, positions=2)):
            model(**batch)
    assert torch.equal(acts[RESID][1], acts[RESID][0])
    assert torch.equal(acts[RESID][0], clean[1])
    entry = acts["layers.1.hook_resid_pre"][1]
    assert torch.equal(entry[:, 2], acts[RESID][0][:, 2] + 1)
    assert torch.equal(
        acts["layers.1.hook_resid_mid"][1], entry + acts["layers.1.hook_attn_out"][1]
    )


def test_no_intervention_changes_nothing(tiny):
    model, batch = tiny(), batch_of()
    clean = model(**batch).logits
    with al.intervene(model, []) as block:
        assert torch.equal(model(**batch).logits, clean)
    assert block.interventions == ()


def test_everything_is_put_back_after_an_exception(tiny):
    model, batch = tiny(), batch_of()
    before, clean = hooks_of(model), model(**batch).logits
    edits = [al.Scale(EVERYTHING, 0.5), al.Ablate(POST, positions=50)]

    def fail():
        with al.intervene(model, edits):
            model(**batch)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    with pytest.raises(IndexError), al.intervene(model, edits):
        model(input_ids=torch.tensor([[1000]]))
    with pytest.raises(ValueError, match=r"changed layers\.1\.mlp\.hook_post in place"):
        run(model, batch, [*edits, al.Replace(POST, lambda x: x.mul_(2))])
    assert hooks_of(model) == before
    assert torch.equal(model(**batch).logits, clean)
    for layer in model.model.layers:
        assert layer.self_attn.current_mode() == "off"


def test_many_blocks_leave_nothing(tiny):
    model, batch = tiny(num_hidden_layers=1), batch_of(length=2)
    before = hooks_of(model)
    edit = al.Ablate("layers.0.mlp.hook_post", units=[3])
    for _ in range(50):
        with torch.no_grad(), al.intervene(model, edit):
            model(**batch)
    assert hooks_of(model) == before


def test_a_block_runs_once_and_is_not_copied(tiny):
    model = tiny()
    block = al.intervene(model, KINDS["ablate"]())
    assert repr(block).startswith("Intervening([Ablate(")
    with block:
        model(**batch_of())
        with pytest.raises(ValueError, match="cannot be copied inside"):
            copy.deepcopy(model)
    with pytest.raises(ValueError, match="have run already"), block:
        pass
    copy.deepcopy(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits(tiny, kind, dtype):
    model = tiny(dtype=dtype)
    batch = batch_of()
    batch["input_ids"][0, 2:5] = torch.tensor([7, 8, 9])
    with torch.inference_mode():
        got = run(model, batch, [KINDS[kind]()]).logits
        clean = model(**batch).logits
    assert got.dtype == dtype
    assert got.isfinite().all()
    assert not torch.equal(got, clean)


@pytest.mark.parametrize("kind", ["ablate", "add", "project", "cett", "topk", "pattern"])
def test_autocast(tiny, kind):
    model, batch, edit = tiny(), batch_of(), KINDS[kind]()
    sites = list({name for name in anatomy_of(model).resolve(list(edit.sites))})
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), al.capture(model, sites) as acts:
        model(**batch)
        run(model, batch, [edit])
    for name in sites:
        before, after = acts[name]
        assert before.dtype == after.dtype
        assert not torch.equal(before, after)


def test_inference_mode_then_gradients_in_one_block(tiny):
    """Tensors that were moved for a forward without a backward serve the next one too.

    Logits and gradients of the second forward are those of a block of its own, and of plain hooks
    on the reference.
    """
    model, batch, step, factor = tiny(), batch_of(padding="left"), torch.rand(32), torch.rand(72)
    column = torch.arange(9)[None]
    edits = [
        al.Add(RESID, step, positions=2),
        al.Scale(POST, factor, units=[3, 5], tokens=range(3, 30)),
        al.Ablate(POST, "mean", factor, mask=column == 6),
    ]
    third = meant(batch, positions=[2])[..., None]
    some = meant(batch, tokens=range(3, 30))[..., None]
    seventh = meant(batch, mask=(column == 6).expand(2, 9))[..., None]
    two = torch.zeros(72, dtype=torch.bool)
    two[[3, 5]] = True

    def add(x):
        return torch.where(third, x + step, x)

    def scale_then_mean(x):
        return torch.where(seventh, factor, torch.where(some & two, x * factor, x))

    reference = reference_of(model, model.config._attn_implementation)
    with changed(reference, RESID, add), changed(reference, POST, scale_then_mean):
        expected = reference(**batch, labels=batch["input_ids"])
        expected.loss.backward()
    theirs = {name: p.grad for name, p in reference.named_parameters()}

    def backward():
        model.zero_grad()
        output = model(**batch, labels=batch["input_ids"])
        output.loss.backward()
        return output.logits, {name: p.grad.clone() for name, p in model.named_parameters()}

    with al.intervene(model, edits):
        with torch.inference_mode():
            first = model(**batch).logits
        logits, mixed = backward()
    with al.intervene(model, edits):
        _, alone = backward()
    _, plain = backward()
    real = batch["attention_mask"].bool()
    assert torch.equal(first, logits)
    assert torch.equal(logits[real], expected.logits[real])
    assert mixed.keys() == theirs.keys()
    for name, gradient in mixed.items():
        assert torch.equal(gradient, alone[name]), name
        assert torch.equal(gradient, theirs[name]), name
    assert not torch.equal(mixed["lm_head.weight"], plain["lm_head.weight"])


def test_compiled_and_traced_models_run_their_interventions(run_clean):
    """nnsight reads and edits first, then interventions act, and captures record the result."""
    run_clean(  # nnsight reads the source of the block, which a fork does not have
        """
        import torch
        import arcee_lab as al
        model, tokenizer = al.load("demo")
        batch = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt")
        edits = [al.Ablate("layers.1.mlp.hook_post", units=range(200))]
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        with torch.no_grad():
            clean = compiled(**batch, use_cache=False).logits
            with al.intervene(model, edits):
                expected = model(**batch).logits
            with al.intervene(compiled, edits):
                got = compiled(**batch).logits
            assert torch.equal(got, expected)
            assert not torch.equal(got, clean)
            assert torch.equal(compiled(**batch, use_cache=False).logits, clean)

        import nnsight
        post = "layers.1.mlp.hook_post"
        wrapped = nnsight.NNsight(model)
        with torch.no_grad(), al.capture(model, post) as acts, al.intervene(model, edits):
            with wrapped.trace(**batch):
                read = wrapped.model.layers[1].mlp.hook_post.output.save()
                logits = wrapped.output.logits.save()
        assert torch.equal(logits, expected)
        assert read[..., :200].abs().max() > 0 == acts[post][..., :200].abs().max()
        twice = al.Scale(post, 2)
        with torch.no_grad(), al.capture(model, post) as acts, al.intervene(model, twice):
            with wrapped.trace(**batch):
                wrapped.model.layers[1].mlp.hook_post.output[..., 5:] = 1.5
        assert (acts[post][..., 5:] == 3).all()
        """
    )


def test_layers_on_disk(tiny, tmp_path):
    model, batch = tiny(), batch_of()
    model.save_pretrained(tmp_path / "checkpoint")
    places = {f"model.{part}": "cpu" for part in ("embed_tokens", "norm", "rotary_emb")}
    places |= {"lm_head": "cpu", "hook_logits": "cpu", "model.hook_embed": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}
    split = HEADS["causal"].from_pretrained(
        tmp_path / "checkpoint", device_map=places, offload_folder=tmp_path / "offload"
    )
    edits = [KINDS["ablate"](), KINDS["add"](), al.Cett("layers.0.mlp.hook_relu", 0.01)]
    with torch.no_grad():
        expected = run(model, batch, edits).logits
        assert torch.equal(run(split.eval(), batch, edits).logits, expected)
        found = run(split, batch, [al.Cett(POST, 0.01)]).logits
        assert torch.equal(found, run(model, batch, [al.Cett(POST, 0.01)]).logits)
