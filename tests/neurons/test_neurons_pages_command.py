"""`arcee-lab neurons` writes pages, the index, values and exports of its run."""

import json
import re
from itertools import islice

import pytest

import arcee_lab as al
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


@pytest.fixture
def searched(monkeypatch):
    """The labels that were searched for, with one shuffle and no untrained copy, to be quick."""
    asked, own = [], al.neurons.find

    def find(model, tokenizer, labels, **settings):
        asked.append(labels)
        return own(model, tokenizer, labels, shuffles=1, untrained=False, **settings)

    monkeypatch.setattr("arcee_lab.neurons.find", find, raising=False)
    return asked


def test_the_same_run_gives_further_pages_of_a_label(out, capsys, searched):
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


SENTENCES = [("Jozi", "visited", "Tetam", "."), ("Glukra", "left", "Lower", "Lolom", ".")]
TAGS = [("B-PER", "O", "B-LOC", "O"), ("B-PER", "O", "B-LOC", "I-LOC", "O")]


def write_bio(file, sentences=12):
    """A BIO file whose sentences are those above, each twice in turn."""
    rows = [
        "\n".join(f"{word} X {tag}" for word, tag in zip(SENTENCES[n], TAGS[n], strict=True))
        for n in (number // 2 % 2 for number in range(sentences))
    ]
    file.write_text("\n\n".join(rows) + "\n")
    return file


def pages_of(folder):
    return {path.name for path in folder.glob("L*-N*.html")}


def test_pages_of_a_label_of_a_bio_file(out, tmp_path, capsys, searched):
    """The neurons are those that `find` names for the same file."""
    file = write_bio(tmp_path / "train.conll")
    assert main([*RUN, str(out), "--label", "PER", "--label-file", str(file)]) == 0
    assert "pages-PER" in capsys.readouterr().out
    (labels,) = searched
    assert labels == al.neurons.labels.bio(file)
    assert labels.spans["PER"][0] == ((0, len("Jozi")),)
    model, tokenizer = al.load("demo")
    found = al.neurons.find(model, tokenizer, labels, names="PER", progress=False)
    units = {f"L{one.layer}-N{one.unit}.html" for one in found["PER"].units}
    assert pages_of(out / "pages-PER") == units


def test_pages_of_a_pattern_in_the_texts_of_the_run(out, capsys, searched):
    """The texts are those that the run reads: up to its last token, and no more."""
    assert main([*RUN, str(out), "--label", r"article=\b(the|a)\b"]) == 0
    assert "pages-article" in capsys.readouterr().out
    assert len(pages_of(out / "pages-article")) == 5
    (labels,) = searched
    _, tokenizer = al.load("demo")
    sizes = [len(tokenizer(text).input_ids) for text in labels.texts]
    assert sum(sizes[:-1]) < 1500 <= sum(sizes)
    stories = islice(al.demo.stream("story", seed=0, split="test"), len(sizes))
    assert labels.texts == tuple(document.text for document in stories)
    for text, spans in zip(labels.texts, labels.spans["article"], strict=True):
        assert [text[start:end] for start, end in spans] == re.findall(r"\b(?:the|a)\b", text)


def test_a_bad_label_file_is_told_before_the_model_is_loaded(out, tmp_path, capsys, monkeypatch):
    def refuse(*args, **settings):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("arcee_lab.load", refuse, raising=False)
    file = write_bio(tmp_path / "train.conll")
    broken = tmp_path / "broken.conll"
    broken.write_text(file.read_text().replace("left X O", "left O", 1))
    for words, message in (
        (["PRE", "--label-file", str(file)], "no label 'PRE'; expected one of the 2 labels (near"),
        (["PER", "--label-file", str(tmp_path / "no.conll")], "no.conll"),
        (["PER", "--label-file", str(broken)], f"{broken} line 12 has 2 columns, and there are 3"),
    ):
        assert main([*RUN, str(out), "--label", *words]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


BAD = [
    (["--unit", "L1N32"], "expected a layer and a neuron"),
    (["--unit", "L9/N0"], "layer is 9"),
    (["--unit", "L1/N9999"], "unit is 9999"),
    (["--label", "plural nuon"], "plural noun"),
    (["--label", "year=("], "expected NAME=PATTERN"),
    (["--label", "=x"], "lacks the name or the pattern"),
    (["--label", "year="], "lacks the name or the pattern"),
    (["--label", "year=17\\d\\d"], "matches none of"),
    (["--label-file", "absent.conll"], "came without --label"),
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
