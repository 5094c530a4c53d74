"""What docs/explanation/sparsity.md says runs, and names every analysis and rule there is."""

import re
from pathlib import Path

from arcee_lab.sparsity import registry

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "sparsity.md").read_text(
    encoding="utf-8"
)


def test_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/explanation/sparsity.md", "exec"), names)
    assert names["report"].n_sampled == names["report"].n_tokens  # few windows: all are sampled
    reached = names["cett"].frame((0.01, 0.1))
    assert set(reached["layer"]) == set(range(names["model"].config.num_hidden_layers))
    assert set(names["curves"].frame()["rule"]) == {"top_k", "cett"}
    critical = names["curves"].critical()
    assert set(critical["rule"]) == {"top_k", "cett"}
    assert critical["critical_sparsity"].between(0.3, 1).all()


def test_every_analysis_has_a_row():
    rows = "".join(line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line))
    words = set(re.findall(r"`(?:al\.sparsity\.)?(\w+)`", rows))
    words |= set(re.findall(r"`(\w+)` \(", rows))
    assert {*registry.STREAMED, *registry.FURTHER} <= words
