"""Arrows point one way, and `import arcee_lab` is light."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "arcee_lab"
LAYERS = (
    {"sites"},
    {
        "model",
        "demo",
        "hub",
        "rows",
        "tokenization",
        "texts",
        "limits",
        "storage",
        "fingerprint",
        "ranks",
        "interrupted",
        "bounds",
        "seeds",
    },
    {
        "selection",
        "calls",
        "watching",
        "sharding",
        "compiled",
        "compiling",
        "recording",
        "planning",
        "temporary",
        "threads",
        "answering",
        "stopping",
        "reducers",
        "interventions",
        "trace",
        "decode",
    },
    {"sparsity", "neurons", "attention", "patching", "lens", "dump", "evals"},
    {"training"},
    {"cli", "__main__"},
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
# A neighbour in the same layer may be imported, but not these.
FORBIDDEN = {("model", "demo"), ("demo", "model")}
OWNERS = {"nnsight": "trace", "lm_eval": "evals"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> set[str]:
    """Absolute dotted names of all that a file imports, wherever in the file."""
    package = ("arcee_lab", *path.relative_to(PACKAGE).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(path for path in PACKAGE.rglob("*.py") if part_of(path) != "__init__")
PARTS = {part_of(path) for path in FILES}


def arrows(path: Path) -> set[str]:
    """The other parts of the package that a file imports; the package itself is `__init__`."""
    ours = {name for name in imported_names(path) if name.split(".")[0] == "arcee_lab"}
    parts = {[*name.split("."), "__init__"][1] for name in ours}
    return {part if part in PARTS else "__init__" for part in parts} - {part_of(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    part, seen = part_of(path), arrows(path)
    assert part in HEIGHT or part == "views", f"{part} has no layer; add it to LAYERS"
    if part == "views":
        assert not seen, "views draws arrays and imports nothing of ours"
        return
    if part not in ("cli", "__main__"):
        assert "__init__" not in seen, "import the part itself, not the package"
    for other in seen - {"__init__", "views"}:
        assert HEIGHT[other] <= HEIGHT[part], f"{part} lies below {other}"
        assert (part, other) not in FORBIDDEN, f"{part} may not import {other}"


def test_parts_form_no_circle():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(part_of(path), set()).update(arrows(path) - {"__init__"})
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_have_one_owner(path):
    names = imported_names(path)
    for package, owner in OWNERS.items():
        if part_of(path) != owner:
            assert not {name for name in names if name.split(".")[0] == package}
    assert not {name for name in names if name.startswith("transformers.models.arcee")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
    assert path.stem not in ("utils", "helpers", "common", "misc")


def test_import_is_light(run_clean):
    loaded = run_clean("import sys, arcee_lab; print(*sys.modules)").split()
    heavy = {"nnsight", "lm_eval", "matplotlib", "IPython", "transformers.models.arcee"}
    assert heavy.isdisjoint(loaded)


def test_help_is_light(run_clean):
    loaded = run_clean(
        """
        import sys
        from arcee_lab.cli import build_parser
        build_parser().format_help()
        print(*sys.modules)
        """
    ).split()
    assert {"torch", "transformers", "pandas", "matplotlib"}.isdisjoint(loaded)


def test_public_names_exist():
    import arcee_lab

    source = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in source.body if isinstance(node, ast.If)]
    shown = {alias.name for node in block.body for alias in node.names}
    assert shown == set(arcee_lab.__all__), "the block for type checkers lists other names"

    assert set(arcee_lab._HOMES) <= set(arcee_lab.__all__)
    for name in arcee_lab.__all__:
        assert getattr(arcee_lab, name) is not None
    with pytest.raises(AttributeError, match="'arcee_lab' has no attribute 'nothing'"):
        arcee_lab.nothing  # noqa: B018
    assert set(arcee_lab.__all__) <= set(dir(arcee_lab))
