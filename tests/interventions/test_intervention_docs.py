"""What docs/how-to/interventions.md says runs, and names every kind there is."""

import re
from pathlib import Path

import arcee_lab as al

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "interventions.md").read_text(
    encoding="utf-8"
)


def test_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/how-to/interventions.md", "exec"), names)
    assert not names["patched"].isnan().any()
    assert names["stream"].grid()[0, 2] > 0.5  # the demo keeps a number at its noun in layer 0
    assert len(names["measured"].spots) == 50


def test_every_kind_has_a_row():
    kinds = {name for name in al.interventions.__all__ if name[0].isupper()}
    kinds -= {"Intervening", "Intervention"}
    assert kinds == set(re.findall(r"^\| `(\w+)\(", PAGE, flags=re.MULTILINE))
