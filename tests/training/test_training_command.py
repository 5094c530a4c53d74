"""`train-demo`: refusals at once, and the quick recipe from end to end."""

import json

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "whole number"),
        (["--seed", "4294967296"], "expected at most 4294967295"),
        (["--threads", "0"], "whole number above 0"),
        ([], "--out"),
    ],
)
def test_bad_flags_exit_2_with_one_line(tmp_path, capsys, words, said):
    from arcee_lab.cli import main

    out = ["--out", str(tmp_path / "run")] if words else []
    with pytest.raises(SystemExit) as left:
        main(["train-demo", *out, *words])
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_folder_of_another_run_exits_2(tmp_path, capsys):
    from arcee_lab.cli import main
    from arcee_lab.runs.storage import claim
    from arcee_lab.training import quick

    claim(tmp_path / "run", {"command": "train-demo", "recipe": quick(7).settings()})
    assert main(["train-demo", "--out", str(tmp_path / "run"), "--quick", "--seed", "8"]) == 2
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.slow
def test_quick_shows_zeros_rising_from_one_half(tmp_path, capsys):
    from arcee_lab.cli import main

    assert main(["train-demo", "--out", str(tmp_path / "run"), "--quick"]) == 0
    assert "zeros by layer" in capsys.readouterr().out
    rows = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(0.4 < zeros < 0.6 for zeros in rows[0]["zeros"])
    assert max(rows[-1]["zeros"]) > 0.65
    assert rows[-1]["lm"] < 0.35 * rows[0]["lm"]
    assert (tmp_path / "run" / "checkpoint" / "MODEL_CARD.md").exists()
