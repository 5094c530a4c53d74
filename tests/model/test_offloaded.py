"""Weights that accelerate keeps on the host or on disk: every call gives what it gives without."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model

import arcee_lab as al

TEXTS = ["The dogs near the gate bark .", "The lamp finds the red king .", "A cat sleeps ."] * 3


def on_host(model, folder):
    return cpu_offload(model, execution_device=torch.device("cpu"))


def on_disk(model, folder):
    return disk_offload(model, folder, execution_device=torch.device("cpu"))


def half_on_disk(model, folder):
    """The embedding and the first two layers in memory, the others on disk."""
    device_map = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.layers.1"), "cpu")
    device_map |= dict.fromkeys(("model.layers.2", "model.layers.3", "model.norm"), "disk")
    return dispatch_model(
        model,
        {**device_map, "model.rotary_emb": "cpu", "lm_head": "cpu"},
        main_device="cpu",
        offload_dir=folder,
        force_hooks=True,
    )


@pytest.fixture(params=[on_host, on_disk, half_on_disk], ids=lambda make: make.__name__)
def offloaded(request, tmp_path):
    return request.param(al.load("demo")[0], tmp_path / "weights")


def test_it_computes_somewhere(offloaded):
    assert any(p.is_meta for p in offloaded.parameters())
    assert offloaded.device == torch.device("cpu")


def test_a_measurement_is_the_same_to_the_last_count(offloaded, demo):
    whole, tokenizer = demo
    found, expected = (
        al.sparsity.measure(model, tokenizer, TEXTS, analyses=["all", "cett"])
        for model in (offloaded, whole)
    )
    for name, state in expected.states.items():
        for key, x in state.items():
            torch.testing.assert_close(
                found.states[name][key], x, rtol=0, atol=0, msg=f"{name}/{key}", equal_nan=True
            )
    assert torch.equal(found.norms, expected.norms)
    assert found.weights == expected.weights
    assert torch.equal(found.further["cett"].error, expected.further["cett"].error)


def test_a_store_has_the_same_bytes(offloaded, demo, tmp_path):
    whole, tokenizer = demo
    config = al.dump.DumpConfig(sites=("layers.*.mlp.hook_post", "hook_logits"))
    files = []
    for name, model in (("offloaded", offloaded), ("whole", whole)):
        al.dump.write(model, tokenizer, TEXTS, tmp_path / name, config)
        files.append(
            {
                str(path.relative_to(tmp_path / name)): path.read_bytes()
                for path in (tmp_path / name).rglob("*")
                if path.is_file()
            }
        )
    assert "manifest.json" in files[0]
    assert files[0] == files[1]


def test_an_evaluation_has_the_same_scores(demo, tmp_path):
    whole, tokenizer = demo
    offloaded = on_disk(al.load("demo")[0], tmp_path)
    tasks = ["arcee_demo_copy", "arcee_demo_text_copy"]
    found, expected = (
        al.evals.run(model, tokenizer, tasks=tasks, limit=6) for model in (offloaded, whole)
    )
    assert found.scores == expected.scores
    assert len(found.scores) > 1
