"""A full disk at any write: one line that names the file, and the same call makes the same bytes.

See `full_disk` for how a disk is full. A command ends with exit code 2 and that line.
"""

from importlib import import_module

import pytest
from full_disk import files_of, fill_at_every_write, full_disk

import arcee_lab as al
from arcee_lab.cli import main
from arcee_lab.errors import NotWritten
from arcee_lab.evals.tasks.find import find_tasks
from arcee_lab.runs import storage
from arcee_lab.training import Recipe, Stage, train
from arcee_lab.training.heads import HeadRecipe, fitting, read_labelled, resuming, train_head

TASKS = ["arcee_demo_agreement_0", "arcee_demo_sentiment"]


def once(function):
    """The function, computed once for each number among its arguments."""
    known = {}

    def called(*args):
        key = tuple(one for one in args if isinstance(one, int))
        if key not in known:
            known[key] = function(*args)
        return known[key]

    return called


@pytest.mark.parametrize(
    ("work", "writes"),
    [
        (lambda folder: storage.make_folder(folder / "a"), ["mkdir", "sync its folder"]),
        (
            lambda folder: storage.write_atomic(folder / "a", b"12"),
            ["write", "sync", "rename", "sync its folder"],
        ),
        (
            lambda folder: storage.write_atomic(folder / "a", lambda path: path.write_text("12")),
            ["mkdir", "write", "sync", "rename", "sync its folder"],
        ),
        (
            lambda folder: storage.claim(folder / "run", {"a": 1}),
            ["mkdir", "sync its folder", "write", "sync", "link", "sync its folder"],
        ),
        (
            lambda folder: storage.write_folder(folder / "a", lambda to: (to / "b").write_text("")),
            ["mkdir", "write", "sync", "mkdir", "sync its folder", "rename", "sync its folder"],
        ),
    ],
    ids=["make_folder", "bytes", "function", "claim", "write_folder"],
)
def test_every_step_of_a_write_may_fail(tmp_path, work, writes):
    """This also says that the helper sees each step: else the tests below would prove nothing."""
    for n in range(1, len(writes) + 2):
        folder = tmp_path / str(n)
        folder.mkdir()
        with full_disk(tmp_path, n) as disk:
            if n > len(writes):
                work(folder)
                assert not disk.fired
                return
            with pytest.raises(NotWritten, match=r"cannot be written: No space left on"):
                work(folder)
        assert not list(folder.rglob("*.part"))
        work(folder)  # nothing is in the way
        assert not list(folder.rglob("*.part"))


def test_a_run_is_claimed_whole_or_not_at_all(tmp_path):
    with full_disk(tmp_path, 3), pytest.raises(ValueError, match=r"run\.json cannot be written"):
        storage.claim(tmp_path / "run", {"a": 1})
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "run" / ".run.json.0123abcd.part").write_text("{")  # a kill leaves this
    storage.claim(tmp_path / "run", {"a": 1})
    with pytest.raises(ValueError, match="holds another run"):
        storage.claim(tmp_path / "run", {"a": 2})


def test_evaluations(tmp_path):
    lm = al.evals.ArceeLab("demo", device="cpu", batch_size=8)
    tasks = find_tasks(TASKS)

    def run(name="full"):
        lm.intervene(None)  # its counters begin anew, as in a process of its own
        al.evals.run(lm, tasks=tasks, limit=2, progress=False, out=tmp_path / name)

    run("whole")
    assert len(fill_at_every_write(tmp_path / "full", run)) > 20
    assert files_of(tmp_path / "full") == files_of(tmp_path / "whole")
    assert not (tmp_path / "full" / "unfinished").exists()


def test_training_the_demo(tmp_path, monkeypatch):
    from arcee_lab.demo import MIX
    from arcee_lab.training import loop
    from arcee_lab.training.export import export

    for name in ("build_tokenizer", "held_out", "read", "step_batch"):  # slow, and written nowhere
        monkeypatch.setattr(loop, name, once(getattr(loop, name)))

    shape = {"d_model": 16, "d_mlp": 24, "layers": 2, "heads": 4, "kv_heads": 2, "rows": 2}
    recipe = Recipe(
        stages=(Stage(2, MIX, 1.0),), length=96, warm_up=2, look_every=1, bf16=False, **shape
    )

    def run(name="full"):
        done = train(recipe, tmp_path / name, save_every=1)
        export(
            tmp_path / name / "checkpoint",
            model=done.model,
            heads=done.heads,
            tokenizer=done.tokenizer,
            log=done.log,
        )

    run("whole")
    assert len(fill_at_every_write(tmp_path / "full", run)) > 40
    assert files_of(tmp_path / "full") == files_of(tmp_path / "whole")


def test_training_a_head(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    monkeypatch.setattr(fitting, "_LOG_EVERY", 1)
    texts = read_labelled("demo:train", head="sequence", limit=6)
    model, tokenizer = al.load("demo", head="base")

    def run(name="full"):
        recipe = HeadRecipe(epochs=3, batch_size=6)
        train_head(model, tokenizer, texts, recipe=recipe, progress=False, out=tmp_path / name)

    run("whole")
    assert len(fill_at_every_write(tmp_path / "full", run)) > 30
    assert files_of(tmp_path / "full") == files_of(tmp_path / "whole")
    assert not (tmp_path / "full" / "unfinished").exists()


def test_reports_of_sparsity(demo, tmp_path, monkeypatch):
    """Of the pictures, which take the time, one stands for all."""
    figures = import_module("arcee_lab.views.figures.figure")
    named = import_module("arcee_lab.sparsity.report.named")
    monkeypatch.setattr(figures, "png", lambda figure: b"picture")
    for name in ("layers", "rates", "tokens"):
        monkeypatch.setattr(named.figures, name, lambda counts, **more: None)
    texts = ["The dogs near the gate bark.", "The lamp finds the red king."]
    report = al.sparsity.measure(*demo, texts, analyses=[])

    def run(name="full"):
        report.save(storage.claim(tmp_path / name, {"command": "sparsity"}))

    run("whole")
    assert len(fill_at_every_write(tmp_path / "full", run)) > 40
    assert files_of(tmp_path / "full") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("command", ["sparsity", "eval", "train-demo", "train-head"])
def test_commands_say_it_in_one_line(tmp_path, capsys, command):
    words = {
        "sparsity": ["demo", "--world", "story", "--max-tokens", "300", "--analyses", "core"],
        "eval": ["demo", "--tasks", TASKS[0], "--limit", "2"],
        "train-demo": ["--quick"],
        "train-head": ["demo", "--head", "sequence", "--train", "demo:train", "--limit", "4"],
    }[command]
    out = tmp_path / "out"
    with full_disk(out, 3) as disk:
        assert main([command, *words, "--out", str(out)]) == 2
        assert disk.fired
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"arcee-lab: error: {out}/run.json cannot be written: No space left on")
    assert error.endswith("repeat the same call or command: what was finished before is kept.")
    assert list(out.iterdir()) == []
