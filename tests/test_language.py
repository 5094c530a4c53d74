"""The repository is written in plain English, as far as a list of phrases can say."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("lint", ROOT / "docs" / "lint.py")
lint = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(lint)


def test_the_repository_has_no_finding(capsys):
    assert lint.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "one row a fact",
        "Sequences a forward, at most.",
        "# how many bytes a\n    # nonzero takes",
        "draws one window in so many",
        "Hears of every activation",
        "AFM-4.5B and kin",
        "its loss beside the entropy",
        "values lie in one block",
        "by chance it were 12%",
        "choose by lot",
        "A best of thousands flatters itself",
        "and the same command goes on",
    ],
)
def test_finds_the_phrase(text):
    found = list(lint.findings("a.py", f"first line\n{text}\n"))
    assert found
    assert found[0].startswith("a.py:2: ")


@pytest.mark.parametrize(
    "text",
    [
        "rows of a layer",
        "requests share a row",
        "which ids a text becomes",
        "one row per fact",
        "ends with one head.\n\nA name of a site",
        "a run goes on the device",
    ],
)
def test_leaves_plain_sentences(text):
    assert not list(lint.findings("a.py", text))


def test_allows_a_phrase_in_its_file_only():
    for where, said in lint.ALLOWED:
        assert any((ROOT / where).parent.glob("*")), "an entry for nothing"
        assert not list(lint.findings(where, said))
        assert list(lint.findings("other.py", said))
