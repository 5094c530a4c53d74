"""A damaged state of a run: one line with the way out, before any of it is used."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import arcee_lab as al
from arcee_lab.demo import MIX
from arcee_lab.demo.tokenizer import build_tokenizer
from arcee_lab.training import Recipe, Stage, loop, train
from arcee_lab.training.heads import HeadRecipe, fitting, read_labelled, resuming, train_head
from arcee_lab.training.initial_weights import untrained
from arcee_lab.training.joint_loss import DemoHeads
from arcee_lab.training.state import read_state

SHAPE = {"d_model": 16, "d_mlp": 24, "layers": 2, "heads": 4, "kv_heads": 2, "rows": 2}
RECIPE = Recipe(
    stages=(Stage(4, MIX, 1.0),), length=96, warm_up=2, look_every=2, bf16=False, **SHAPE
)
WAY_OUT = r"is damaged \(.*\); remove it and repeat the same call or command to start again"


class Stopped(Exception):
    """Ends a run behind its first state."""


def metadata_of(path):
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size])["__metadata__"]


def tensors_of(path):
    """Copies, since the file is written over and a mapped one would end the process."""
    return {name: one.clone() for name, one in load_file(path).items()}


def damages(path):
    """Name -> a function that writes a damaged state over `path`."""
    raw, tensors, told = path.read_bytes(), tensors_of(path), metadata_of(path)
    first = next(name for name, one in tensors.items() if name.startswith("optimizer.exp_avg."))
    weight = first.removeprefix("optimizer.exp_avg.")

    def saving(changed, metadata=told):
        return lambda: save_file(changed, path, metadata=metadata)

    def without(name):
        return {key: one for key, one in tensors.items() if key != name}

    found = {
        "empty": lambda: path.write_bytes(b""),
        "cut": lambda: path.write_bytes(raw[: len(raw) // 2]),
        "a pickle": lambda: torch.save(tensors, path),
        "header of 2^60 bytes": lambda: path.write_bytes((2**60).to_bytes(8, "little") + raw[8:]),
        "a weight is missing": saving(without(weight)),
        "a moment is missing": saving(without(first)),
        "a tensor too many": saving(tensors | {"more": torch.zeros(1)}),
        "a weight that would spread": saving(tensors | {weight: torch.zeros(1)}),
        "a moment of another shape": saving(tensors | {first: torch.zeros(3)}),
        "a weight of another dtype": saving(tensors | {weight: tensors[weight].double()}),
        "no metadata": saving(tensors, None),
    }
    for key in told:
        found |= {f"{key} is no JSON": saving(tensors, told | {key: "{"})}
        found |= {f"{key} is null": saving(tensors, told | {key: "null"})}
        found |= {f"{key} is missing": saving(tensors, {k: v for k, v in told.items() if k != key})}
    return raw, found


def test_the_demo(tmp_path):
    def stop(step, _loss):
        if step == 2:
            raise Stopped

    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(RECIPE, out, save_every=2, on_step=stop)
    state = out / "state.safetensors"
    raw, found = damages(state)
    told = metadata_of(state)
    tensors = tensors_of(state)
    for key, value in (
        ("step", 9),
        ("step", -1),
        ("step", None),
        ("tokens", 0),
        ("starts", [0, 0]),
        ("starts", [1]),
        ("starts", []),
        ("starts", 0),
    ):
        wrong = {"about": json.dumps(json.loads(told["about"]) | {key: value})}
        found[f"{key} is {value}"] = lambda wrong=wrong: save_file(tensors, state, metadata=wrong)
    tokenizer = build_tokenizer()
    model, heads = untrained(RECIPE, tokenizer), DemoHeads(RECIPE.d_model, seed=0)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()])
    before = [one.clone() for one in model.parameters()]
    for name, damage in found.items():
        damage()
        with pytest.raises(ValueError, match=WAY_OUT) as refused:
            loop._resume(out, RECIPE, model, heads, optimizer)
        assert str(state) in str(refused.value), name
        assert "\n" not in str(refused.value), name
    assert all(map(torch.equal, model.parameters(), before)), "a damaged state was used"
    with pytest.raises(ValueError, match=WAY_OUT):
        train(RECIPE, out)
    state.write_bytes(raw)
    log = out / "log.jsonl"
    lines = log.read_bytes()
    for content in (b"", b"\xff\xfe", b"[1]\n", lines.split(b"\n")[1], b'{"step": "2"}\n'):
        log.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"log\.jsonl lacks rows of the first 2 .* remove both"
        ):
            train(RECIPE, out, save_every=2)
    log.write_bytes(lines + b'{"step": 3, "to')  # the last line may be cut: it is made again
    state.unlink()  # the way out
    assert train(RECIPE, out).steps == (4,)


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_a_head(tmp_path, monkeypatch, tune):
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    monkeypatch.setattr(fitting, "_LOG_EVERY", 1)
    texts = read_labelled("demo:train", head="sequence", limit=4)
    model, tokenizer = al.load("demo", head="base")
    out = tmp_path / "run"

    def fit():
        recipe = HeadRecipe(tune=tune, epochs=3, batch_size=4)
        return train_head(model, tokenizer, texts, recipe=recipe, progress=False, out=out)

    def on_step_end(self, args, trainer, control, **kwargs):
        if trainer.global_step == 2:
            raise Stopped

    whole = fit() if tune == "head" else None
    shutil.rmtree(out, ignore_errors=True)
    with monkeypatch.context() as patch:
        patch.setattr(fitting._ProgressBar, "on_step_end", on_step_end)
        with pytest.raises(Stopped):
            fit()
    state = out / "unfinished" / "state.safetensors"
    raw, found = damages(state)
    told, tensors = metadata_of(state), tensors_of(state)
    for key, change in (
        ("progress", {"global_step": 9}),
        ("progress", {"global_step": -1}),
        ("progress", {"log_history": 3}),
        ("progress", {"nonsense": 1}),
        ("schedule", {"last_epoch": 7}),
    ):
        wrong = told | {key: json.dumps(json.loads(told[key]) | change)}
        found[f"{key} {change}"] = lambda wrong=wrong: save_file(tensors, state, metadata=wrong)
    for key, value in (("rates", []), ("python", [3, [1], None]), ("numpy", ["MT19937", [1], 0])):
        wrong = told | {key: json.dumps(value)}
        found[f"{key} {value}"] = lambda wrong=wrong: save_file(tensors, state, metadata=wrong)
    if tune == "lora":  # what holds for one holds for the other but for the names of tensors
        found = {name: damage for name, damage in found.items() if "weight" in name}
    names = list(model.state_dict())
    for name, damage in found.items():
        damage()
        with pytest.raises(ValueError, match=WAY_OUT) as refused:
            fit()
        assert str(state) in str(refused.value), name
        assert "\n" not in str(refused.value), name
        assert list(model.state_dict()) == names, "the model is as it was"
    state.write_bytes(raw)
    again = fit()
    if whole is not None:
        assert torch.equal(again.model.score.weight, whole.model.score.weight)


def test_a_state_is_checked_before_it_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2, 3)}, path)
    found, _ = read_state(path, {"x": torch.ones(2, 3)})
    assert found["x"].tolist() == [[0.0] * 3] * 2
    for like, said in (
        (torch.ones(3, 2), r"x has the shape \[2, 3\]; expected \[3, 2\]"),
        (torch.ones(2, 3).half(), r"x is torch\.float32; expected torch\.float16"),
    ):
        with pytest.raises(ValueError, match=said):
            read_state(path, {"x": like})
