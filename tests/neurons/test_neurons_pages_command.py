"""`arcee-lab neurons` writes pages, the index, values and exports of its run."""

import json

import pytest

from arcee_lab.cli import main

RUN = ["neurons", "demo", "--world", "story", "--max-tokens", "1500", "--out"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("neurons") / "out"


def test_pages_and_index_of_a_run(out, capsys):
    words = ["--unit", "L1/N32", "L2/N0", "--all", "--values"]
    assert main([*RUN, str(out), *words]) == 0
    said = capsys.readouterr().out
    assert "values of all exemplars" in said
    assert (out / "pages" / "L1-N32.html").is_file()
    assert (out / "index" / "units.parquet").is_file()
    assert (out / "index" / "layer-03.html").is_file()
    assert (out / "values" / "values.json").is_file()


def test_the_same_run_gives_further_pages_of_a_label(out, capsys):
    assert main([*RUN, str(out), "--label", "plural noun"]) == 0
    said = capsys.readouterr().out
    assert "pages-plural-noun" in said
    pages = list((out / "pages-plural-noun").glob("L*-N*.html"))
    assert len(pages) == 5
    assert "plural noun" in pages[0].read_text()


def test_an_export_of_a_run(out, capsys):
    words = ["--unit", "L1/N32", "--export", "neuron_explainer"]
    assert main([*RUN, str(out), *words]) == 0
    record = out / "export-neuron_explainer" / "neurons" / "1" / "32.json"
    assert json.loads(record.read_text())["neuron_id"]["neuron_index"] == 32


BAD = [
    (["--unit", "L1N32"], "expected a layer and a neuron"),
    (["--unit", "L9/N0"], "layer is 9"),
    (["--unit", "L1/N9999"], "unit is 9999"),
    (["--label", "plural nuon"], "plural noun"),
    (["--label", "year=("], "expected NAME=PATTERN"),
    (["--label", "year=.*"], "with --text FILE"),
    (["--export", "neuronpedia"], "needs neurons"),
    (["--export", "delphi", "--unit", "L1/N3"], "leave --unit out"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_flags(out, capsys, words, message):
    try:
        code = main([*RUN, str(out), *words])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said.split("arcee-lab: error:")[-1]
