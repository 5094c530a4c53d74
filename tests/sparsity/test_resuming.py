"""A measurement that is stopped goes on with equal numbers; a state that cannot be is refused."""

import json
import os
import random
import re
import signal
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from dense import Letters, activations, pair, plant
from full_disk import fill_at_every_write

from arcee_lab.errors import Interrupted, OtherRun

TEXTS = [
    "".join(chr(ord("a") + (3 * number + place * (1 + number % 4)) % 8) for place in range(length))
    for number, length in enumerate([5, 17, 2, 9, 30, 1, 12, 7, 23, 3, 14, 8])
]
SETTINGS = {"sample_every": 2, "batch_size": 2, "context": 16}
STAGES = ("cett", "cett_ppl", "truncation")


@pytest.fixture(scope="module")
def models():
    return plant(*pair(d_mlp=40, bias=True))


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    """A state in which 4 of the forwards are done: its file, and the report of a whole run."""
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.streamed import runner

    file = tmp_path_factory.mktemp("saved") / "state.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_SAVE_EVERY", 0)
        with interrupting(models[0], forward=4), pytest.raises(Interrupted):
            measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)
    return file, measure(models[0], Letters(), TEXTS, **SETTINGS)


class interrupting:
    """Within the block, Ctrl-C is pressed during the n-th forward, at its last layer."""

    def __init__(self, model, *, forward, times=1):
        self.left, self.times = forward, times
        self.handle = model.model.layers[-1].register_forward_hook(self)

    def __call__(self, module, args, out):
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.handle.remove()


def same(one, two):
    assert set(one.states) == set(two.states)
    for name, state in one.states.items():
        for key, tensor in state.items():
            assert torch.equal(tensor, two.states[name][key]), (name, key)
    facts = ("n_tokens", "n_first", "n_sampled", "n_documents", "n_windows", "label")
    for name in facts:
        assert getattr(one, name) == getattr(two, name), name


# ---------------------------------------------------------------------- states that cannot be


def rewritten(source, target, change):
    """A state with changed content and a checksum that is right all the same."""
    from arcee_lab.sparsity.streamed import resume_files

    with safetensors.safe_open(source, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    run = about.pop("run")
    change(about, tensors)
    resume_files.write(target, run, about, tensors)


def setting(name, value):
    return lambda about, tensors: about.update({name: value})


def adding(name, amount, at=0):
    def change(about, tensors):
        tensors[name].view(-1)[at] += amount

    return change


def replacing(name, make):
    def change(about, tensors):
        tensors[name] = make(tensors[name])

    return change


WRONG = {
    "done is negative": setting("done", -1),
    "done is too large": setting("done", 10**6),
    "done is one more than is counted": setting("done", 5),
    "done is one less than is counted": setting("done", 3),
    "done is none": setting("done", 0),
    "done is a text": setting("done", "4"),
    "done is a fraction": setting("done", 4.0),
    "done is true": setting("done", True),
    "done is missing": lambda about, tensors: about.pop("done"),
    "costs are missing": lambda about, tensors: about.pop("costs"),
    "a cost is missing": lambda about, tensors: about["costs"].pop("core"),
    "a cost is negative": lambda about, tensors: about["costs"].update({"core": -1.0}),
    "a cost is NaN": lambda about, tensors: about["costs"].update({"core": float("nan")}),
    "a tensor is missing": lambda about, tensors: tensors.pop("unions/kept_masks"),
    "a tensor is unknown": lambda about, tensors: tensors.update({"core/x": torch.zeros(1)}),
    "a tensor is too short": replacing("core/fired", lambda x: x[:, 1:]),
    "a tensor has an axis more": replacing("core/active", lambda x: x[None]),
    "a tensor is of floats": replacing("core/fired", lambda x: x.double()),
    "N is larger": adding("core/tokens", 1),
    "N is negative": replacing("core/tokens", lambda x: -x),
    "first positions are more": adding("core/first", 1),
    "a neuron fired once more": adding("core/fired", 1),
    "a neuron fired too often": adding("core/fired", 10**6),
    "a neuron fired at too many first positions": adding("core/fired_first", 10**6),
    "a token has other active neurons": adding("core/active", 1),
    "a size is counted once more": adding("core/sized", 1),
    "a position is counted once more": adding("core/position_tokens", 1),
    "a position fires once more": adding("core/position_active", 1),
    "an id is counted once more": adding("core/id_tokens", 1, at=5),
    "an id fires once more": adding("core/id_active", 1, at=5),
    "a product is larger": adding("core/products", 1),
    "products are not alike both ways": adding("core/products", 1, at=1),
    "the largest value is NaN": replacing("core/max_post", lambda x: x * torch.nan),
    "a kept id is no token": adding("core/kept_ids", 1000),
    "a kept position is too far": adding("core/kept_positions", 1000),
    "a kept count is too large": adding("core/kept_active", 1000),
    "a mean counts too many windows": adding("overlap/jaccard_windows", 1000),
    "a mean counts a negative number": adding("overlap/jaccard_n", -(2**60)),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_state_that_cannot_be_is_refused(models, saved, tmp_path, change):
    from arcee_lab.sparsity import measure

    file = tmp_path / "state.safetensors"
    rewritten(saved[0], file, change)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="is damaged; remove it and the run starts again") as error:
        measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == before


def test_an_unchanged_state_goes_on(models, saved, tmp_path):
    from arcee_lab.sparsity import measure

    file = tmp_path / "state.safetensors"
    rewritten(saved[0], file, lambda about, tensors: None)
    same(measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS), saved[1])
    assert not file.exists()


@pytest.mark.parametrize(
    ("version", "writer"),
    [(None, "arcee_lab 0.1"), (3, "arcee_lab 0.1"), (6, "a later release of arcee_lab")],
)
def test_a_state_of_another_release_is_refused(models, saved, tmp_path, version, writer):
    """States of 0.1 state no version."""
    from arcee_lab.sparsity import measure

    def change(about, tensors):
        about["version"] = version

    file = tmp_path / "state.safetensors"
    rewritten(saved[0], file, change)
    with pytest.raises(OtherRun) as refused:
        measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)
    assert str(refused.value) == (
        f"{file} was written by {writer}, and this release cannot resume from it; remove it and "
        "measure again."
    )


def test_a_changed_byte_anywhere_is_refused(models, saved, tmp_path):
    """Also in counts whose sums nothing checks."""
    from arcee_lab.sparsity import measure

    file, content = tmp_path / "state.safetensors", saved[0].read_bytes()
    places = random.Random(0)
    for _ in range(25):
        at = places.randrange(len(content))
        changed = bytearray(content)
        changed[at] ^= 1 << places.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"is damaged; remove it|was saved by another run"):
            measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)
    for part in (b"", content[: len(content) // 2], b"{}" * 50):
        file.write_bytes(part)
        with pytest.raises(ValueError, match="is damaged; remove it"):
            measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)


def test_other_weights_texts_and_batches_are_another_run(models, saved):
    from arcee_lab.sparsity import measure

    file = saved[0]
    other = plant(*pair(d_mlp=40, bias=True), seed=1)[0]
    cases = [
        (other, TEXTS, SETTINGS, "weights"),
        (models[0], [TEXTS[1], TEXTS[0], *TEXTS[2:]], SETTINGS, "text"),
        # As many forwards, but of other windows.
        (models[0], [*TEXTS[:-1], TEXTS[-1][::-1]], SETTINGS, "text"),
        (models[0], TEXTS, SETTINGS | {"batch_size": 3}, "forwards"),
        (models[0], TEXTS, SETTINGS | {"analyses": ["core"]}, "analyses"),
    ]
    for model, texts, settings, what in cases:
        with pytest.raises(ValueError, match=f"was saved by another run: its {what} is"):
            measure(model, Letters(), texts, resume=file, **settings)


# ---------------------------------------------------------------------- Ctrl-C in the pass


def test_an_interrupt_keeps_what_was_counted(models, caplog):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.job import plan_pass
    from arcee_lab.sparsity.registry import chosen

    ours, reference = models
    windows = cut(Letters(), TEXTS, context=16)
    batches = plan_pass(ours, windows, chosen(["all"]), sample_every=2, batch_size=2).plan.batches
    before = signal.getsignal(signal.SIGINT)
    with interrupting(ours, forward=3), pytest.raises(Interrupted) as stopped:
        measure(ours, Letters(), windows, sample_every=2, batch_size=2)
    assert signal.getsignal(signal.SIGINT) is before
    assert isinstance(stopped.value, KeyboardInterrupt)
    said = str(stopped.value)
    assert f"stopped after 3 of {len(batches)} forward passes; .partial is their report." in said
    assert "Give resume=FILE" in said
    assert stopped.value._render_traceback_() == [f"Interrupted: {said}"]
    assert "finishing the current forward; Ctrl-C again stops at once" in caplog.text
    partial = stopped.value.partial
    rows = [row for rows, _ in batches[:3] for row in rows]
    post = [activations(reference, windows[row])[:, 1:] for row in rows]
    fired = np.concatenate(post, axis=1) > 0
    assert partial.n_tokens == fired.shape[1] == partial.active.sum(1)[0]
    assert np.array_equal(partial.fired, fired.sum(1))
    assert partial.n_windows == partial.n_first == len(rows)
    assert partial.n_sampled == partial.n_tokens  # sampled windows are read first
    assert partial.n_documents == len(set(windows.documents[rows].tolist()))
    whole = windows.n_tokens - len(windows)
    assert partial.label == f"{partial.n_tokens} of {whole} tokens"
    assert len(partial.frames["tokens"]) == partial.n_tokens
    assert np.array_equal(np.sort(partial.frames["tokens"]["layer_0"]), np.sort(fired.sum(2)[0]))
    assert len(partial.results["unions"].masks) == len(rows)
    for name in partial.results:
        assert len(partial.frames[name]) > 0
    assert f"{partial.n_tokens} of {whole} tokens" in partial._repr_html_()


def test_an_interrupted_measurement_goes_on(models, saved, tmp_path):
    from arcee_lab.sparsity import measure

    file = tmp_path / "state.safetensors"
    done = []
    for forward in (1, 3, 2):
        with interrupting(models[0], forward=forward), pytest.raises(Interrupted) as stopped:
            measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)
        assert f"resumes from what {file} holds" in str(stopped.value)
        done.append(stopped.value.partial.n_windows)
    assert done == sorted(set(done))
    same(measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS), saved[1])
    assert list(tmp_path.iterdir()) == []


def test_a_second_interrupt_stops_within_the_forward(models, saved, tmp_path):
    from arcee_lab.sparsity import measure

    file = tmp_path / "state.safetensors"
    with interrupting(models[0], forward=2, times=2), pytest.raises(Interrupted) as stopped:
        measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)
    assert stopped.value.partial is None
    assert f"Nothing was saved to {file} yet" in str(stopped.value)
    same(measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS), saved[1])


def test_seconds_count_what_was_done_before_the_interrupt(models, tmp_path, monkeypatch):
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.streamed import runner

    forward = runner.Pass._forward

    def slow(self, job):
        time.sleep(0.05)
        forward(self, job)

    monkeypatch.setattr(runner.Pass, "_forward", slow)
    file = tmp_path / "state.safetensors"
    with interrupting(models[0], forward=4), pytest.raises(Interrupted):
        measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)
    report = measure(models[0], Letters(), TEXTS, resume=file, **SETTINGS)
    forwards = -(-report.n_windows // 2)
    assert report.seconds == report.costs["pass"] >= 0.05 * forwards


# ---------------------------------------------------------------------- the stages after it


@pytest.fixture
def counted(monkeypatch):
    """The stages with counters: which ran, and in which one an error is raised.

    They try few levels: what is tested is what is kept of them.
    """
    monkeypatch.setattr(import_module("arcee_lab.sparsity.sampled.cett_perplexity"), "STEPS", 2)
    truncation = import_module("arcee_lab.sparsity.sampled.truncation")
    for name in ("_OF_ACTIVE", "_SHARES_OF_SUM", "_CETT"):
        monkeypatch.setattr(truncation, name, getattr(truncation, name)[:2])
    from arcee_lab.sparsity import registry
    from arcee_lab.sparsity.streamed import runner

    seen = {"ran": [], "fails": None, "error": RuntimeError}
    further, forward = registry.further, runner.Pass._forward

    def watched(name):
        def analysis(*args, **settings):
            if name == seen["fails"]:
                raise seen["error"](name)
            seen["ran"].append(name)
            return further(name)(*args, **settings)

        return analysis

    def seen_forward(self, job):
        seen["ran"].append("forward")
        forward(self, job)

    monkeypatch.setattr(registry, "further", watched)
    monkeypatch.setattr(runner.Pass, "_forward", seen_forward)
    return seen


@pytest.mark.parametrize("place", range(3))
def test_a_stage_that_fails_loses_none_before_it(models, tmp_path, counted, place):
    from arcee_lab.sparsity import measure

    file, texts = tmp_path / "state.safetensors", TEXTS[:3]
    settings = {"batch_size": 8, "context": 32, "analyses": ["overlap", "further"]}
    whole = measure(models[0], Letters(), texts, **settings)
    counted["ran"].clear()
    counted["fails"] = STAGES[place]
    with pytest.raises(RuntimeError, match=STAGES[place]):
        measure(models[0], Letters(), texts, resume=file, **settings)
    assert counted["ran"][-(place + 1) :] == ["forward", *STAGES[:place]]
    counted["ran"].clear()
    counted["fails"] = None
    report = measure(models[0], Letters(), texts, resume=file, **settings)
    assert counted["ran"] == list(STAGES[place:])
    same(report, whole)
    assert tuple(report.further) == STAGES
    for name in STAGES:
        pd.testing.assert_frame_equal(report.frames[name], whole.frames[name], check_exact=True)
        assert report.costs[name] > 0
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_stage_leaves_a_report_of_those_before_it(models, tmp_path, counted):
    from arcee_lab.sparsity import measure

    counted |= {"fails": "cett_ppl", "error": KeyboardInterrupt}
    settings = SETTINGS | {"analyses": ["core", "further"]}
    with pytest.raises(Interrupted, match="stopped in cett_ppl; done: the pass, cett, of") as stop:
        measure(models[0], Letters(), TEXTS, **settings)
    partial = stop.value.partial
    assert tuple(partial.further) == ("cett",)
    assert set(partial.costs) == {"pass", "core", "cett"}
    same(partial, measure(models[0], Letters(), TEXTS, **SETTINGS | {"analyses": ["core"]}))


FURTHER_WRONG = {
    "a result is missing an array": lambda about, t: t.pop("cett/eps"),
    "an array is too short": replacing("cett/eps", lambda x: x[:1]),
    "an array is of integers": replacing("cett/error", lambda x: x.long()),
    "layers differ from field to field": replacing("cett/active", lambda x: x[:1]),
    "a count is negative": replacing("cett/dropped", lambda x: -x - 1),
    "N is negative": lambda about, t: about["results"]["cett"]["fields"].update({"n_tokens": -5}),
    "N is a text": lambda about, t: about["results"]["cett"]["fields"].update({"n_tokens": "5"}),
    "the class is another": lambda about, t: about["results"]["cett"].update({"class": "Popen"}),
    "a result is a number": lambda about, t: about["results"].update({"cett": 3}),
    "costs lack it": lambda about, t: about["costs"].clear(),
    "there are no results": lambda about, t: about.pop("results"),
}


@pytest.fixture(scope="module")
def further_saved(models, tmp_path_factory):
    """The folder of a run that was interrupted after CETT."""
    from arcee_lab.sparsity import measure, registry

    folder = tmp_path_factory.mktemp("further")
    further = registry.further

    def stops(*args, **settings):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "further", lambda name: further(name) if name == "cett" else stops)
        with pytest.raises(Interrupted):
            measure(
                models[0], Letters(), TEXTS, analyses=["cett", "truncation"],
                resume=folder / "state.safetensors", batch_size=2, context=16,
            )  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {
        "state.safetensors",
        "state-further.safetensors",
    }
    return folder


def test_results_of_another_seed_are_refused(models, further_saved, tmp_path):
    from arcee_lab.sparsity import measure

    for path in further_saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(OtherRun, match="its seed is 0, not 1"):
        measure(
            models[0], Letters(), TEXTS, analyses=["cett", "truncation"], seed=1,
            resume=tmp_path / "state.safetensors", batch_size=2, context=16,
        )  # fmt: skip


@pytest.mark.parametrize("change", FURTHER_WRONG.values(), ids=FURTHER_WRONG.keys())
def test_a_result_that_cannot_be_is_refused(models, further_saved, tmp_path, change):
    from arcee_lab.sparsity import measure

    for path in further_saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rewritten(further_saved / "state-further.safetensors", tmp_path / "state-further.safetensors",
              change)  # fmt: skip
    with pytest.raises(ValueError, match=r"state-further.safetensors is damaged; remove it and"):
        measure(
            models[0], Letters(), TEXTS, analyses=["cett", "truncation"],
            resume=tmp_path / "state.safetensors", batch_size=2, context=16,
        )  # fmt: skip


# ---------------------------------------------------------------------- reports that were saved


@pytest.fixture(scope="module")
def reported(models, tmp_path_factory):
    from arcee_lab.sparsity import measure
    from arcee_lab.views.figures import figure

    folder = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "png", lambda *args, **kwargs: b"")
        measure(models[0], Letters(), TEXTS, analyses=["all", "cett"], **SETTINGS).save(folder)
    return folder


COUNTS_WRONG = {
    name: change
    for name, change in WRONG.items()
    if not name.startswith(("done", "cost", "a cost", "first positions are more"))
} | {"norms are negative": replacing("norms", lambda x: -x)}
FACTS_WRONG = {
    "n_windows": (0, -1, "7", 1.5, True, None),
    "sample_every": (0, -8, "2"),
    "stride": (0, None),
    "n_sampled": (-1, 10**9, "3"),
    "n_documents": (-1, "x"),
    "seconds": (0, -1.0, "1", None),
    "label": (3, None),
    "costs": ({}, [], {"pass": -1}, "x"),
    "weights": ({}, {"total": 1}, None),
}


@pytest.mark.parametrize("change", COUNTS_WRONG.values(), ids=COUNTS_WRONG.keys())
def test_a_saved_report_whose_counts_cannot_be_is_refused(reported, tmp_path, change):
    from arcee_lab.sparsity import SparsityReport

    for name in ("report.json", "further.safetensors"):
        (tmp_path / name).write_bytes((reported / name).read_bytes())
    tensors = safetensors.torch.load_file(reported / "counts.safetensors")
    change({}, tensors)
    tensors = {name: x.contiguous() for name, x in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "counts.safetensors")
    with pytest.raises(ValueError, match=r"counts.safetensors is damaged: .*; measure again"):
        SparsityReport.load(tmp_path)


@pytest.mark.parametrize("name", FACTS_WRONG)
def test_a_saved_report_whose_facts_cannot_be_is_refused(reported, tmp_path, name):
    from arcee_lab.sparsity import SparsityReport

    for other in ("counts.safetensors", "further.safetensors"):
        (tmp_path / other).write_bytes((reported / other).read_bytes())
    facts = json.loads((reported / "report.json").read_text())
    for value in FACTS_WRONG[name]:
        (tmp_path / "report.json").write_text(json.dumps(facts | {name: value}))
        with pytest.raises(ValueError, match="is damaged"):
            SparsityReport.load(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(facts))
    assert SparsityReport.load(tmp_path).n_windows == facts["n_windows"]


# ---------------------------------------------------------------------- the command

TIMED = {"seconds", "tokens_per_second", "costs"}


def content(folder):
    """Every file of a run by its path; what tells times without them."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("summary.json", "report.json"):
            facts = json.loads(path.read_text())
            found[name] = {key: value for key, value in facts.items() if key not in TIMED}
        elif path.name == "costs.parquet":
            found[name] = pd.read_parquet(path)[["analysis", "n_tokens"]].to_dict()
        elif path.name == "report.html":
            found[name] = re.split(r"<h2>(?:a: )?The run</h2>", path.read_text())[0]
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on a short text, by its folder; pictures are one dot."""
    from arcee_lab.cli import main
    from arcee_lab.sparsity.report import html_page
    from arcee_lab.sparsity.streamed import runner
    from arcee_lab.views.figures import figure

    monkeypatch.setattr(figure, "png", lambda *args, **kwargs: b"\x89PNG\r\n")
    monkeypatch.setattr(html_page, "png", lambda *args, **kwargs: b"\x89PNG\r\n")
    monkeypatch.setattr(runner, "_SAVE_EVERY", 0)
    texts = {"a": "The dogs near the barn sleep .\n", "b": "A boat drifts past the wall .\n" * 3}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    words = ["sparsity", "demo", "--batch-size", "1"]

    def run(folder, *analyses, domains=False):
        files = [str(tmp_path / f"{name}.txt") for name in texts]
        source = [f"{name}={tmp_path / name}.txt" for name in texts]
        source = ["--domains", *source] if domains else ["--text", *files]
        return main([*words, *source, "--out", str(folder), "--analyses", *analyses])

    return run


@pytest.mark.parametrize("domains", [False, True])
def test_the_command_goes_on_from_every_stage(tmp_path, command, counted, monkeypatch, domains):
    from arcee_lab.sparsity.report import html_page, report_files

    analyses = ("overlap", "cett", "cett_ppl")
    assert command(tmp_path / "whole", *analyses, domains=domains) == 0
    whole = content(tmp_path / "whole")
    html, saved = html_page.report_html, report_files.result_files.save

    def fails(*args, **settings):
        raise RuntimeError("injected")

    out = tmp_path / "out"
    for stage in ("cett", "cett_ppl"):
        counted["fails"] = stage
        with pytest.raises(RuntimeError, match=stage):
            command(out, *analyses, domains=domains)
    counted["fails"] = None
    monkeypatch.setattr(report_files.result_files, "save", fails)
    with pytest.raises(RuntimeError, match="injected"):
        command(out, *analyses, domains=domains)
    monkeypatch.setattr(report_files.result_files, "save", saved)
    monkeypatch.setattr(html_page, "report_html", fails)
    counted["ran"].clear()
    with pytest.raises(RuntimeError, match="injected"):
        command(out, *analyses, domains=domains)
    # Of the second domain nothing was there yet.
    stages = [name for name in counted["ran"] if name != "forward"]
    assert stages == (["cett", "cett_ppl"] if domains else [])
    assert ("forward" in counted["ran"]) == domains
    monkeypatch.setattr(html_page, "report_html", html)
    counted["ran"].clear()
    assert command(out, *analyses, domains=domains) == 0
    assert counted["ran"] == []
    again = content(out)
    assert set(again) == set(whole)
    for name in whole:
        assert again[name] == whole[name], name


def test_the_command_says_how_to_go_on(tmp_path, command, demo, capsys, counted):
    counted |= {"fails": "cett", "error": KeyboardInterrupt}
    assert command(tmp_path / "out", "cett") == 130
    said = capsys.readouterr().err
    lines = [line for line in said.replace("\r", "\n").splitlines() if "arcee-lab: " in line]
    assert len(lines) == 1
    assert "stopped in cett; done: the pass" in lines[0]
    assert "The same call resumes from what" in lines[0]
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_twenty_random_kills_of_the_command(tmp_path, command, demo):
    """Killed at random moments, in the pass, in every stage and in what is written after them."""
    analyses = ("all", "further")
    out, whole = tmp_path / "out", tmp_path / "whole"
    began = time.monotonic()
    assert forked(partial(command, whole, *analyses), None) == 0
    seconds = time.monotonic() - began
    wanted, moments, kills, finished = content(whole), random.Random(1), 0, 0
    while kills < 20:
        work = partial(command, out, *analyses)
        code = forked(work, moments.uniform(0.05, 0.9) * seconds)
        kills += code == -signal.SIGKILL
        if code == 0:
            assert content(out) == wanted
            finished += 1
            out = tmp_path / f"out-{finished}"
    assert forked(partial(command, out, *analyses), None) == 0
    assert content(out) == wanted


@pytest.mark.slow
def test_a_full_disk_at_any_write_of_the_command(tmp_path, command, counted, monkeypatch, capsys):
    """Every write fails once; the same command continues, and ends with the undisturbed files."""
    import arcee_lab

    loaded = arcee_lab.load("demo")
    monkeypatch.setattr(arcee_lab, "load", lambda *args, **settings: loaded, raising=False)
    analyses = ("overlap", "cett")
    assert command(tmp_path / "whole", *analyses) == 0
    out = tmp_path / "out"

    def run():
        capsys.readouterr()
        if command(out, *analyses):
            (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
            raise ValueError(line)

    failed = fill_at_every_write(out, run)
    files = {Path(name).name for name, _ in failed}
    assert {"run.json", "report.json", "counts.safetensors", "report.html"} <= files
    assert any(name.startswith("resume-0") for name in files)
    assert content(out) == content(tmp_path / "whole")


def forked(work, after):
    """Runs `work` in a forked child, killed after some seconds; its exit code or minus a signal."""
    child = os.fork()
    if not child:
        try:
            os._exit(work())
        finally:
            os._exit(99)
    until = time.monotonic() + (600 if after is None else after)
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
