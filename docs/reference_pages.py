"""The pages of the site that follow from the code: every public name and every command.

The package is read, not imported; only the command line's parser is built.
"""

import argparse
import re
import sys
from functools import cache
from pathlib import Path
from typing import TypedDict

import griffe

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "arcee_lab"
sys.path.insert(0, str(ROOT))  # this tree, whatever is installed


class Written(TypedDict):
    """The pages that were written, by their place in the menu."""

    pages: list[Path]
    packages: list[Path]


@cache
def load() -> griffe.Module:
    """The package as griffe reads it."""
    found = griffe.load(
        PACKAGE, search_paths=[str(ROOT)], resolve_aliases=True, try_relative_path=False
    )
    assert isinstance(found, griffe.Module)
    return found


@cache
def public() -> dict[str, dict[str, griffe.Object]]:
    """Every public package, and each of its public names that is no package itself."""
    found: dict[str, dict[str, griffe.Object]] = {}

    def visit(module: griffe.Module) -> None:
        names: dict[str, griffe.Object] = {}
        found[module.path] = names
        for name in sorted(str(export) for export in module.exports or ()):
            value = module[name]
            value = value.final_target if value.is_alias else value
            if value.is_module:
                visit(value)
            else:
                names[name] = value
        for name, value in module.modules.items():
            # Packages with a public face that the parent's face does not list.
            if not name.startswith("_") and value.exports and value.path not in found:
                visit(value)

    visit(load())
    return found


def undocumented() -> list[str]:
    """Public names, and public members of public classes, that lack a docstring."""
    missing = []
    for package, names in public().items():
        for name, value in names.items():
            if value.is_attribute:  # a constant; its module's docstring describes it
                continue
            if not value.has_docstring:
                missing.append(f"{package}.{name}")
            if isinstance(value, griffe.Class):
                missing += [
                    f"{package}.{name}.{method.name}"
                    for method in value.functions.values()
                    if not method.name.startswith("_")
                    and not method.has_docstring
                    and not _inherits(value, method.name)
                ]
    return sorted(set(missing))


def write(folder: Path) -> Written:
    """Writes a page per public package and one of the commands."""
    inside = folder / "python"
    inside.mkdir(parents=True)
    packages = []
    described: set[str] = set()
    for package, names in public().items():
        page = inside / f"{package}.md"
        page.write_text(_package_page(package, names, described), encoding="utf-8")
        packages.append(page)
    commands = folder / "commands.md"
    commands.write_text(_commands_page(), encoding="utf-8")
    return {"pages": [commands], "packages": packages}


def _prose(package: str) -> str:
    """The docstring of a package; lists of its modules, whose columns are aligned, as they are."""
    module = load() if package == PACKAGE else load()[package.removeprefix(f"{PACKAGE}.")]
    text = module.docstring.value if module.docstring else ""
    text = re.sub(r"^Example:\n", "Example:\n\n", text, flags=re.MULTILINE)  # then a block
    parts = re.split(r"\n\s*\n", text)
    aligned = re.compile(r"^(?! ).*\S {2,}\S", re.MULTILINE)
    return "\n\n".join(f"```text\n{x}\n```" if aligned.search(x) else x for x in parts)


def home(path: str) -> str:
    """The public package whose page describes the object at a path, or "" if none does.

    Of several that offer it, the one with the longest name: `al.TopK` is in the page of
    `arcee_lab.interventions`.
    """
    homes = [name for name, values in public().items() if path in _paths(values)]
    return max(homes, key=len, default="")


def _paths(names: dict[str, griffe.Object]) -> set[str]:
    return {value.path for value in names.values()}


def _package_page(package: str, names: dict[str, griffe.Object], described: set[str]) -> str:
    lines = [f"# {package} {{#{package}}}", "", _prose(package), ""]
    elsewhere = {name: value for name, value in names.items() if home(value.path) != package}
    if elsewhere:
        lines += ["| name | described in |", "|---|---|"]
        lines += [
            f"| [`{name}`][{home(value.path)}.{name}] | "
            f"[`{home(value.path)}`]({home(value.path)}.md) |"
            for name, value in elsewhere.items()
        ]
        lines.append("")
    here = [name for name in names if name not in elsewhere]
    lines += [f"::: {package}.{name}\n" for name in here]
    results = sorted({path for name in here for path in _results(names[name])} - described)
    described.update(results)
    if results:
        lines += ["## What the calls return", ""]
        for path in results:
            lines += [f"::: {path}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def _results(value: griffe.Object) -> list[str]:
    """Classes of ours that a public function returns, and that no public package offers."""
    if not isinstance(value, griffe.Function) or not isinstance(value.returns, griffe.Expr):
        return []
    found = []
    for part in value.returns.iterate(flat=True):
        path = part.canonical_path if isinstance(part, griffe.ExprName) else ""
        if path.startswith(f"{PACKAGE}."):
            target = load()[path.removeprefix(f"{PACKAGE}.")]
            target = target.final_target if target.is_alias else target
            if target.is_class and not home(target.path):
                found.append(target.path)
    return found


def _commands_page() -> str:
    from arcee_lab.cli import COMMANDS, build_parser

    parser = build_parser()
    (choices,) = [
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    lines = ["# Commands", "", parser.description or "", ""]
    for name in COMMANDS:
        command = choices[name]
        lines += [f"## arcee-lab {name}", "", command.description or "", ""]
        lines += ["```", re.sub(r"\s+", " ", command.format_usage()).strip(), "```", ""]
        rows = [action for action in command._actions if action.help != argparse.SUPPRESS]
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| {_spelled(action)} | {_help(command, action)} |" for action in rows]
        example = (command.epilog or "").partition("example:")[2].strip()
        lines += ["", "```", example, "```", ""]
    return "\n".join(lines)


def _spelled(action: argparse.Action) -> str:
    words = ", ".join(f"`{word}`" for word in action.option_strings)
    if action.nargs == 0:
        return words
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    shown = f"`{value}`".replace("|", "\\|")
    return f"{words} {shown}" if words else shown


def _help(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = command._get_formatter()._expand_help(action) if action.help else ""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _inherits(value: griffe.Class, name: str) -> bool:
    """Whether a base class describes a method of that name."""
    return any(name in base.all_members and base[name].has_docstring for base in value.mro())
