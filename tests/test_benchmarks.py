"""The benchmark's arithmetic, and what its last results say."""

import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name in ("paired", "results", "repeated", "idle"):
        sys.modules.pop(name, None)


def test_ratios_are_of_the_contestant_over_the_reference(benchmarks, monkeypatch):
    import paired

    clock = [0.0]

    def work(seconds):
        return lambda: clock.__setitem__(0, clock[0] + seconds)

    monkeypatch.setattr(paired.time, "process_time", lambda: clock[0])
    results = paired.measure(
        work(0.010), {"same": work(0.010), "double": work(0.020)}, rounds=7, calls=3
    )
    assert results["same"].ratios == pytest.approx([1.0] * 7)
    assert results["double"].ratios == pytest.approx([2.0] * 7)
    assert results["double"].milliseconds == pytest.approx(20.0)
    assert results["double"].median == pytest.approx(2.0)
    assert results["double"].quartiles == pytest.approx((2.0, 2.0))


@pytest.mark.slow
def test_runs_without_the_peers(run_clean, tmp_path):
    said = run_clean(
        f"""
        import sys
        sys.path.insert(0, {str(BENCHMARKS)!r})
        import idle
        idle.main(["--rounds", "2", "--no-peers", "--out", {str(tmp_path / "RESULTS.md")!r}])
        """
    )
    assert (tmp_path / "RESULTS.md").read_text().count("arcee_lab, capture") == 2
    assert "transformers again (A/A)" in said


def test_a_section_replaces_its_last_one_and_no_other(benchmarks, tmp_path):
    import results

    path = tmp_path / "RESULTS.md"
    for title, body in (("One", "first"), ("Two", "kept"), ("One", "### second")):
        results.write_section(title, [body], command=f"make {title}", method="by hand", path=path)
    text = path.read_text()
    assert text.startswith("# Benchmarks")
    assert "first" not in text
    assert re.findall(r"^## (.*)$", text, re.M) == ["One", "Two"]
    assert text.index("### second") < text.index("## Two") < text.index("kept")
    assert "- Command: `make Two`" in text


def test_repeated_runs_show_what_each_measured(benchmarks, tmp_path):
    import repeated

    script = tmp_path / "one.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from results import write_section\n"
        f"runs = Path({str(tmp_path / 'runs')!r})\n"
        "with runs.open('a') as file: file.write('x')\n"
        "n = runs.stat().st_size\n"
        "rows = [\n"
        "    f'| fast | 3.0 | 1.0{n} | 1 to 2 | <= 1.025 | pass |', '| plain | 3 | 2.0 | | | |'\n"
        "]\n"
        "head = '| what | CPU ms per call | ratio, median | quartiles | target | |'\n"
        "dashes = '|---|---|---|---|---|---|'\n"
        "body = ['### Small: one layer', '\\n'.join([head, dashes, *rows])]\n"
        "where = Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "write_section('One', body, command='python3 run.py bench one', method='.', path=where)\n"
        "sys.exit(n == 3)\n"
    )
    out = tmp_path / "RESULTS.md"
    out.write_text("# Benchmarks\n\n## One\n\nold\n\n## Two\n\nkept\n")
    assert repeated.repeat(script, [], times=3, out=out) == 1
    text = out.read_text()
    assert "| Small | fast | 1.01, 1.02, 1.03 | <= 1.025 | 2 of 3 |" in text
    assert "| Small | plain" not in text
    assert "`python3 run.py bench one --times 3`" in text
    assert "old" not in text
    assert re.findall(r"^## (.*)$", text, re.M) == ["One", "Two"]


def recorded(title: str) -> str:
    """A section of the committed results."""
    text = (BENCHMARKS / "RESULTS.md").read_text()
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_committed_results_are_whole_and_pass():
    sections = re.split(r"^## ", (BENCHMARKS / "RESULTS.md").read_text(), flags=re.M)[1:]
    command = re.compile(r"^- Command: `(?:\w+=\S+ )*python3 run\.py (?:bench|test)", re.M)
    assert all(command.search(section) for section in sections)
    text = next(section for section in sections if section.startswith("What hook points cost"))
    assert int(re.search(r"median of (\d+) ratios", text)[1]) >= 31
    for name in ("transformers again (A/A)", "TransformerLens, idle", "nnsight, trace"):
        assert text.count(f"| {name} |") == 2
    verdicts = re.findall(r"\| arcee_lab, \w+ .*\| (\w+) \|$", text, re.MULTILINE)
    assert verdicts == ["pass"] * 4


def test_committed_results_of_patterns_pass():
    section = recorded("How long attention patterns take")
    assert int(re.search(r"median of (\d+) ratios", section)[1]) >= 31
    assert section.count("(A/A)") == 1
    assert "TransformerLens, run_with_cache of all layers" in section
    rows = r"\| arcee_lab, pattern of (?:one|all) layers? .*\| (\w+) \|$"
    assert re.findall(rows, section, re.MULTILINE) == ["pass", "pass"]
    rows = r"\| arcee_lab, (?:five head|those without).* all layers .*\| <= (\S+) \| (\w+) \|$"
    assert re.findall(rows, section, re.MULTILINE) == [("1.55", "pass"), ("1.30", "pass")]


def test_committed_results_of_sparsity_pass():
    section = recorded("What measuring sparsity costs")
    assert int(re.search(r"median of (\d+) ratios", section)[1]) >= 9
    row = r"^\| (core|all analyses), (?:every token|1 window in 8) .*\| <= ([\d.]+) \| (\w+) \|$"
    found = re.findall(row, section, re.MULTILINE)
    assert [(name, float(limit)) for name, limit, _ in found] == [
        ("core", 0.14),
        ("all analyses", 0.22),
        ("core", 1.45),
        ("all analyses", 1.8),
    ]
    assert {verdict for *_, verdict in found} == {"pass"}
    (megabytes,) = re.findall(r"^\| all \| ([\d.]+) \|$", section, re.MULTILINE)
    assert float(megabytes) <= 350


def test_committed_results_of_reducers_pass():
    section = recorded("What statistics cost")
    assert int(re.search(r"median of (\d+) ratios", section)[1]) >= 31
    for name in ("idle again (A/A)", "nnsight, tracer.cache", "TransformerLens, run_with_cache"):
        assert section.count(name) == 1
    row = r"\| arcee_lab, FiringRate \|.*\| <= 1\.035 \| (\w+) \|$"
    assert re.findall(row, section, re.MULTILINE) == ["pass"]


def test_committed_results_of_intervals_pass():
    section = recorded("Intervals of evaluations: coverage and pairing")
    assert "10,000 for each cell" in section
    rows = re.findall(r"^\|.*% \| \d+ to \d+ % \| (\w+) \|", section, re.MULTILINE)
    assert rows == ["pass"] * 5


def test_committed_results_of_evaluation_pass():
    section = recorded("Evaluation compared with lm-eval's hf")
    assert int(re.search(r"median of (\d+) ratios", section)[1]) >= 5
    row = r"^\| (.*?) \| .*\| (?:>= [\d.]+, )>= [\d.]+ \| (\w+) \|"
    verdicts = re.findall(row, section, re.MULTILINE)
    assert len({task for task, _ in verdicts}) == 8
    assert [verdict for _, verdict in verdicts] == ["pass"] * 16  # two shapes of model


@pytest.mark.slow
def test_patterns_run_without_the_peers(run_clean, tmp_path):
    said = run_clean(
        f"""
        import sys
        sys.path.insert(0, {str(BENCHMARKS)!r})
        import patterns
        patterns.main(["--rounds", "2", "--no-peers", "--out", {str(tmp_path / "RESULTS.md")!r}])
        """
    )
    assert said.count("arcee_lab, pattern of one layer") == 1
    assert "## How long attention patterns take" in (tmp_path / "RESULTS.md").read_text()
