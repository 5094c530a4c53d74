"""What docs/explanation/sparsity.md says runs, and names every analysis and rule there is."""

import re
from pathlib import Path

from dense import Letters

from arcee_lab import data
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.streamed import schedule

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


def test_the_table_of_predictors_is_what_the_schedule_does():
    """Each row of the table, on a text of that many windows: the windows and tokens it states."""
    (text,) = re.findall(r"\| windows of the text \|.*?\n\n", PAGE, flags=re.DOTALL)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:] if line
    ]
    sizes = {  # the first cell -> numbers of windows, and tokens in each
        "any": [(10, 5), (70, 5), (300, 5)],
        "below 64, and below 1,024 tokens": [(1, 1023), (63, 16)],
        "below 64, and 1,024 tokens or more": [(1, 1024), (63, 17)],
        "64 to 255": [(64, 5), (255, 40)],
        "256 or more": [(256, 5), (300, 5)],
        "below 256": [(10, 5), (63, 40), (255, 5)],
    }
    given = {"1": [1], "not given": [None], "N > 1": [2, 5]}
    windows = {"all": lambda plan, _: plan.sample_every == plan.spread == 1}
    windows["the sample (1 in 8)"] = lambda plan, _: (plan.sample_every, plan.spread) == (8, 1)
    windows["the sample (1 in N)"] = lambda plan, n: (plan.sample_every, plan.spread) == (n, 1)
    windows["every fourth of the sample"] = lambda plan, n: (
        plan.sample_every == (n or 8) and plan.spread == 4
    )
    every = {"all": 1, "1 in 32": 32, "1 in 16": 16}
    assert len(rows) == 7
    for texts, sample_every, chosen, tokens in rows:
        for number, length in sizes[texts]:
            cut = data.cut(Letters(), ["b" * (length - 1)] * number, context=length)
            assert (len(cut), cut.n_tokens) == (number, number * length)
            for n in given[sample_every]:
                plan = schedule.plan(cut, batch_size=8, sample_every=n)
                assert windows[chosen](plan, n), (texts, n)
                assert plan.every == every[tokens], (texts, n)
