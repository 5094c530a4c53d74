"""`arcee-lab sparsity`: what it writes, what it says, what it refuses."""

import json
import re

import pandas as pd
import pytest

CORE = {"coverage", "thresholds", "positions", "ids", "saving"}
ALL = {"blocks", "concentration", "losses", "neighbours", "overlap", "predictors", "spikes"}
ALL |= {"unions"}
TABLES = {"neurons", "tokens", "costs"}
PICTURES = {"neurons", "rates", "sparsity", "tokens"}
PLAIN = {"layers.json", "summary.json", "report.html", "run.json"}
PLAIN |= {"report.json", "counts.safetensors"}


def files(results, tables=TABLES, pictures=PICTURES):
    tables = {f"{name}.parquet" for name in results | tables}
    return PLAIN | tables | {f"{name}.png" for name in results | pictures}


FILES = files(CORE)


def run(*words, analyses="core"):
    """The command, with the core alone unless told otherwise: figures take long."""
    from arcee_lab.cli import main

    try:
        return main(["sparsity", *map(str, words), "--analyses", *analyses.split()])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """No picture is drawn where none is looked at."""
    from arcee_lab.sparsity.report import html_page
    from arcee_lab.views.figures import figure

    dot = b"\x89PNG\r\n"
    monkeypatch.setattr(figure, "png", lambda *args, **kwargs: dot)
    monkeypatch.setattr(html_page, "png", lambda *args, **kwargs: dot)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(
        "The dogs near the barn sleep . A boat drifts past the harbour wall at noon .\n"
    )
    return path


def test_writes_every_file_and_says_where(tmp_path, text, capsys):
    out = tmp_path / "out"
    words = ["demo", "--text", text, text, "--out", out, "--batch-size", 2]
    assert run(*words, analyses="all") == 0
    said = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == files(CORE | ALL)
    assert re.match(
        r"demo: \d+ tokens in 2 windows, 1 forward pass; .* counts take .* about ", said.out
    )
    for name in ALL:
        assert re.search(rf"^{name} +\d+\.\d\d +\d+   \S", said.out, re.MULTILINE), name
    assert str(out / "report.html") in said.out
    assert "tok/s" in said.err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["model"] == "demo"
    assert summary["documents"] == 2
    assert f"N = {summary['tokens']:,} tokens" in said.out
    neurons = pd.read_parquet(out / "neurons.parquet")
    layers = json.loads((out / "layers.json").read_text())
    assert len(neurons) == summary["neurons"] == len(layers) * (neurons["unit"].max() + 1)
    for row in layers:
        rate = neurons.loc[neurons["layer"] == row["layer"], "rate"]
        assert row["zeros"] == pytest.approx(1 - rate.mean())
        assert re.search(rf"^ +{row['layer']} +{row['zeros']:.1%} ", said.out, re.MULTILINE)


def test_several_analyses_of_both_kinds_by_name(tmp_path, text, capsys):
    out = tmp_path / "out"
    words = ["demo", "--text", text, text, "--out", out]
    assert run(*words, analyses="overlap cett") == 0
    said = capsys.readouterr()
    wanted = files(CORE | {"overlap", "cett"}) | {"further.safetensors"}
    assert {path.name for path in out.iterdir()} == wanted
    assert re.search(r"about \d+ s, then \d+ s for cett\n", said.out)
    costs = pd.read_parquet(out / "costs.parquet")
    assert list(costs["analysis"]) == ["pass", "core", "overlap", "cett"]
    assert re.search(r"^cett +\d+\.\d\d +\d+   demo: ", said.out, re.MULTILINE)


def test_the_same_command_again_gives_the_same_numbers(tmp_path, capsys):
    words = ["demo", "--world", "story", "--max-tokens", 600, "--out", tmp_path / "out"]
    assert run(*words) == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    assert run(*words) == 0
    timed = {"summary.json", "report.html", "report.json", "costs.parquet"}  # they hold the speed
    for name in FILES - timed:
        assert (tmp_path / "out" / name).read_bytes() == before[name], name
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tokens"] + summary["first_positions"] == 600
    capsys.readouterr()
    assert run(*words, "--seed", 1) == 2
    assert "holds another run (seed is 0, not 1)" in capsys.readouterr().err


def test_jsonl_parquet_and_dataset_folders_are_read(tmp_path, capsys):
    import datasets

    rows = {"text": ["The dogs sleep .", "A boat drifts ."]}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in rows["text"]))
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    capsys.readouterr()
    sources = {
        "jsonl": ["--text", tmp_path / "a.jsonl"],
        "parquet": ["--text", tmp_path / "a.parquet"],
        "saved": ["--dataset", tmp_path / "saved"],
    }
    for name, source in sources.items():
        assert run("demo", *source, "--out", tmp_path / "out" / name) == 0
    frames = [pd.read_parquet(tmp_path / "out" / name / "neurons.parquet") for name in sources]
    pd.testing.assert_frame_equal(frames[0], frames[1])
    pd.testing.assert_frame_equal(frames[0], frames[2])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["demo"], "one of --text, --dataset, --world, --domains; got none"),
        (["demo", "--world", "story", "--domains", "a=x"], "got --world, --domains"),
        (["demo", "--domains", "a=x"], "names only 'a'"),
        (["demo", "--domains", "a", "b=x"], "'a': expected NAME=FILE"),
        (["demo", "--domains", "../a=x", "b=x"], "a name of letters"),
        (["demo", "--domains", "a={tmp}/gone.txt", "b={tmp}/empty.txt"], "gone.txt is missing"),
        (["demo", "--text", "{tmp}/gone.txt"], "gone.txt is missing"),
        (["demo", "--text", "{tmp}/empty.txt"], "holds no text"),
        (["demo", "--text", "{tmp}/binary.txt"], "is binary"),
        (["demo", "--text", "{tmp}/bad.jsonl"], "bad.jsonl line 2 is not JSON"),
        (["demo", "--dataset", "{tmp}/none"], "is neither a folder"),
        (["demo", "--world", "storys"], "nearest: story"),
        (["{tmp}/model", "--world", "story"], "neither a folder"),
        (["{tmp}", "--world", "story"], "config.json"),
        (["demo", "--world", "story", "--batch-size", "0"], "expected a whole number above 0"),
        (["demo", "--world", "story", "--max-tokens", "x"], "expected a whole number above 0"),
        (["demo", "--world", "story", "--max-tokens", "1"], "expected texts of at least two"),
        (["demo", "--world", "story", "--device", "cuda:99"], "cannot be used"),
        (["demo", "--world", "story", "--dtype", "int8"], "invalid choice"),
        (["demo", "--world", "story", "--context", "1"], "expected at least 2"),
    ],
)
def test_bad_input_exits_2_with_one_line(tmp_path, capsys, words, match):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text"\n')
    words = [word.format(tmp=tmp_path) for word in words]
    assert run(*words, "--out", tmp_path / "out") == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.replace("\r", "\n").splitlines() if "arcee-lab" in line]
    assert len(lines) == 1, said.err
    assert match in lines[0]
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_failed_run_does_not_occupy_the_folder(tmp_path, text, capsys):
    out = tmp_path / "out"
    assert run("demo", "--text", tmp_path / "typo.txt", "--out", out) == 2
    assert run("demo", "--text", text, "--out", out) == 0


def test_a_folder_with_other_files_is_left_alone(tmp_path, text, capsys):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("x")
    assert run("demo", "--text", text, "--out", out) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["chapter.tex"]


def test_a_changed_text_is_another_run(tmp_path, text, capsys):
    out = tmp_path / "out"
    assert run("demo", "--text", text, "--out", out) == 0
    text.write_text("Another text .")
    assert run("demo", "--text", text, "--out", out) == 2
    assert "holds another run (sha256" in capsys.readouterr().err


def test_an_unknown_analysis_is_told_before_the_model_is_loaded(tmp_path, capsys):
    out = tmp_path / "out"
    assert run("no-such-model", "--world", "story", "--out", out, analyses="unoins") == 2
    assert "no analysis is called 'unoins'" in capsys.readouterr().err
    assert not out.exists()


def test_domains_lie_side_by_side_and_a_killed_run_goes_on(tmp_path, text, capsys, monkeypatch):
    from arcee_lab.sparsity.job import MeasureJob

    other = tmp_path / "other.txt"
    other.write_text("Glukra visited Lower Lolom . Jozi left Upper Kregleth .\n" * 3)
    out = tmp_path / "out"
    words = ["demo", "--domains", f"barn={text}", f"towns={other}", f"barn={other}", "--out", out]
    home = MeasureJob.run
    calls = []

    def killed(self, **settings):
        calls.append(settings["label"])
        if calls == ["barn", "towns"]:
            raise KeyboardInterrupt
        return home(self, **settings)

    monkeypatch.setattr(MeasureJob, "run", killed)
    assert run(*words) == 130
    assert run(*words) == 0
    assert calls == ["barn", "towns", "towns"]  # what was done is not measured again
    tables = {"domains.parquet", "pairs.parquet"}
    shown = {"neurons.png", "report.html", "run.json"}
    assert {path.name for path in out.iterdir()} == {"barn", "towns"} | tables | shown
    frame = pd.read_parquet(out / "domains.parquet")
    for name in ("barn", "towns"):
        layers = json.loads((out / name / "layers.json").read_text())
        zeros = frame.loc[frame["domain"] == name, "zeros"]
        assert zeros.tolist() == pytest.approx([row["zeros"] for row in layers])
    assert "exact zeros: barn " in capsys.readouterr().out


def test_the_command_reads_the_weights_once(tmp_path, text, monkeypatch):
    """The estimate and the measurement are of one job, with one set of norms and states."""
    from arcee_lab.sparsity.sampled.mlps import Mlp
    from arcee_lab.sparsity.streamed import runner

    layers, passes = [], []
    norms, started = Mlp.write_norms, runner.Pass.__post_init__
    monkeypatch.setattr(Mlp, "write_norms", lambda mlp: layers.append(mlp.layer) or norms(mlp))
    monkeypatch.setattr(
        runner.Pass, "__post_init__", lambda self: passes.append(self) or started(self)
    )
    assert run("demo", "--text", text, "--out", tmp_path / "out") == 0
    assert layers == [0, 1, 2, 3]
    assert len(passes) == 1


def test_a_text_that_ends_early_is_an_error(tmp_path, text, capsys):
    out = tmp_path / "out"
    assert run("demo", "--text", text, "--max-tokens", 999, "--out", out) == 2
    said = capsys.readouterr()
    assert re.search(r"the texts hold \d+ tokens; max_tokens asks for 999\. Give more", said.err)
    assert "Traceback" not in said.err
    assert not out.exists()


def test_a_seed_needs_something_to_draw(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("The dogs near the gate bark .")
    words = ["demo", "--text", text, "--seed", 3, "--out", tmp_path / "out"]
    assert run(*words) == 2
    assert "--seed 3 has no effect" in capsys.readouterr().err
    assert run(*words, analyses="cett") == 0
    from arcee_lab.sparsity import SparsityReport

    assert SparsityReport.load(tmp_path / "out").further["cett"].seed == 3
