"""Builds the documentation as a site, without a network: `python3 run.py docs`.

    python docs/build.py [--out DIR]     out/site by default

A dead link, a page that no menu lists, or a public name without a docstring ends the build with 1.
The pages are copied to out/site-source with the folders of the repository, so that a link between
two of them is the same here and in the repository; reference_pages.py adds what the code says.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import reference_pages
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KINDS = {  # folder of docs/ -> its name in the menu
    "how-to": "How-to",
    "reference": "Reference",
    "explanation": "Explanation",
}
PROJECT = ("CONTRIBUTING.md", "CHANGELOG.md")
RESULTS = ("benchmarks/RESULTS.md", "arcee_lab/demo/checkpoint/MODEL_CARD.md")
FILES = ("README.md", "LICENSE", *PROJECT, *RESULTS)


def title(page: Path) -> str:
    """The first heading of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    if page.suffix == ".ipynb":
        found = re.search(r'"# ([^"\\]+)', text)
    if not found:
        raise ValueError(f"{page} has no heading.")
    return found[1].replace("`", "").strip()


def collect(source: Path) -> list:
    """Copies all pages to a folder and returns the menu."""
    for name in FILES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for path in sorted(HERE.rglob("*")):
        if path.suffix in (".md", ".png", ".css"):
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (source / "notebooks").mkdir()
    notebooks = [
        shutil.copy(path, source / "notebooks" / path.name)
        for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    ]
    written = reference_pages.write(source / "docs" / "reference")

    def entries(pages) -> list:
        return [{title(Path(page)): Path(page).relative_to(source).as_posix()} for page in pages]

    menu: list = [{"Home": "README.md"}, {"Tutorials": entries(notebooks)}]
    for kind, name in KINDS.items():
        pages = sorted((source / "docs" / kind).glob("*.md"), key=title)
        section = entries(page for page in pages if page not in written["pages"])
        if kind == "explanation":
            section += entries(source / name for name in RESULTS)
        if kind == "reference":
            section += entries(written["pages"])
            section += [{"Python": entries(written["packages"])}]
        menu.append({name: section})
    everything = [{"All pages": "docs/README.md"}, *entries(source / name for name in PROJECT)]
    return [*menu, {"Project": everything}]


def build(out: Path) -> int:
    """Builds the site and returns an exit code."""
    missing = reference_pages.undocumented()
    for name in missing:
        print(f"{name} is public and has no docstring.", file=sys.stderr)
    source = out.with_name(f"{out.name}-source")
    for folder in (source, out):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    settings = yaml.safe_load((HERE / "mkdocs.yml").read_text(encoding="utf-8"))
    settings |= {"docs_dir": str(source), "site_dir": str(out), "nav": collect(source)}
    for plugin in settings["plugins"]:
        if isinstance(plugin, dict) and "mkdocstrings" in plugin:
            python = plugin["mkdocstrings"]["handlers"]["python"]
            python["paths"] = [str(ROOT)]
            python["options"]["extensions"] = [str(HERE / "griffe_examples.py")]
    config = source.with_suffix(".yml")
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    # Not --quiet: with it mkdocs counts no warnings, and --strict fails for none.
    child = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config)],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "JUPYTER_PLATFORM_DIRS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    said = [line for line in child.stderr.splitlines() if not line.startswith("INFO")]
    print(*said, sep="\n", end="\n" * bool(said), file=sys.stderr)
    return child.returncode or int(bool(missing))


def main() -> int:
    """Reads the arguments and builds."""
    parser = argparse.ArgumentParser(prog="run.py docs", description="Build the site.")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "site", help="a folder to fill")
    out = parser.parse_args().out.resolve()
    code = build(out)
    if not code:
        print(out / "index.html")
    return code


if __name__ == "__main__":
    sys.exit(main())
