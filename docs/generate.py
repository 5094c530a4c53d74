"""Writes the parts of the documentation that follow from the code, between markers in the pages.

    python docs/generate.py           writes them
    python docs/generate.py --check   says which of them are out of date, and exits with 1

`<!-- generated: folders -->` in design.md: one line per folder, the first line of its docstring.
`<!-- generated: imports -->` in design.md: which part of the package imports which.
`<!-- generated: files -->` in CONTRIBUTING.md: one line per file, the first line of its docstring.
`<!-- generated: arguments -->` in arguments.md: which public call takes which of the shared words.
`<!-- generated: transformerlens -->` in from_transformerlens.md: the hook points under both names.
`<!-- generated: pages -->` in docs/README.md: every page, by kind.
"""

import ast
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "arcee_lab"
sys.path.insert(0, str(ROOT))  # this tree, whatever is installed


def imports() -> str:
    """One line per part of the package, from the top down: the parts that it imports."""
    edges: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in ("__init__", "__main__", "_lazy"):
            continue
        edges.setdefault(part, set()).update(_parts(path) - {part, "_lazy"})
    height: dict[str, int] = {}

    def level(part: str) -> int:
        if part not in height:
            height[part] = 1 + max((level(other) for other in edges[part]), default=-1)
        return height[part]

    parts = sorted(edges, key=lambda part: (-level(part), part))
    width = max(map(len, parts))
    lines = [
        f"{part:<{width}}  -> {', '.join(sorted(edges[part], key=lambda p: (-level(p), p)))}"
        if edges[part]
        else part
        for part in parts
    ]
    return "\n".join(["```", *lines, "```"])


def folders() -> str:
    """One line per folder of the package."""
    lines = []
    for path in _files():
        if path.name == "__init__.py":
            folder = path.parent.relative_to(ROOT).as_posix()
            lines.append(f"- `{folder}/`: {_first_line(path)}")
    return "\n".join(lines)


def files() -> str:
    """One line per file of the package, folder by folder."""
    lines: list[str] = []
    folder = None
    for path in _files():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"**{folder.relative_to(ROOT).as_posix()}/**", ""]
        lines.append(f"- `{path.name}`: {_first_line(path)}")
    return "\n".join(lines).strip()


def arguments() -> str:
    """A table of the public calls that take a shared word: a row per call, a column per word."""
    text = (ROOT / "docs" / "reference" / "arguments.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| `(\w+)` \| (?!.*\|.*\|)", text, re.MULTILINE)
    lines = ["| call | " + " | ".join(f"`{word}`" for word in words) + " |"]
    lines.append("|---" * (len(words) + 1) + "|")
    for name, call in public_calls().items():
        known = inspect.signature(call).parameters
        if set(words) & set(known):
            cells = (_default(known[word]) if word in known else "" for word in words)
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def transformerlens() -> str:
    """A table of the hook points that TransformerLens has too, under its name and under ours."""
    from arcee_lab.sites import EMBED, FINAL, LAYER, Legend

    paths = {"layers": "blocks", "self_attn": "attn", "norm": "ln_final"}
    paths |= {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}
    lines = ["| TransformerLens | here |", "|---|---|"]
    for site in (EMBED, *LAYER, *FINAL):
        ours = site.template.replace("{L}", "0")
        last = ours.rpartition(".")[2]
        if last in ("hook_scale", "hook_scores", "hook_relu"):  # another quantity, or none there
            continue
        theirs = ".".join(paths.get(word, word) for word in ours.split("."))
        theirs = theirs.replace("hook_normalized", "hook_out")
        assert Legend(n_layers=1, head="causal").canonical(theirs) == ours
        lines.append(f"| `{theirs}` | `{ours}` |")
    return "\n".join(lines)


def pages() -> str:
    """Every page of the documentation, by kind."""
    lines: list[str] = []
    for heading, folder, pattern in (
        ("Tutorials", "notebooks", "[0-9]*.py"),
        ("How-to", "docs/how-to", "*.md"),
        ("Reference", "docs/reference", "*.md"),
        ("Explanation", "docs/explanation", "*.md"),
    ):
        lines += ["", f"## {heading}", ""]
        found = []
        for path in (ROOT / folder).glob(pattern):
            (title, *_) = re.findall(
                r"^(?:# )?# (?!%%)(.+)$", path.read_text("utf-8"), re.MULTILINE
            )
            target = path.with_suffix(".ipynb") if path.suffix == ".py" else path
            link = os.path.relpath(target, ROOT / "docs").replace(os.sep, "/")
            # Tutorials have an order, their numbers; the other pages that of their titles.
            key = path.name if path.suffix == ".py" else title
            found.append((key, f"- [{title}]({link})"))
        lines += [line for _, line in sorted(found)]
    return "\n".join(lines).strip()


def public_calls() -> dict[str, Callable[..., object]]:
    """Every public function, and the classes that a user calls with settings of a run, by name."""
    import arcee_lab

    found: dict[str, Callable[..., object]] = {}
    for prefix, package in _packages("", arcee_lab):
        for name in package.__all__:
            call = getattr(package, name)
            settings = name in ("ArceeLab", "DumpConfig", "HeadRecipe")
            if (settings or inspect.isfunction(call)) and call not in found.values():
                found[prefix + name] = call
    return found


def _packages(prefix: str, package: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    """The package and the public ones inside it, each with what its names begin with."""
    yield prefix, package
    for name in package.__all__:
        if inspect.ismodule(inner := getattr(package, name)) and hasattr(inner, "__all__"):
            yield from _packages(f"{prefix}{name}.", inner)


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    return "required" if value is parameter.empty else f"`{value}`"


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"), key=lambda path: (path.parent.parts, path.name))


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(re.split(r"\n\s*\n", text)[0].split())


def _parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        ours = [name.split(".") for name in names if name.startswith("arcee_lab.")]
        found |= {words[1] for words in ours if (PACKAGE / words[1]).exists()}
        found |= {words[1] for words in ours if (PACKAGE / f"{words[1]}.py").exists()}
    return found


PAGES: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("docs/explanation/design.md", "folders", folders),
    ("docs/explanation/design.md", "imports", imports),
    ("CONTRIBUTING.md", "files", files),
    ("docs/reference/arguments.md", "arguments", arguments),
    ("docs/how-to/from_transformerlens.md", "transformerlens", transformerlens),
    ("docs/README.md", "pages", pages),
)


def page_with(text: str, name: str, content: str) -> str:
    """A page with new content between the markers of that name.

    Raises:
        ValueError: The page lacks the markers.
    """
    begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"expected {begin} and {end} once each")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def main(arguments: list[str]) -> int:
    """Writes or checks all pages."""
    stale = []
    for page, name, make in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        new = page_with(text, name, make())
        if new == text:
            continue
        stale.append(f"{page} ({name})")
        if "--check" not in arguments:
            path.write_text(new, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"out of date: {', '.join(stale)}; run python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
