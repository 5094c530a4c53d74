"""Imports point down, no two files import each other, and `import arcee_lab` is light."""

import ast
import importlib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "arcee_lab"
# From the bottom up. Parts of one line do not import each other.
LAYERS = (
    {"_lazy", "errors"},
    {"sites"},
    {"results", "bootstrap", "runs"},
    {"demo"},
    {"model", "data"},
    {"hooks"},
    {"reducers", "interventions", "trace", "heads"},
    {"recording"},
    {"sparsity", "dump", "patching"},
    {"attention", "neurons"},
    {"lens", "directions"},
    {"circuits"},
    {"evals"},
    {"training"},
    {"lesson", "explorer"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
OWNERS = {"nnsight": "trace", "lm_eval": "evals"}
PUBLIC = (
    "attention",
    "data",
    "demo",
    "directions",
    "dump",
    "errors",
    "evals",
    "evals.metrics",
    "interventions",
    "lens",
    "lesson",
    "model",
    "neurons",
    "neurons.labels",
    "patching",
    "reducers",
    "sparsity",
    "trace",
    "training",
    "training.heads",
)
MOST_FILES = 15  # directly in one folder; `cli` has one per command


def module_of(path: Path) -> str:
    name = ".".join(("arcee_lab", *path.relative_to(PACKAGE).with_suffix("").parts))
    return name.removesuffix(".__init__")


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
PARTS = {name.split(".")[1] for name in FILES if name != "arcee_lab"}


def statements(path: Path, *, faces: bool = True) -> list[ast.Import | ast.ImportFrom]:
    """All imports of a file, wherever they are.

    Args:
        path: The file.
        faces: Whether to include what a package's face lists for type checkers alone.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not faces and path.name == "__init__.py":
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ]
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path, *, faces: bool = True) -> set[str]:
    """Dotted names that a file imports; of ours, the file that holds them."""
    names = set()
    for node in statements(path, faces=faces):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        assert not node.level, f"{path}: write imports in full"
        assert node.module
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            names.add(whole if whole in FILES else node.module)
    return names


def ours(path: Path, *, faces: bool = True) -> set[str]:
    return {name for name in imported(path, faces=faces) if name.split(".")[0] == "arcee_lab"}


def part_of(name: str) -> str:
    return [*name.split("."), "__init__"][1]


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    part = part_of(name)
    if part == "__init__":
        return  # the face of the package names everything
    assert part in HEIGHT or part == "views", f"{part} has no layer; add it to LAYERS"
    for other in {part_of(found) for found in ours(FILES[name])} - {part, "views"}:
        if part == "views":
            assert other in ("errors", "_lazy"), "views draws arrays and imports no other part"
        elif other == "__init__":
            assert part in ("cli", "__main__"), "import the part itself, not the package"
        else:
            assert HEIGHT[other] < HEIGHT[part], f"{part} is below {other}, or next to it"


def test_no_two_files_import_each_other():
    graph = {name: ours(path, faces=False) & set(FILES) - {name} for name, path in FILES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"an import cycle: {' -> '.join(error.args[1])}")


def test_the_test_for_cycles_finds_one():
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


@pytest.mark.parametrize("name", FILES)
def test_heavy_packages_have_one_owner(name):
    names = imported(FILES[name])
    for package, owner in OWNERS.items():
        if part_of(name) != owner:
            assert not {found for found in names if found.split(".")[0] == package}
    assert not {found for found in names if found.startswith("transformers.models.arcee")}


@pytest.mark.parametrize("name", FILES)
def test_files_stay_readable(name):
    path = FILES[name]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
    assert path.stem not in ("utils", "helpers", "common", "misc")


def test_folders_stay_readable():
    folders = {path.parent for path in FILES.values()} - {PACKAGE / "cli"}
    full = {folder: len(list(folder.glob("*.py"))) for folder in folders}
    assert not {folder.name for folder, files in full.items() if files > MOST_FILES}


def test_folders_of_tests_have_the_names_of_parts():
    folders = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert folders - PARTS == {"bad_input", "browser", "devices"}  # as CONTRIBUTING.md says


def test_import_is_light(run_clean):
    loaded = run_clean("import sys, arcee_lab; print(*sys.modules)").split()
    heavy = {"torch", "nnsight", "lm_eval", "matplotlib", "IPython", "transformers", "pandas"}
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


def faces() -> list[str]:
    return ["arcee_lab", *(f"arcee_lab.{name}" for name in PUBLIC)]


@pytest.mark.parametrize("name", faces())
def test_a_face_shows_its_public_names_and_nothing_else(name):
    package = importlib.import_module(name)
    assert dir(package) == sorted(package.__all__)
    for public in package.__all__:
        assert getattr(package, public) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_inner_faces_are_reached_from_the_outer_ones():
    for name in PUBLIC:
        outer, _, inner = f"arcee_lab.{name}".rpartition(".")
        assert inner in dir(importlib.import_module(outer)), name


@pytest.mark.parametrize("name", faces())
def test_type_checkers_see_the_same_names(name):
    source = ast.parse(FILES[name].read_text(encoding="utf-8"))
    blocks = [node for node in source.body if isinstance(node, ast.If)]
    shown = {
        alias.name
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if blocks:
        missing = set(importlib.import_module(name).__all__) - shown
        assert missing <= {"register"}, "the block for type checkers lists other names"


@pytest.mark.parametrize("name", faces())
def test_no_module_has_the_name_of_a_public_function(name):
    package = importlib.import_module(name)
    for public in package.__all__:
        whole = f"{name}.{public}"
        assert whole not in FILES or type(getattr(package, public)).__name__ == "module", (
            f"import {whole} would hide the function of that name; call the module _{public}"
        )
