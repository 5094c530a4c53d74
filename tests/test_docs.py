"""What the documentation says runs: each Python block, each command line, each link."""

import os
import re
import shlex
from pathlib import Path

import pytest

import arcee_lab as al

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
}
# Pages whose blocks another test runs, because it also looks at what they compute.
ELSEWHERE = {
    "README.md": "test_readme.py",
    "docs/how-to/attention.md": "attention/test_attention_docs.py",
    "docs/how-to/find_the_neurons_of_a_label.md": "neurons/test_neuron_docs.py",
    "docs/how-to/directions.md": "directions/test_direction_docs.py",
    "docs/how-to/interventions.md": "interventions/test_intervention_docs.py",
    "docs/how-to/nnsight.md": "trace/test_trace.py",
    "docs/how-to/reducers.md": "reducers/test_reducer_docs.py",
    "docs/how-to/steer_a_behaviour.md": "directions/test_direction_docs.py",
    "docs/explanation/sparsity.md": "sparsity/test_sparsity_docs.py",
    "docs/reference/errors.md": "test_errors.py",
    "docs/reference/formats.md": "dump/test_format_reader.py",
    "docs/reference/sites.md": "devices/test_compiled_decoding.py",
}
# A block behind `<!-- needs: cuda -->` or `<!-- needs: network -->` is only compiled.
NEEDS = re.compile(r"<!-- needs: (?:cuda|network) -->\s*\Z")
COMMAND = re.compile(r"^(?:arcee-lab|python -m arcee_lab|torchrun .* -m arcee_lab) ")


def python_blocks(page):
    """Each Python block of a page, and whether it runs here."""
    parts = re.split(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL)
    return [(code, not NEEDS.search(parts[2 * i])) for i, code in enumerate(parts[1::2])]


def commands(page):
    """The words of each command line of a page, behind the name of the program."""
    found = []
    for block in re.findall(r"```(?:\w*)\n(.*?)```", PAGES[page], flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found_now := COMMAND.match(line):
                found.append(shlex.split(line[found_now.end() :], comments=True))
    return found


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]
SLOW = {"docs/how-to/evals.md"}  # a sweep of a dozen runs
RUN_HERE = [
    pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
    for page in PAGES
    if page not in ELSEWHERE and python_blocks(page)
]


@pytest.mark.parametrize("page", RUN_HERE)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names: dict = {"__name__": "docs"}
    for number, (code, runs) in enumerate(python_blocks(page)):
        file = tmp_path / f"block_{number}.py"  # a file, so that a traceback shows the line
        code = re.sub(r"\blimit=\d+", "limit=4", code)
        file.write_text(code, encoding="utf-8")
        block = compile(code, str(file), "exec")
        if runs:
            exec(block, names)
    if page == "docs/how-to/measure_afm.md":
        check_table(capsys.readouterr().out)


def check_table(said):
    """Each row of the table of cards is what the page's own code computes, from `al.plan`."""
    rows = re.findall(r"^\| .*GB \|.*", PAGES["docs/how-to/measure_afm.md"], re.MULTILINE)
    assert len(rows) == 4
    assert [line for line in said.splitlines() if line.startswith("| ")] == rows


def test_the_shapes_behind_the_table_of_cards():
    """The bytes that the page adds up, by hand: 2 bytes times tokens times widths."""
    import torch

    with torch.device("meta"):
        afm = al.ArceeForCausalLM(al.ArceeConfig.afm_4_5b()).to(torch.bfloat16)
    assert sum(x.nbytes for x in afm.parameters()) == pytest.approx(9.24e9, rel=0.005)
    neurons = al.plan(afm, "layers.*.mlp.hook_post", batch=1, length=2048).bytes
    assert neurons == 36 * 2048 * 18432 * 2
    logits = al.plan(afm, "hook_logits", batch=1, length=2048).bytes
    assert logits == 2048 * 128005 * 2


def test_pages_that_are_run_elsewhere_are_run_there():
    for page, test in ELSEWHERE.items():
        text = (ROOT / "tests" / test).read_text(encoding="utf-8")
        assert page in PAGES
        assert Path(page).name in text, f"{test} does not read {page}"


def test_blocks_for_cuda_and_the_network_are_marked_in_the_same_way():
    for page, text in PAGES.items():
        marks = re.findall(r"^<!-- needs: ", text, re.MULTILINE)
        skipped = [code for code, runs in python_blocks(page) if not runs]
        assert len(marks) == len(skipped), page


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: str(value)[:60])
def test_command_lines_parse(page, words):
    from arcee_lab.cli import build_parser

    assert build_parser([words[0]]).parse_args(words).run


def test_names_in_the_text_exist():
    """Every `al....` of the pages, in prose as well as in code."""
    missing = set()
    for page, text in PAGES.items():
        for name in set(re.findall(r"\bal((?:\.[A-Za-z_]\w*)+)", text)):
            value = al
            for part in name.split(".")[1:]:
                value = getattr(value, part, missing)
                if value is missing:
                    missing.add(f"{page}: al{name}")
                    break
    assert not missing


def test_tasks_of_run_py_exist():
    tasks = re.findall(r"^  (\w+) +", (ROOT / "run.py").read_text(encoding="utf-8"), re.MULTILINE)
    for page, text in PAGES.items():
        for task in re.findall(r"python3 run\.py (\w+)", text):
            assert task in tasks, (page, task)


RUN = [
    "docs/how-to/measure_afm.md",
    "docs/how-to/dump_ten_million_tokens.md",
    "docs/how-to/evaluate_under_an_ablation.md",
]
SMALL = {"--max-tokens": "300", "--context": "64", "--shard-tokens": "128", "--limit": "3"}
SMALL |= {"--threads": "1", "--queue-mib": "64"}


def on_the_demo(words, text):
    """The command line with the demo, a small text and small numbers; without a GPU."""
    words = ["demo" if word.startswith("arcee-ai/") else word for word in words]
    small: list[str] = []
    for at, word in enumerate(words):
        before = words[at - 1] if at else ""
        if word in ("--device", "--dtype") or before in ("--device", "--dtype"):
            continue
        if before == "--text":
            word = str(text)
        if before == "--sites":
            word = word.replace("15:21", "1:3")
        small.append(SMALL.get(before, word))
    return [*small, "--analyses", "core"] if small[0] == "sparsity" else small


@pytest.mark.parametrize("page", RUN)
def test_command_lines_run_on_the_demo(page, tmp_path, monkeypatch, capsys):
    from arcee_lab import cli

    monkeypatch.chdir(tmp_path)
    text = tmp_path / "corpus.txt"
    text.write_text("The horses behind the old boat sleep. Nipu likes olives. " * 40)
    edit = al.Ablate("layers.2.mlp.hook_post", units=[3])
    Path("ablation.json").write_text(al.interventions.to_json([edit]))
    lines = commands(page)
    assert lines
    for words in lines:
        small = on_the_demo(words, text)
        assert cli.main(small) == 0, small
        if "--dry-run" in small:  # "Run the command without `--dry-run`."
            assert not os.path.exists("acts")
            assert cli.main([word for word in small if word != "--dry-run"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://)([^)#\s]+)", PAGES[page])
    missing = [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]
    assert not missing


def test_the_index_of_the_site_is_complete():
    listed = set(re.findall(r"\]\(([^)]+)\)", PAGES["docs/README.md"]))
    pages = {path.removeprefix("docs/") for path in PAGES if path.startswith("docs/")}
    assert pages - {"README.md"} <= listed
