"""What docs/how-to/reducers.md says runs, and names every reducer there is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import arcee_lab as al
from arcee_lab.reducers.running.files import known_reducers

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "reducers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_python_blocks_run_in_order(capsys):
    assert len(BLOCKS) == 5
    names: dict = {}
    for block in BLOCKS[:-1]:  # the last one compiles, which shape checks break
        exec(compile(block, "docs/how-to/reducers.md", "exec"), names)
    total, stats = al.reducers.load(names["folder"]), names["stats"]
    site = names["post"]
    assert total.progress == {"texts": 4}
    assert total[site][0].tokens == 2 * stats[site][0].tokens
    assert names["groups"][site].names == ("barn", "likes")
    dominance = names["dominance"]
    assert list(dominance) == [f"layers.{layer}.mlp.hook_post" for layer in range(4)]
    assert all(0 < share <= 1 for share in dominance.values())
    # What the user wrote, against the same arithmetic on the activations.
    with al.capture(names["model"], site) as acts:
        names["model"](**names["batch"])
    x = acts[site][names["batch"]["attention_mask"].bool()]
    assert dominance[site] == pytest.approx(float((x.amax(-1) / x.sum(-1)).mean()), rel=1e-5)
    assert f"N = {stats[site][0].tokens} tokens" in capsys.readouterr().out


@pytest.mark.slow
def test_all_blocks_run_without_shape_checks(tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(BLOCKS), encoding="utf-8")
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1].startswith("FiringRates(N = ")


def test_every_reducer_has_a_row():
    rows = set(re.findall(r"^\| `(\w+)\(", PAGE, flags=re.MULTILINE))
    assert rows == set(known_reducers())


def test_the_reducer_of_the_page_is_short():
    (written,) = [block for block in BLOCKS if "class Dominance" in block]
    body = written[written.index("    def init") : written.index("\n\n\nwith")]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10
