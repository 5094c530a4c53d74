"""What the page on finding neurons says runs."""

import re
from pathlib import Path

import arcee_lab as al

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
PAGE = (PAGES / "find_the_neurons_of_a_label.md").read_text(encoding="utf-8")


def test_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, "find_the_neurons_of_a_label.md", "exec"), names)
    # A name of the demo's news: far above the share of its tokens, a sixth.
    assert names["person"].f1 > 0.7
    assert "person" in names["found"].confirmed
    assert len(names["changes"].frame()) == 6


def test_every_source_of_labels_has_a_row():
    made = {name for name in al.neurons.labels.__all__ if name[0].islower()}
    assert set(re.findall(r"`al\.neurons\.labels\.(\w+)\(", PAGE)) == made
