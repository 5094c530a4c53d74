"""What docs/how-to/attention.md says runs, and names every statistic there is."""

import re
from pathlib import Path

import arcee_lab as al

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "attention.md").read_text(encoding="utf-8")


def test_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 6
    names: dict = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, "docs/how-to/attention.md", "exec"), names)
    assert names["rows"].shape[:3] == (2, 2, 1)
    assert (names["rows"].sum(-1) - 1).abs().max() < 1e-5
    second = names["stats"]["second"].mean
    assert names["moved"].grid().shape == (4, 6, 4)
    assert ((second > 0) & (second <= 0.5)).all()


def test_every_statistic_has_a_row():
    kinds = {
        name
        for name in al.attention.__all__
        if isinstance(one := getattr(al.attention, name), type)
        and issubclass(one, al.attention.Statistic)
    }
    named = set(re.findall(r"^\| `(\w+)\(", PAGE, flags=re.MULTILINE))
    assert kinds - {"Statistic", "Detector"} == named
