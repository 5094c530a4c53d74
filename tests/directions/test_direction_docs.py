"""What the pages about directions say runs, and names every public call."""

import re
from pathlib import Path

import pytest

import arcee_lab as al

DOCS = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.mark.slow  # they fit on a few hundred documents
@pytest.mark.parametrize("page", ["directions.md", "steer_a_behaviour.md"])
def test_python_blocks_run_in_order(page, capsys):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    said = capsys.readouterr().out
    if "curve" in names:
        assert names["curve"].success[-1] >= 0.9
        assert said.rstrip().endswith("keep")
    else:
        assert "steered to the plural: True" in said


def test_links_of_the_tutorial_lead_somewhere():
    page = DOCS / "steer_a_behaviour.md"
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
    assert targets
    assert all((page.parent / target).exists() for target in targets)


def test_every_call_is_named():
    text = (DOCS / "directions.md").read_text(encoding="utf-8")
    calls = {name for name in al.directions.__all__ if name[0].islower()}
    assert all(f"{call}(" in text or f"`{call}`" in text for call in calls)
