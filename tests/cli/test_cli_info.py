"""`arcee-lab info`: versions, devices, and what a model is made of."""

import torch


def run(*words):
    from arcee_lab.cli import main

    return main(["info", *words])


def test_versions_and_devices(capsys):
    assert run() == 0
    said = capsys.readouterr().out
    release = torch.__version__.split("+")[0]  # a CUDA build's metadata does not say so
    assert f"torch         {release}" in said
    assert "devices       cpu" in said
    assert "parameters" not in said


def test_a_model(demo, capsys):
    model, tokenizer = demo
    assert run("demo") == 0
    said = capsys.readouterr().out
    assert f"{sum(p.numel() for p in model.parameters()):,} (" in said
    assert f"{len(tokenizer):,} used by the tokenizer" in said
    points = [m for m in model.modules() if type(m).__name__ == "HookPoint"]
    assert f"{len(points):,}, named in docs/reference/sites.md" in said


def test_afm_is_described_without_weights(tmp_path, demo, capsys):
    """The real shape from its configuration alone: 4.619 billion parameters, no file of weights."""
    from arcee_lab.model import ArceeConfig

    ArceeConfig.afm_4_5b().save_pretrained(tmp_path)
    demo[1].save_pretrained(tmp_path)
    assert run(str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "36 layers, d_model 2560, d_mlp 18432, 20 heads over 4 kv heads of 128" in said
    assert "parameters    4,619," in said


def test_a_foreign_model_is_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert run(str(tmp_path)) == 2
    assert "is a checkpoint of model_type 'llama'" in capsys.readouterr().err


def test_an_unknown_model_is_one_line(capsys):
    assert run("./no-such-folder") == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "no-such-folder" in said.err
