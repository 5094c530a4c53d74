"""Runs on disk: saved and loaded, resumed after an interruption, refused where they cannot be."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import arcee_lab as al
from arcee_lab.neurons.reading import files, runner
from arcee_lab.runs import saved_state

SETTINGS: dict[str, Any] = {"top": 3, "per_stratum": 2, "context": 24, "batch_size": 4}


@pytest.fixture(scope="module")
def lab() -> tuple[Any, Any, list[str]]:
    model, tokenizer = al.load("demo")
    return model, tokenizer, [one.text for one in al.demo.documents(n=14, seed=2)]


@pytest.fixture(scope="module")
def saved(lab, tmp_path_factory) -> tuple[Any, Path]:
    model, tokenizer, texts = lab
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = al.neurons.exemplars(
        model, tokenizer, texts, layers=[1, 3], out=folder, progress=False, **SETTINGS
    )
    return run, folder


def same(one: Any, two: Any) -> None:
    assert one.facts == two.facts
    for layer in one.layers:
        for name, x in one.states[layer].items():
            assert torch.equal(x, two.states[layer][name]), (layer, name)


class pressing:
    """Within the block, Ctrl-C is pressed in the n-th forward."""

    def __init__(self, model: Any, forward: int):
        self.left = forward
        self.handle = model.model.layers[0].register_forward_hook(self)

    def __call__(self, module: object, args: object, out: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)

    def __enter__(self) -> "pressing":
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


# ---------------------------------------------------------------------- saved and loaded


def test_a_loaded_run_says_the_same(saved, lab):
    run, folder = saved
    loaded = al.neurons.Exemplars.load(folder)
    same(run, loaded)
    assert loaded.headline == run.headline
    assert loaded.frame().equals(run.frame())
    for unit in (0, 100, run.d_mlp - 1):
        assert loaded.top(3, unit) == run.top(3, unit)
        assert loaded.stratified(1, unit) == run.stratified(1, unit)
        assert loaded.negatives(1, unit) == run.negatives(1, unit)
    assert [loaded.ids(w) for w in range(run.n_windows)] == [
        run.ids(w) for w in range(run.n_windows)
    ]
    names = {"exemplars.json", "windows.safetensors"}
    assert {path.name for path in folder.iterdir()} == names | {
        "layer-001.safetensors",
        "layer-003.safetensors",
    }


def test_the_same_call_reads_what_it_wrote(saved, lab, monkeypatch):
    run, folder = saved
    model, tokenizer, texts = lab
    monkeypatch.setattr(runner.Pass, "run", None)  # nothing may run
    again = al.neurons.exemplars(model, tokenizer, texts, layers=[1, 3], out=folder, **SETTINGS)
    same(run, again)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"top": 4}, "holds another run .top is 3, not 4."),
        ({"seed": 1}, "seed is 0, not 1"),
        ({"layers": [1]}, "layers is"),
    ],
)
def test_a_folder_of_another_run_is_refused(saved, lab, change, match):
    model, tokenizer, texts = lab
    settings = {"layers": [1, 3], **SETTINGS, **change}
    with pytest.raises(al.errors.OtherRun, match=match):
        al.neurons.exemplars(model, tokenizer, texts, out=saved[1], **settings)


def test_a_folder_of_other_texts_is_refused(saved, lab):
    model, tokenizer, texts = lab
    changed = [*texts[1:], texts[0]]
    with pytest.raises(al.errors.OtherRun, match="holds"):
        al.neurons.exemplars(model, tokenizer, changed, layers=[1, 3], out=saved[1], **SETTINGS)


def test_a_folder_of_other_files_is_refused(lab, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(al.errors.FileError, match=r"holds other files, e\.g\. thesis\.tex"):
        al.neurons.exemplars(lab[0], lab[1], lab[2], out=tmp_path, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_values_refuse_another_model(saved, lab):
    run, _ = saved
    other, _ = al.load("demo")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(al.errors.OtherRun, match="of another model than demo"):
        run.values(other, 1, 0, [0])
    assert len(run.values(lab[0], 1, 0, [0])) == 1
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.copy_(lab[0].model.layers[0].mlp.up_proj.weight)
    assert len(run.values(other, 1, 0, [0])) == 1  # the same weights again


# ---------------------------------------------------------------------- changed files


def flip(name: str) -> Any:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-5] ^= 1
        (folder / name).write_bytes(content)

    return change


def said(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        content = json.loads((folder / files.FILE).read_text())
        for path, value in changes.items():
            part = content
            *before, last = path.split("__")
            for key in before:
                part = part[key]
            part[last] = value
        (folder / files.FILE).write_text(json.dumps(content))

    return change


def tensor(file: str, name: str, make: Any) -> Any:
    """A changed tensor whose file has the right checksum all the same."""

    def change(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / file)
        tensors[name] = make(tensors[name].clone())
        content = json.loads((folder / files.FILE).read_text())
        content["sha256"][file] = files._write(folder / file, tensors)
        (folder / files.FILE).write_text(json.dumps(content))

    return change


LAYER = "layer-003.safetensors"
CHANGES = {
    "a byte of a layer": flip(LAYER),
    "a byte of the windows": flip("windows.safetensors"),
    "a layer is missing": lambda folder: (folder / LAYER).unlink(),
    "a layer is no safetensors": lambda folder: (folder / LAYER).write_bytes(b"{}"),
    "no JSON": lambda folder: (folder / files.FILE).write_text("{"),
    "a JSON list": lambda folder: (folder / files.FILE).write_text("[]"),
    "deep JSON": lambda folder: (folder / files.FILE).write_text("[" * 10**5),
    "another format": said(format="arcee_lab.statistics"),
    "no facts": said(facts=None),
    "a negative width": said(facts__d_mlp=-1),
    "a huge width": said(facts__d_mlp=10**15),
    "a layer twice": said(facts__layers=[1, 1]),
    "layers out of the folder": said(facts__layers=[1, 7]),
    "a dtype that is none": said(facts__dtype="int4"),
    "more tokens": said(facts__n_tokens=10**6),
    "more windows": said(facts__n_windows=10**6),
    "another context": said(facts__context=23),
    "no domain": said(domains=[]),
    "a pad id that is a text": said(pad_id="0"),
    "windows out of range": tensor(LAYER, "top_windows", lambda x: x + 10**6),
    "positions out of range": tensor(LAYER, "top_positions", lambda x: x + 1000),
    "values without windows": tensor(LAYER, "drawn_values", lambda x: x + 1),
    "NaN": tensor(LAYER, "top_values", lambda x: x * torch.nan),
    "counts above N": tensor(LAYER, "fired", lambda x: x + 10**6),
    "counts below 0": tensor(LAYER, "histogram", lambda x: x - 1),
    "fewer neurons": tensor(LAYER, "fired", lambda x: x[1:]),
    "another dtype": tensor(LAYER, "fired", lambda x: x.int()),
    "bounds that fall": tensor("windows.safetensors", "bounds", lambda x: x.flip(0)),
    "a pool out of range": tensor("windows.safetensors", "pool", lambda x: x + 10**6),
    "negative ids": tensor("windows.safetensors", "ids", lambda x: -x - 1),
    "domains without names": tensor("windows.safetensors", "domains", lambda x: x + 1),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_changed_run_is_refused(saved, tmp_path, name):
    folder = tmp_path / "copy"
    shutil.copytree(saved[1], folder)
    CHANGES[name](folder)
    with pytest.raises(al.errors.SavedDamaged, match="damaged or was changed") as refused:
        al.neurons.Exemplars.load(folder).top(3, 0)
    assert str(refused.value).endswith(".")


def test_a_run_of_a_later_release_is_refused(saved, tmp_path):
    shutil.copytree(saved[1], tmp_path / "copy")
    said(version=99)(tmp_path / "copy")
    with pytest.raises(al.errors.OtherRun, match="states the version 99"):
        al.neurons.Exemplars.load(tmp_path / "copy")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(al.errors.SavedDamaged, match=r"exemplars\.json is missing"):
        al.neurons.Exemplars.load(tmp_path)


# ---------------------------------------------------------------------- bad calls


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"top": 0}, "top is 0; expected a whole number from 1"),
        ({"top": -3}, "top is -3"),
        ({"top": True}, "top is True"),
        ({"per_stratum": 0}, "per_stratum is 0"),
        ({"strata": 0}, "strata is 0"),
        ({"strata": 32}, "strata is 32; expected a whole number from 1 to 31"),
        ({"negatives": -1}, "negatives is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"layers": 4}, "layer 4; expected whole numbers from 0 to 3"),
        ({"layers": [0, -1]}, "layer -1"),
        ({"layers": []}, "layers is empty"),
        ({"context": 1}, "context is 1 tokens; expected at least 2"),
        ({"context": 10**6}, "the model reads"),
        ({"max_tokens": 10**6}, "the texts hold"),
        ({"role": "user"}, "needs the tokenizer's chat template"),
        ({"texts": []}, "hold no token"),
        ({"texts": [" "]}, "hold no token"),
        ({"texts": {}}, "holds no domain"),
        ({"texts": "one"}, "texts is one string"),
        ({"out": "s3://bucket/x"}, "is a URL"),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(lab, settings, match):
    model, tokenizer, texts = lab
    given = {**SETTINGS, **settings}
    with pytest.raises(al.errors.ArceeLabError, match=match) as refused:
        al.neurons.exemplars(model, tokenizer, given.pop("texts", texts), **given)
    assert str(refused.value).endswith(".")


def test_values_of_another_type_are_named(run_clean):
    """Outside of the shape checks of the tests, which refuse these before the call does."""
    said = run_clean(
        """
        import arcee_lab as al
        model, tokenizer = al.load("demo")
        texts = ["The dogs sleep ."]
        run = al.neurons.exemplars(model, tokenizer, texts)
        exemplars = al.neurons.exemplars
        for call in (
            lambda: exemplars(model, tokenizer, texts, top=2.0),
            lambda: exemplars(model, tokenizer, texts, layers="all"),
            lambda: exemplars(model, tokenizer, texts, layers=1.5),
            lambda: exemplars(model, tokenizer, [3]),
            lambda: exemplars(model, tokenizer, texts, role=3),
            lambda: run.negatives(1, 2.0),
        ):
            try:
                call()
            except al.errors.ArceeLabError as error:
                print(error)
        """
    )
    wanted = ("top is 2.0", "layer 'a'", "layer 1.5", "document 0 is int", "role is 3", "unit 2.0")
    lines = said.splitlines()
    assert len(lines) == len(wanted)
    for line, words in zip(lines, wanted, strict=True):
        assert words in line
        assert line.endswith(".")


def test_huge_numbers_keep_no_more_than_there_are_windows(lab):
    model, tokenizer, texts = lab
    most = {"top": 10**12, "per_stratum": 10**12, "negatives": 10**12}
    run = al.neurons.exemplars(model, tokenizer, texts, layers=0, progress=False, **most)
    unit = int(run.fired(0).argmax())
    assert len(run.top(0, unit)) == int(run.histogram(0, unit)[1].sum())
    assert sum(map(len, run.stratified(0, unit))) == len(run.top(0, unit))


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda run: run.top(0, 0), "layer 0 is not in this run; expected one of 1, 3"),
        (lambda run: run.rates(7), "layer 7"),
        (lambda run: run.top(1, -1), "unit -1 is out of range; expected a neuron from 0 to 895"),
        (lambda run: run.histogram(1, 896), "unit 896"),
        (lambda run: run.ids(-1), "window -1 is out of range"),
        (lambda run: run.domain(10**6), "window 1000000"),
    ],
)
def test_what_is_not_in_a_run_is_named(saved, ask, match):
    with pytest.raises(al.errors.SettingError, match=match):
        ask(saved[0])


def test_a_neuron_that_never_fires_has_empty_lists(saved):
    run, _ = saved
    dead = int((run.fired(1) == 0).nonzero()[0])
    assert run.top(1, dead) == ()
    assert run.stratified(1, dead) == ((),) * 10
    assert run.negatives(1, dead) == ()
    assert float(run.maxima(1)[dead]) == 0
    assert run.histogram(1, dead)[1].sum() == 0


def test_nan_activations_are_refused(lab):
    model, _ = al.load("demo")
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(al.errors.ModelError, match=r"layers\.2\.mlp hold NaN"):
        al.neurons.exemplars(model, lab[1], lab[2], progress=False)


# ---------------------------------------------------------------------- interrupted


def test_an_interrupted_run_goes_on_where_it_was(lab, saved, tmp_path, monkeypatch):
    model, tokenizer, texts = lab
    monkeypatch.setattr(runner, "_SAVE_EVERY", 0)
    settings = {"layers": [1, 3], "out": tmp_path / "run", "progress": False, **SETTINGS}
    with pressing(model, 3), pytest.raises(al.errors.Interrupted) as stopped:
        al.neurons.exemplars(model, tokenizer, texts, **settings)
    assert re.search(r"stopped after 3 of \d+ forward passes.*resumes from", str(stopped.value))
    partial = stopped.value.partial
    assert partial.n_windows == 12
    assert not (tmp_path / "run" / files.FILE).exists()
    forwards = []
    handle = model.model.layers[0].register_forward_hook(lambda *_: forwards.append(1))
    run = al.neurons.exemplars(model, tokenizer, texts, **settings)
    handle.remove()
    same(run, saved[0])
    assert len(forwards) == -(-run.n_windows // 4) - 3
    assert not list((tmp_path / "run").glob("resume*"))
    same(al.neurons.Exemplars.load(tmp_path / "run"), run)


def test_an_interrupted_run_without_a_folder_gives_what_is_read(lab):
    model, tokenizer, texts = lab
    with pressing(model, 2), pytest.raises(al.errors.Interrupted, match="Give out=DIR") as stopped:
        al.neurons.exemplars(model, tokenizer, texts, progress=False, **SETTINGS)
    partial = stopped.value.partial
    assert partial.n_windows == 8
    # Windows of the pool that were not read are not said to be silent.
    short = sorted(range(len(partial.corpus.windows)), key=lambda w: (len(partial.ids(w)), w))[:8]
    for unit in range(0, partial.d_mlp, 40):
        assert set(partial.negatives(1, unit)) <= set(short)


def changed(path: Path, change: Any) -> None:
    """A state with changed content and a checksum that is right all the same."""
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    run = about.pop("run")
    change(run, about, tensors)
    saved_state.write(path, run, about, tensors)


WRONG = {
    "done is one more": (lambda run, about, x: about.update(done=3), "is damaged"),
    "done is negative": (lambda run, about, x: about.update(done=-1), "is damaged"),
    "done is a text": (lambda run, about, x: about.update(done="2"), "is damaged"),
    "a layer is missing": (
        lambda run, about, x: [x.pop(name) for name in list(x) if name.startswith("3/")],
        "is damaged",
    ),
    "a tensor is missing": (lambda run, about, x: x.pop("1/fired"), "is damaged"),
    "windows out of range": (lambda run, about, x: x["1/top_windows"].add_(10**6), "is damaged"),
    "other weights": (lambda run, about, x: run.update(weights="0"), "saved by another run"),
    "another seed": (lambda run, about, x: run.update(seed=5), "saved by another run"),
}


def test_a_state_that_cannot_be_is_refused(lab, tmp_path, monkeypatch):
    model, tokenizer, texts = lab
    monkeypatch.setattr(runner, "_SAVE_EVERY", 0)
    folder = tmp_path / "run"
    settings = {"layers": [1, 3], "out": folder, "progress": False, **SETTINGS}
    with pressing(model, 2), pytest.raises(al.errors.Interrupted):
        al.neurons.exemplars(model, tokenizer, texts, **settings)
    state = folder / "resume-0.safetensors"
    kept = state.read_bytes()
    for name, (change, match) in WRONG.items():
        state.write_bytes(kept)
        changed(state, change)
        with pytest.raises(al.errors.FileError, match=match):
            al.neurons.exemplars(model, tokenizer, texts, **settings)
        assert state.exists(), name
    state.write_bytes(kept[:-7])
    with pytest.raises(al.errors.SavedDamaged, match="remove it and the run starts anew"):
        al.neurons.exemplars(model, tokenizer, texts, **settings)
