"""Every way in gives the same number, from another folder and offline, in one process."""

import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import arcee_lab as al
import arcee_lab.evals.__main__ as command
from arcee_lab.cli import main
from arcee_lab.evals import ArceeLab

ROOT = Path(__file__).parent.parent.parent
TASK = ROOT / "evals" / "heads" / "demo_sentiment.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ways(run_clean, tmp_path_factory):
    """Accuracy of eight documents by each way in."""
    folder = tmp_path_factory.mktemp("elsewhere")
    printed = run_clean(
        f"""
        import contextlib, glob, io, json, os, sys
        os.chdir({str(folder)!r})
        found = {{}}

        def saved(name):
            (file,) = glob.glob(f"{{name}}/**/results_*.json", recursive=True)
            return json.load(open(file))

        from lm_eval.__main__ import cli_evaluate
        flags = ["--model_args", "pretrained=demo", "--limit", "8"]
        sys.argv = ["lm-eval", "run", "--model", "arcee-lab", "--tasks", {str(TASK)!r}, *flags,
                    "--output_path", "plain"]
        with contextlib.redirect_stdout(io.StringIO()):
            cli_evaluate()
        found["lm-eval run"] = saved("plain")["results"]["arcee_demo_sentiment"]["acc,none"]

        from lm_eval.api.registry import get_model
        found["built-in"] = [get_model(name).__name__ for name in ("hf", "dummy", "arcee-lab")]

        from arcee_lab.evals.__main__ import main
        with contextlib.redirect_stdout(io.StringIO()):
            code = main(["run", "--tasks", "arcee_demo_sentiment", *flags, "--output_path", "ours"])
        told = saved("ours")
        found["python -m"] = told["results"]["arcee_demo_sentiment"]["acc,none"]
        found["config"] = told["config"]

        from arcee_lab.cli import main
        words = ["eval", "demo", "--tasks", "arcee_demo_sentiment", "--limit", "8", "--out", "cli"]
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            code = code or main(words)
        found["arcee-lab eval"] = json.load(open("cli/results.json"))["scores"][0]["value"]
        found["shown"] = shown.getvalue()

        import arcee_lab as al
        result = al.evals.run("demo", tasks="arcee_demo_sentiment", limit=8, progress=False)
        found["python"] = result.score("arcee_demo_sentiment", "acc").value
        found["code"] = code
        print(json.dumps(found))
        """
    )
    return json.loads(printed.splitlines()[-1])


def test_every_way_gives_the_same_number(ways):
    numbers = [ways[way] for way in ("lm-eval run", "python -m", "arcee-lab eval", "python")]
    assert ways["code"] == 0
    assert len(set(numbers)) == 1
    assert 0 < numbers[0] <= 1


def test_our_model_hides_no_other(ways):
    assert ways["built-in"] == ["HFLM", "DummyLM", "ArceeLab"]


def test_results_say_of_what_they_are(ways):
    assert len(ways["config"]["model_fingerprint"]) == 64
    assert ways["config"]["interventions"] == []
    assert "arcee_demo_sentiment" in ways["shown"]
    assert "files  cli: results.json" in ways["shown"]


def test_the_entry_point_is_the_class():
    (target,) = PROJECT["project"]["entry-points"]["lm_eval.models"].items()
    assert target[0] == "arcee-lab"
    assert EntryPoint(target[0], target[1], "lm_eval.models").load() is ArceeLab


def test_the_wheel_carries_the_task_files():
    from arcee_lab.evals.tasks import find

    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["evals"] == find._PACKAGED.relative_to(ROOT).as_posix()


def test_a_task_that_fails_costs_no_other(demo, tmp_path, capsys):
    file = tmp_path / "change.json"
    verdict = demo[1](" Verdict")["input_ids"][-1]  # no fact has this token
    change = al.Scale("layers.1.mlp.hook_post", 0.5, tokens=[verdict])
    file.write_text(al.interventions.to_json(change))
    tasks = ["arcee_demo_verdict", "arcee_demo_facts"]
    words = ["eval", "demo", "--tasks", *tasks, "--intervention", str(file), "--limit", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "Task 'arcee_demo_facts': No token met the conditions of Scale" in error
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert told["unfinished"] == ["arcee_demo_facts"]
    assert {score["task"] for score in told["scores"]} == {"arcee_demo_verdict"}
    assert (tmp_path / "out" / "samples_arcee_demo_verdict.jsonl").exists()


def test_a_command_that_wrote_nothing_leaves_no_folder(tmp_path, capsys):
    file, out = tmp_path / "dev.tsv", tmp_path / "out"
    file.write_text("sentence\tlabel\na fine film\t1\n")
    words = ["eval", "demo", "--tasks", "arcee_sst2", "--data", str(file), "--out", str(out)]
    assert main(words) == 2
    assert "Task 'arcee_sst2': The head has no label 'negative'" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words[:-3], "none.tsv", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "error: Task 'arcee_sst2': data file none.tsv is missing" in error
    assert "could not be loaded" not in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "arcee-lab needs a model; expected pretrained=demo"),
        ("pretrained=demo,max_length=many", "max_length='many'; expected a whole number of tokens"),
        ("pretrained=demo,max_length=0", "max_length=0; expected a whole number of tokens above 0"),
        ("pretrained=demo,batch_tokens=-5", "batch_tokens=-5; expected a whole number"),
        ("pretrained=demo,exact=maybe", "exact='maybe'; expected True or False"),
        ("pretrained=demo,add_bos_token=2", "add_bos_token=2; expected True or False"),
    ],
)
def test_model_arguments_that_cannot_be(words, said):
    with pytest.raises(ValueError, match=said):
        ArceeLab.create_from_arg_string(words)


@pytest.mark.parametrize("run", [command.main, lambda words: main(["eval", "demo", *words[1:]])])
def test_bad_input_is_one_line_and_code_2(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = [] if run is command.main else ["--out", "out"]
    assert run(["run", "--tasks", "absent.yaml", *more]) == 2
    error = capsys.readouterr().err
    assert "no task file 'absent.yaml'" in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()
