"""Parts of the documentation that follow from the code are up to date, and can go stale."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A package of three parts with one page that has all markers."""
    package = tmp_path / "arcee_lab"
    for path, text in {
        "__init__.py": '"""A small package."""\n',
        "top/__init__.py": '"""The top."""\nfrom arcee_lab.top import one\n',
        "top/one.py": '"""One\nfile.\n\nMore."""\nfrom arcee_lab import low\nimport os\n',
        "mid.py": '"""The middle."""\nfrom arcee_lab.low import x\n',
        "low.py": '"""The base."""\nx = 1\n',
    }.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text)
    page = tmp_path / "page.md"
    page.write_text(
        "before\n"
        + "".join(
            f"<!-- generated: {name} -->\nstale\n<!-- end: {name} -->\n"
            for name in ("folders", "imports", "files")
        )
        + "after\n"
    )
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "PACKAGE", package)
    pages = tuple(
        ("page.md", name, make)
        for _, name, make in generate.PAGES
        if name in ("folders", "imports", "files")
    )
    monkeypatch.setattr(generate, "PAGES", pages)
    return page


def test_the_pages_are_up_to_date(capsys):
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_writes_what_the_code_says(small):
    assert generate.main(["--check"]) == 1
    assert small.read_text().count("stale") == 3  # a check writes nothing
    assert generate.main([]) == 0
    text = small.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert re.search(r"```\nmid +-> low\ntop +-> low\nlow\n```", text)
    assert "- `arcee_lab/top/`: The top.\n" in text
    assert "**arcee_lab/top/**\n\n- `__init__.py`: The top.\n- `one.py`: One file.\n" in text
    assert generate.main(["--check"]) == 0


def test_says_which_page_is_stale(small, capsys):
    generate.main([])
    file = generate.PACKAGE / "low.py"
    file.write_text(file.read_text().replace("The base.", "Another base."))
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == (
        "out of date: page.md (files); run python docs/generate.py\n"
    )


def test_markers_stand_once():
    with pytest.raises(ValueError, match="expected <!-- generated: files --> and"):
        generate.page_with("no markers", "files", "")


def test_every_file_says_what_it_is_for():
    for path in generate._files():
        line = generate._first_line(path)
        assert len(line) > 10, path
        assert line.endswith("."), path


def test_files_that_design_names_exist():
    text = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
    text = text.split("<!-- end: folders -->")[1]
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?|[a-z_]+\.py)`", text))
    assert len(named) > 30
    for name in named:
        homes = (ROOT / name, ROOT / "arcee_lab" / name)
        inside = list((ROOT / "arcee_lab").glob(f"*/{name}"))
        assert inside or any(home.exists() for home in homes), name


WORDS = (
    "texts",
    "batch_size",
    "context",
    "max_tokens",
    "role",
    "sample_tokens",
    "sample_every",
    "seed",
    "progress",
    "device",
    "dtype",
)


def test_the_table_of_arguments_agrees_with_the_signatures():
    import arcee_lab

    text = (ROOT / "docs" / "reference" / "arguments.md").read_text(encoding="utf-8")
    meanings, table = text.split("<!-- generated: arguments -->")
    assert tuple(re.findall(r"^\| `(\w+)`", meanings, re.MULTILINE)) == WORDS
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.split("<!-- end")[0].splitlines()
        if line.startswith("|")
    ]
    assert [cell.strip("`") for cell in rows[0]] == ["call", *WORDS]
    shown = set()
    for name, *cells in rows[2:]:
        call = arcee_lab
        for part in name.strip("`").split("."):
            call = getattr(call, part)
        taken = inspect.signature(call).parameters
        assert [bool(cell) for cell in cells] == [word in taken for word in WORDS], name
        shown.add(name.strip("`"))
    assert {"load", "capture", "dump.write", "evals.run", "sparsity.measure"} <= shown


def test_one_word_has_one_default_and_stands_by_name():
    for name, call in generate.public_calls().items():
        taken = inspect.signature(call).parameters
        if "progress" in taken:
            assert taken["progress"].default is None, name
        for word in ("progress", "batch_size", "sample_tokens", "sample_every"):
            if word in taken:
                assert taken[word].kind is inspect.Parameter.KEYWORD_ONLY, (name, word)
