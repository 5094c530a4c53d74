"""Ctrl-C in a long call: what was done is in `partial` or on disk, and the message says which."""

import logging
import signal

import pytest
import torch
from full_disk import files_of

import arcee_lab as al
from arcee_lab.demo import MIX
from arcee_lab.directions import layer_probes
from arcee_lab.errors import Interrupted
from arcee_lab.training import Recipe, Stage, train
from arcee_lab.training.heads import (
    HeadRecipe,
    fitting,
    probe_layers,
    read_labelled,
    train_head,
)

SHAPE = {"d_model": 16, "d_mlp": 24, "layers": 2, "heads": 4, "kv_heads": 2, "rows": 2}
RECIPE = Recipe(
    stages=(Stage(6, MIX, 1.0),), length=96, warm_up=2, look_every=2, bf16=False, **SHAPE
)


def test_a_notebook_shows_one_line(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.user_ns["Interrupted"] = Interrupted
    code = "def deep():\n    raise Interrupted('3 of 5 are kept.', partial=[1])\ndeep()"
    found = shell.run_cell(code)
    assert found.error_in_exec.partial == [1]
    shown = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert shown == ["Interrupted: 3 of 5 are kept.", "line 3: deep()"]
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)


def test_training_the_demo_saves_the_step_and_goes_on(tmp_path, caplog):
    whole = train(RECIPE, tmp_path / "whole", save_every=100)

    def press(step, _loss):
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with (
        caplog.at_level(logging.WARNING, "arcee_lab"),
        pytest.raises(Interrupted, match=r"after step 3, which is saved in .*repeat") as stopped,
    ):
        train(RECIPE, tmp_path / "run", save_every=100, on_step=press)
    assert "finishing the current step; Ctrl-C again stops at once" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.value.partial.log == whole.log[:2]
    assert stopped.value.partial.steps == (3,)
    steps = []
    train(RECIPE, tmp_path / "run", save_every=100, on_step=lambda step, _: steps.append(step))
    assert steps == [3, 4, 5]
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def texts():
    return read_labelled("demo:train", head="sequence", limit=8)


def fit(texts, model, out=None, **recipe):
    settings = HeadRecipe(epochs=6, batch_size=4, **recipe)  # 12 steps
    tokenizer = al.load("demo")[1]
    return train_head(model, tokenizer, texts, recipe=settings, progress=False, out=out)


def pressing(monkeypatch, at):
    def on_step_end(self, args, trainer, control, **kwargs):
        if trainer.global_step == at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(fitting._ProgressBar, "on_step_end", on_step_end)


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_training_a_head_saves_a_state_and_goes_on(tmp_path, monkeypatch, texts, tune):
    whole = fit(texts, al.load("demo", head="base")[0], tmp_path / "whole", tune=tune)
    model = al.load("demo", head="base")[0]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    pressing(monkeypatch, 4)
    with pytest.raises(Interrupted, match=r"after step 10 of 12: the last state is in") as stopped:
        fit(texts, model, tmp_path / "run", tune=tune)
    assert (stopped.value.partial is None) is (tune == "lora")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"unfinished"}
    after = model.state_dict()
    assert before.keys() == after.keys(), "LoRA's layers are gone again"
    assert all(torch.equal(before[name], after[name]) for name in before)
    pressing(monkeypatch, 0)
    again = fit(texts, model, tmp_path / "run", tune=tune)
    assert torch.equal(again.model.score.weight, whole.model.score.weight)
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


def test_a_head_without_a_folder_is_kept_in_the_error(monkeypatch, texts):
    pressing(monkeypatch, 3)
    said = r"after step 3 of 12: nothing is saved except `partial`.*out=FOLDER"
    with pytest.raises(Interrupted, match=said) as stopped:
        fit(texts, al.load("demo", head="base")[0])
    assert stopped.value.partial.scores == ()
    assert not stopped.value.partial.model.training


def test_probes_keep_the_layers_that_are_done(demo, monkeypatch, texts):
    model, tokenizer = demo
    whole = probe_layers(model, tokenizer, texts, texts, progress=False)
    accuracy, calls = layer_probes.accuracy, []

    def third(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return accuracy(*args)

    monkeypatch.setattr(layer_probes, "accuracy", third)
    with pytest.raises(Interrupted, match="2 of 5 layers probed: they are in `partial`") as stopped:
        probe_layers(model, tokenizer, texts, texts, progress=False)
    assert stopped.value.partial.frame().equals(whole.frame().iloc[:2])
