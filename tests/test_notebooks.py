"""Each notebook is what its source gives today, small, and clean."""

import math
import re
from pathlib import Path

import nbformat
import pytest
from notebook_runs import ROOT, SOURCES, Runner, build

WIDGET = "application/vnd.jupyter.widget-view+json"
EACH = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def committed(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def text_of(output):
    """What an output says in plain text: a stream, or the text face of a result."""
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def same_words(one, other):
    """Equal text, where numbers may differ by one per cent: CPUs round unlike."""
    split = re.compile(r"(-?\d+\.?\d*(?:e[+-]?\d+)?)")
    ours, theirs = split.split(one), split.split(other)
    if len(ours) != len(theirs):
        return False
    for number, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
        if number % 2:
            if not math.isclose(float(mine), float(yours), rel_tol=0.01, abs_tol=1e-3):
                return False
        elif mine.split() != yours.split():  # a column's padding follows its numbers
            return False
    return True


def test_same_words():
    assert same_words("zeros 0.912  a", "zeros 0.913 a")
    assert not same_words("zeros 0.912", "zeros 0.812")
    assert not same_words("zeros 0.912", "ones 0.912")


def test_the_pairs_are_whole():
    assert [path.stem for path in SOURCES] == [
        path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    ]


@EACH
def test_one_voice_and_one_parameter_cell(source):
    cells = build.read(source).cells
    first = build.read(SOURCES[0]).cells
    (parameters,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert cells.index(parameters) == 1, "the first cell with code"
    assert parameters.source == first[1].source, "the same in all notebooks"
    assert "nothing else" in cells[0].source.replace("\n", " "), "say that nothing else changes"
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert "pyplot" not in code
    assert not re.search(r"\b(plt|axes|axs?)\.", code), "result.figure() draws"
    assert "figures.figure" not in code, "result.figure() draws"
    words = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert not re.search(r"\b(we|our|us|let's)\b", words, re.IGNORECASE), "say what it does"


@EACH
def test_inputs_are_the_source(source):
    fresh, stored = build.read(source), committed(source)
    assert [(c.id, c.cell_type, c.source) for c in stored.cells] == [
        (c.id, c.cell_type, c.source) for c in fresh.cells
    ]


@EACH
def test_is_small_and_clean(source):
    raw = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    stored = committed(source)
    nbformat.validate(stored)
    assert len(raw) <= build.LARGEST
    assert "<script" not in raw
    assert str(ROOT) not in raw
    assert str(Path.home()) not in raw
    assert stored.metadata == build.METADATA
    assert "widget-view+json" not in raw
    assert "application/vnd.jupyter.widget" not in raw
    for output in outputs(stored):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", text_of(output)
        assert not {key for key in output.get("data", {}) if "widget" in key}


@EACH
def test_headings_and_cost(source):
    cells = committed(source).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert re.search(r"\b(second|minute)s?\b", cells[0].source), "say what it costs to run"
    assert "ARCEE_LAB_MODEL" in source.read_text(encoding="utf-8")
    depth = 1
    for cell in cells[1:]:
        if cell.cell_type == "markdown":
            for marks in re.findall(r"^(#+) ", cell.source, re.MULTILINE):
                assert 2 <= len(marks) <= depth + 1
                depth = len(marks)


@pytest.fixture(scope="module")
def runner():
    found = Runner()
    yield found
    found.close()


@EACH
def test_runs_again_and_says_the_same(source, runner):
    ran = runner.run(source).require()
    assert not ran.left_out, "every part applies to the demo"
    stored = [cell for cell in committed(source).cells if cell.cell_type == "code"]
    assert len(ran.cells) == len(stored)
    for ours, theirs in zip(ran.cells, stored, strict=True):
        streams = [one for one in theirs.outputs if one.output_type == "stream"]
        assert same_words(ours.stdout, "".join(map(text_of, streams))), ours.stdout
        assert not ours.stderr
        shown = [one for one in theirs.outputs if one.output_type != "stream"]
        # To fit into the file; and the live face of a widget, of which the static one is kept.
        left_out = [{"image/svg+xml", WIDGET} - set(one.data) for one in shown]
        assert [
            sorted(set(one["keys"]) - large)
            for one, large in zip(ours.outputs, left_out, strict=True)
        ] == [sorted(one.data) for one in shown]
        for mine, yours in zip(ours.outputs, shown, strict=True):
            assert same_words(mine["text"], text_of(yours)), mine["text"]


def test_build_writes_the_same_bytes_twice(tmp_path, monkeypatch, capsys):
    (tmp_path / "07_probe.py").write_text(
        "# %% [markdown]\n# # Probe\n\n# %%\nimport os\nprint('one')\nprint('two')\n\n"
        "# %%\nos.environ['ARCEE_LAB_MODEL'], os.path.basename(os.getcwd())\n"
    )
    monkeypatch.setattr(build, "HERE", tmp_path)
    for folder in ("a", "b"):
        assert build.main(["07_probe", "--out", str(tmp_path / folder)]) == 0
    assert "07_probe.ipynb" in capsys.readouterr().out
    first = (tmp_path / "a/07_probe.ipynb").read_bytes()
    assert first == (tmp_path / "b/07_probe.ipynb").read_bytes()
    notebook = nbformat.reads(first.decode(), as_version=4)
    assert [text_of(output) for output in outputs(notebook)] == [
        "one\ntwo\n",
        f"('demo', '{tmp_path.name}')",
    ]


def test_the_largest_pictures_go_first_where_a_notebook_is_too_large():
    def output(size):
        data = {"image/svg+xml": "s" * size, "image/png": "p", "text/plain": "t"}
        return nbformat.v4.new_output("display_data", data=data)

    cell = nbformat.v4.new_code_cell("", outputs=[output(size) for size in (100, 3000, 2000)])
    notebook = build.lighten(nbformat.v4.new_notebook(cells=[cell]), most=3000)
    assert ["image/svg+xml" in one.data for one in cell.outputs] == [True, False, True]
    assert len(nbformat.writes(notebook)) <= 3000


def test_build_stores_no_bar(tmp_path, monkeypatch):
    (tmp_path / "09_bars.py").write_text(
        "# %%\nfrom transformers.utils.logging import tqdm as theirs\n"
        "from tqdm.auto import tqdm\n"
        "from arcee_lab.runs.progress import progress_bar\n"
        "print(sum(progress_bar(range(3), show=None)), sum(theirs(range(4))))\n\n"
        "# %%\ntqdm(range(2), disable=False)\n"
    )
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setenv("ARCEE_LAB_PROGRESS", "1")  # of the user's own notebooks
    notebook = build.execute(tmp_path / "09_bars.py")
    first, second = notebook.cells
    assert [(output.output_type, text_of(output)) for output in first.outputs] == [
        ("stream", "3 6\n")
    ]
    assert "widget-view+json" in str(second.outputs)  # what the test of all notebooks looks for
    assert "widgets" not in notebook.metadata


def test_build_reports_a_failing_cell_and_an_unknown_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "08_bad.py").write_text("# %%\n1 / 0\n")
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.main(["--out", str(tmp_path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.ipynb"))
    with pytest.raises(SystemExit) as stop:
        build.main(["09_none"])
    assert stop.value.code == 2
    assert "no notebook '09_none'; there are: 08_bad" in capsys.readouterr().err
