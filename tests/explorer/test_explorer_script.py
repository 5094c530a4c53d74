"""The scripts are part of the package, ask for what Python answers, and trust no text."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

PAGE = files("arcee_lab.explorer") / "page"
SCRIPTS = sorted(file.name for file in PAGE.iterdir() if file.name.endswith(".js"))


def test_each_tab_has_a_script_and_each_script_a_tab():
    from arcee_lab.explorer.all_tabs import TABS, script, style

    assert sorted(["frame.js", *(f"{tab.name}.js" for tab in TABS)]) == SCRIPTS
    for tab in TABS:
        assert f"tabs.{tab.name} = " in script()
    assert script().rstrip().endswith("export default { render };")
    assert script().count("export ") == 1
    assert ".alx" in style()


def test_what_the_scripts_ask_is_what_is_answered():
    from arcee_lab.explorer.all_tabs import questions, script

    asked = set(re.findall(r"\bask\(\"(\w+)\"", script()))
    assert asked == {*questions(), "set"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_html_no_network_no_build(name):
    text = (PAGE / name).read_text(encoding="utf-8")
    banned = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|https?:|fetch\("
    assert not re.findall(banned + r"|XMLHttp|\bimport\b|import\(|WebSocket|localStorage", text)
    assert len(text.splitlines()) <= 300


def test_the_wheel_holds_them():
    """Hatchling takes everything under the package; nothing in pyproject leaves files out."""
    import tomllib

    root = Path(__file__).parents[2]
    build = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["packages"] == ["arcee_lab"]
    assert "exclude" not in str(build)
    ignored = (root / ".gitignore").read_text("utf-8").splitlines()
    assert not [line for line in ignored if line.endswith((".js", ".css"))]
