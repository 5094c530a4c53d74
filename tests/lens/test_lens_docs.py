"""What the pages on lenses and heads say runs, and says what it should."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["lenses.md", "lenses_from_transformerlens.md", "which_head_does_this.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run_in_order(page):
    text = (DOCS / "how-to" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    names: dict = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    if page == "which_head_does_this.md":
        assert {layer for layer, _ in names["marked"]} == {1}


def test_the_table_names_what_exists():
    import arcee_lab as al

    text = (DOCS / "how-to" / "lenses_from_transformerlens.md").read_text(encoding="utf-8")
    for package, name in re.findall(r"`al\.(lens|attention)\.(\w+)", text):
        assert name in getattr(al, package).__all__
    for asked in (
        "decompose_resid",
        "accumulated_resid",
        "stack_head_results",
        "get_full_resid_decomposition",
        "apply_ln_to_stack",
        "logit_attrs",
        "test_prompt",
    ):
        assert asked in text
