"""What the README says runs: each python block, each command line, each link."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_python_blocks_run_in_order(capsys, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 4
    names: dict = {}
    for number, block in enumerate(blocks):
        file = tmp_path / f"block_{number}.py"  # a file, so that a traceback shows the line
        file.write_text(block, encoding="utf-8")
        exec(compile(block, str(file), "exec"), names)
    said = capsys.readouterr().out
    active, width = map(int, re.search(r"(\d+) of (\d+) neurons of layer 2", said).groups())
    assert 0 < active < width
    assert "top 0 of 0" not in said  # an empty result says nothing
    assert re.search(r"value\n0 +\w+", said)  # the neuron fires on the texts of the store
    assert "Upper Kregleth" in said


@pytest.mark.parametrize(
    "line", [line for line in README.splitlines() if line.startswith("arcee-lab ")]
)
def test_command_lines_parse(line):
    from arcee_lab.cli import build_parser

    words = shlex.split(line)[1:]
    assert build_parser([words[0]]).parse_args(words).model


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing
