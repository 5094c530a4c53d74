"""What the page on comparing a base model with a fine-tuned one says runs."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "compare_base_and_fine_tuned.md"


def test_python_blocks_run_in_order():
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 7
    names: dict = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["answer"].strip() == "farmer"
    curve, changed = names["curve"], names["changed"]
    assert curve.restored[-1] > 0.5
    assert list(curve.sizes) == [1, 2, 3, 5, 10]
    columns = set(changed.frame().columns) - {"layer", "unit", "n_tokens"}
    table = text[text.index("| column |") : text.index("`written` has two causes")]
    assert set(re.findall(r"`(\w+)`", table)) - {"up_proj", "down_proj", "n_tokens"} == columns
