"""A killed `train_head` resumes and ends with the same weights."""

import pytest
import torch
from safetensors import safe_open

import arcee_lab as al
from arcee_lab.runs.storage import claim
from arcee_lab.training.heads import HeadRecipe, fitting, read_labelled, resuming, train_head


class Killed(BaseException):
    """What no handler of ours may catch."""


@pytest.fixture(scope="module")
def reviews():
    return read_labelled("demo:train", head="sequence", limit=32)


def fit(data, recipe, **more):
    model, tokenizer = al.load("demo", head="base")
    return train_head(model, tokenizer, data, recipe=recipe, progress=False, **more)


@pytest.mark.parametrize("tune", ["head", "lora", "full"])
def test_a_killed_run_goes_on(monkeypatch, tmp_path, reviews, tune):
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    recipe = HeadRecipe(tune=tune, epochs=6, batch_size=8)  # 24 steps
    whole = fit(reviews, recipe)
    steps, state = [], tmp_path / "run" / "unfinished"
    killed = 17

    def on_step_end(self, args, trainer, control, **kwargs):
        steps.append(trainer.global_step)
        if trainer.global_step == killed:
            raise Killed

    monkeypatch.setattr(fitting._ProgressBar, "on_step_end", on_step_end)
    with pytest.raises(Killed):
        fit(reviews, recipe, out=tmp_path / "run")
    assert {path.name for path in state.iterdir()} == {"run.json", "state.safetensors"}
    with safe_open(state / "state.safetensors", "pt") as file:
        written = [name for name in file.keys() if not name.startswith("generator.")]  # noqa: SIM118
    frozen = [name for name in written if "score" not in name and "lora" not in name]
    assert written
    assert (frozen == []) is (tune != "full"), "the frozen backbone is not written"

    (state / ".state.safetensors.0123abcd.part").mkdir()  # as a kill while it is written leaves it
    (state / ".state.safetensors.0123abcd.part" / ".tmpX").write_bytes(b"")
    steps.clear()
    killed = 0
    resumed = fit(reviews, recipe, out=tmp_path / "run")
    assert steps == list(range(11, 25))
    assert not state.exists()
    assert resumed.losses == whole.losses
    assert [row["step"] for row in resumed.losses] == [10, 20]
    others = dict(resumed.model.named_parameters())
    for name, weight in whole.model.named_parameters():
        assert torch.equal(weight, others[name]), name


def test_no_state_is_written_before_its_time(tmp_path, reviews, monkeypatch):
    seen = []
    monkeypatch.setattr(
        resuming.ResumableTrainer, "_save_checkpoint", lambda self, *args: seen.append(args)
    )
    fit(reviews, HeadRecipe(epochs=3, batch_size=8), out=tmp_path)
    assert seen == []


def test_the_state_of_another_run_is_refused(tmp_path, reviews):
    state = tmp_path / "unfinished"
    claim(state, {"head": "token"})
    with pytest.raises(ValueError, match="holds another run"):
        fit(reviews, HeadRecipe(epochs=1), out=tmp_path)
    assert state.exists()
