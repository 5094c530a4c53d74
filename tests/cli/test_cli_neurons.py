"""`arcee-lab neurons`: what it prints, writes, continues and refuses."""

import json
import os
import subprocess
import sys

import pytest
import torch

import arcee_lab as al
from arcee_lab.cli import main
from arcee_lab.errors import Interrupted
from arcee_lab.neurons.reading import runner

SMALL = ["--world", "story", "--max-tokens", "900", "--batch-size", "4", "--layers", "0", "2"]


def neurons(folder, *more):
    return main(["neurons", "demo", *map(str, more or SMALL), "--out", str(folder)])


def same(one, two):
    assert one.facts == two.facts
    for layer in one.layers:
        for name, x in one.states[layer].items():
            assert torch.equal(x, two.states[layer][name]), name


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neurons") / "out"
    assert neurons(folder) == 0
    return folder


def test_writes_what_python_finds(written, tmp_path, capsys):
    model, tokenizer = al.load("demo")
    source = al.demo.stream("story", seed=0, split="test")
    run = al.neurons.exemplars(
        model, tokenizer, (one.text for one in source), layers=[0, 2], max_tokens=900, batch_size=4
    )
    same(al.neurons.Exemplars.load(written), run)
    assert neurons(tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "demo: 900 tokens in" in said.out
    assert "what is kept takes" in said.out
    assert run.headline in said.out
    assert f"al.neurons.Exemplars.load('{tmp_path / 'out'}')" in said.out
    assert "tok/s" in said.err
    assert {path.name for path in written.iterdir()} == {
        "run.json",
        "exemplars.json",
        "windows.safetensors",
        "layer-000.safetensors",
        "layer-002.safetensors",
    }


def test_domains_are_kept_by_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"The dogs near the {name} sleep .")
    domains = [f"{name}={tmp_path / name}.txt" for name in ("a", "b")]
    assert neurons(tmp_path / "out", "--domains", *domains) == 0
    run = al.neurons.Exemplars.load(tmp_path / "out")
    assert [run.domain(window) for window in range(run.n_windows)] == ["a", "b"]


def test_an_interrupted_command_goes_on(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "_SAVE_EVERY", 0)
    forwards, whole = runner.Pass.forwards, len(list(written.iterdir()))

    def stopping(self, chosen):
        for number, forward in enumerate(forwards(self, chosen)):
            if number == 2 and len(chosen) > 2:
                raise KeyboardInterrupt
            yield forward

    monkeypatch.setattr(runner.Pass, "forwards", stopping)
    assert neurons(tmp_path / "out") == 130
    assert "stopped after 2 of" in capsys.readouterr().err
    assert (tmp_path / "out" / "resume-0.safetensors").is_file()
    monkeypatch.setattr(runner.Pass, "forwards", forwards)
    assert neurons(tmp_path / "out") == 0
    same(al.neurons.Exemplars.load(tmp_path / "out"), al.neurons.Exemplars.load(written))
    assert len(list((tmp_path / "out").iterdir())) == whole
    assert issubclass(Interrupted, KeyboardInterrupt)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--world", "story", "--top", "3"], "holds another run"),
        (["--world", "story", "--role", "user"], "holds another run"),
        ([], "expected one of --text, --dataset, --world, --domains"),
    ],
)
def test_another_run_in_the_folder_is_refused(written, words, match, capsys):
    assert main(["neurons", "demo", *words, "--out", str(written)]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--world", "story", "--layers", "4"], "layer 4; expected"),
        (["--world", "story", "--strata", "99"], "strata is 99"),
        (["--world", "story", "--context", "1000000"], "the model reads"),
        (["--world", "story", "--role", "user"], "chat template"),
        (["--text", "/nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line_and_claims_no_folder(tmp_path, words, match, capsys):
    assert main(["neurons", "demo", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert said.startswith("arcee-lab: error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--top", "0"], ["--top", "x"], ["--negatives", "-1"]])
def test_bad_flags_are_one_line(tmp_path, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        neurons(tmp_path / "out", "--world", "story", *words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_two_ranks_write_what_one_writes(written, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "arcee_lab", "neurons", "demo", *SMALL]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same(al.neurons.Exemplars.load(tmp_path / "out"), al.neurons.Exemplars.load(written))
    folders = (written, tmp_path / "out")
    one, two = (json.loads((folder / "exemplars.json").read_text()) for folder in folders)
    assert one == two
    assert not list((tmp_path / "out").glob("resume*"))
