"""Weights on several devices, on disk, or in CPU memory: names, order and bits stay the same."""

import pytest
import torch
from tiny_calls import EVERYTHING, batch_of

import arcee_lab as al
from arcee_lab.model.anatomy import HEADS

ABLATED = [
    al.Ablate("layers.1.mlp.hook_post", units=[3, 70]),
    al.Add("layers.2.hook_resid_pre", torch.ones(32), positions=-1),
    al.Scale("layers.0.self_attn.hook_pattern", 0.5, heads=[1]),
]
STEPS = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}


def places_of(model, layers, rest):
    """A device map: one place per layer, another for everything else."""
    inner = "" if type(model).__name__ == "ArceeModel" else "model."
    backbone = getattr(model, "model", model)
    parts = [inner + name for name, _ in backbone.named_children() if name != "layers"]
    parts += [name for name, _ in model.named_children() if inner and name != "model"]
    return dict.fromkeys(parts, rest) | {f"{inner}layers.{i}": d for i, d in enumerate(layers)}


def loaded(head, folder, places):
    model = HEADS[head].from_pretrained(
        folder / "checkpoint", device_map=places, offload_folder=folder / "offload"
    )
    return model.eval()


def assert_same(split, whole, batch, device="cpu", sites=EVERYTHING, **cuts):
    with torch.no_grad():
        with al.capture(whole, sites, **cuts) as wanted:
            expected = whole(**batch)
        with al.capture(split, sites, **cuts) as acts:
            output = split(**{name: x.to(device) for name, x in batch.items()})
    assert list(acts) == list(wanted)
    for site in wanted:
        assert torch.equal(acts[site].cpu(), wanted[site]), site
    assert torch.equal(output[0].cpu(), expected[0])
    return acts


@pytest.mark.parametrize("head", HEADS)
def test_layers_on_disk(tiny, head, tmp_path):
    """Every site of every class, and blocks leave no trace in accelerate's own hooks."""
    whole, batch = tiny(head), batch_of(padding="left")
    whole.save_pretrained(tmp_path / "checkpoint", max_shard_size="20KB")
    split = loaded(head, tmp_path, places_of(whole, ["cpu", "disk", "disk"], "cpu"))
    backbone = getattr(split, "model", split)
    assert backbone.layers[1].mlp.up_proj.weight.is_meta
    acts = assert_same(split, whole, batch)
    assert all(x.device.type == "cpu" for x in acts.values())
    assert_same(split, whole, batch, sites="*hook_z", heads=[3], positions=[0, -1], stop_at=None)
    assert backbone.layers[1].mlp.up_proj.weight.is_meta


@pytest.mark.parametrize("kind", ["cpu", "disk"])
def test_interventions_reach_offloaded_layers(tiny, kind, tmp_path):
    from accelerate import cpu_offload, disk_offload

    whole, split, batch = tiny(), tiny(), batch_of(padding="left")
    split.load_state_dict(whole.state_dict())
    if kind == "cpu":
        cpu_offload(split, execution_device=torch.device("cpu"))
    else:
        disk_offload(split, tmp_path, execution_device=torch.device("cpu"))
    assert split.lm_head.weight.is_meta
    plain = whole(**batch).logits
    with al.intervene(whole, ABLATED), al.intervene(split, ABLATED):
        assert_same(split, whole, batch)
        assert not torch.equal(whole(**batch).logits, plain)
        assert torch.equal(whole.generate(**batch, **STEPS), split.generate(**batch, **STEPS))
    assert_same(split, whole, batch)


@pytest.mark.gpu
@pytest.mark.parametrize("places", ["two GPUs", "GPU and CPU", "GPU and disk"])
def test_layers_on_several_devices(tiny, places, tmp_path):
    """Each site is on the device where its layer ran; the numbers are those of one GPU."""
    second = {"two GPUs": 1, "GPU and CPU": "cpu", "GPU and disk": "disk"}[places]
    if second == 1 and torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs; torch sees {torch.cuda.device_count()}")
    model, batch = tiny(), batch_of(padding="left")
    model.save_pretrained(tmp_path / "checkpoint")
    one = loaded("causal", tmp_path, {"": 0})
    split = loaded("causal", tmp_path, places_of(model, [0, second, second], 0))
    batch = {name: x.to("cuda:0") for name, x in batch.items()}
    with torch.no_grad(), al.capture(one, EVERYTHING) as wanted:
        expected = one(**batch)
    with torch.no_grad(), al.capture(split, EVERYTHING) as acts:
        output = split(**batch)
    assert list(acts) == list(wanted)
    for site in wanted:  # a layer kept on the CPU or on disk runs on the GPU in its turn
        assert torch.equal(acts[site].to("cuda:0"), wanted[site]), site
    assert torch.equal(output.logits.to("cuda:0"), expected.logits)
    where = acts["layers.1.mlp.hook_post"].device
    assert where == torch.device("cuda", 1 if second == 1 else 0)
    with al.intervene(one, ABLATED), al.intervene(split, ABLATED):
        assert torch.equal(one.generate(**batch, **STEPS), split.generate(**batch, **STEPS))


@pytest.mark.gpu
def test_a_compiled_recorder_on_a_gpu(tiny, run_clean):
    run_clean(
        """
        import torch, arcee_lab as al
        model, tokenizer = al.load("demo", device="cuda")
        record = al.capture_compiled(model, "*.hook_post", batch=1, length=8)
        inputs = tokenizer(["The dogs near the barn sleep ."], return_tensors="pt",
                           padding="max_length", max_length=8).to("cuda")
        with torch.no_grad():
            record(**inputs)
            with al.capture(model, "*.hook_post") as acts:
                model(**inputs)
        for site in acts:
            torch.testing.assert_close(record[site], acts[site], atol=1e-3, rtol=1e-3)
        """
    )
