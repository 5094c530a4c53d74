"""The table of TransformerLens's names says what exists here, and misses none that is asked for."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


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
