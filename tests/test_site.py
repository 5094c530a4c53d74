"""The site: it builds strictly and offline, lists every public name, and finds what is broken."""

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import arcee_lab

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
SPEC = importlib.util.spec_from_file_location("site_build", ROOT / "docs" / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)
reference = build.reference_pages
NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    child = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "build.py"), "--out", str(out)],
        env=build.os.environ | NO_NETWORK,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return out


def public_names():
    """Every public name of every public package, as Python itself lists them."""
    found, packages = set(), [("arcee_lab", arcee_lab)]
    for path, package in packages:
        for name in package.__all__:
            value = getattr(package, name)
            if hasattr(value, "__path__") or getattr(value, "__name__", "") == f"{path}.{name}":
                packages.append((f"{path}.{name}", value))
            else:
                found.add((path, name))
    return found


def test_every_public_name_has_an_entry(site):
    names = public_names()
    assert len(names) > 150
    folder = site / "docs" / "reference" / "python"
    texts = {path: (folder / f"{path}.html").read_text("utf-8") for path, _ in names}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    for path, name in sorted(names):
        if f"{path}.{name}" in anchors[path]:
            continue
        # Described in another package: the row of this page leads to an entry that exists.
        links = re.findall(rf'href="(?:([\w.]+)\.html)?#([\w.]+\.{name})"', texts[path])
        assert links, (path, name)
        assert all(anchor in anchors[home or path] for home, anchor in links), (path, name)


def test_every_command_and_flag_is_listed(site):
    from arcee_lab.cli import COMMANDS, build_parser

    text = (site / "docs" / "reference" / "commands.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"arcee-lab {name}" in text
        (group,) = [x for x in build_parser([name])._actions if x.choices and name in x.choices]
        for action in group.choices[name]._actions:
            assert all(f"<code>{word}</code>" in text for word in action.option_strings)


class Requests(HTMLParser):
    """What a browser fetches by itself when it opens a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        wanted = [given.get("src"), given.get("srcset"), given.get("poster")]
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            wanted.append(given.get("href"))
        self.found += [url for url in wanted if url and re.match(r"(https?:)?//", url)]


def test_no_page_asks_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        assert not Requests(page.read_text(encoding="utf-8")).found, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", sheet.read_text("utf-8")), sheet


def test_notebooks_have_their_outputs(site):
    for notebook in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        page = (site / "notebooks" / notebook.name).with_suffix(".html").read_text("utf-8")
        assert page.count("data:image/png;base64") >= 1, notebook.name


@pytest.mark.browser
def test_pages_fit_and_ask_nobody(site, chromium):
    """Light and dark, on a desk and on a phone: nothing is cut off, nothing is fetched."""
    names = ["index.html", "docs/reference/commands.html", "docs/reference/python/arcee_lab.html"]
    names += ["notebooks/04_activation_sparsity.html", "docs/how-to/measure_afm.html"]
    asked = []

    def answer(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    for scheme in ("light", "dark"):
        context = chromium.new_context(color_scheme=scheme)
        context.route("**/*", answer)
        page = context.new_page()
        for name in names:
            page.goto((site / name).as_uri())
            for width in (1200, 400):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            light = sum(map(int, re.findall(r"\d+", colour)[:3])) > 380
            assert light == (scheme == "light"), (name, colour)
        context.close()
    assert not asked


def test_a_dead_link_ends_the_build(tmp_path, monkeypatch, capfd):
    """A small site with one page; the same configuration."""
    monkeypatch.setattr(build.reference_pages, "undocumented", list)

    def collect(source):
        (source / "docs").mkdir(parents=True)
        shutil.copy(ROOT / "docs" / "site.css", source / "docs" / "site.css")
        (source / "README.md").write_text("# One\n\n[x](nowhere.md) [y](README.md#nothing)\n")
        return [{"Home": "README.md"}]

    monkeypatch.setattr(build, "collect", collect)
    assert build.build(tmp_path / "site") != 0
    said = capfd.readouterr().err
    assert "'nowhere.md'" in said
    assert "#nothing" in said


def test_an_undocumented_public_name_is_named(tmp_path, monkeypatch):
    package = tmp_path / "arcee_lab"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from arcee_lab.inner import Thing, described, silent\n"
        '__all__ = ["Thing", "described", "silent"]\n'
    )
    (package / "inner.py").write_text(
        'def described():\n    """It is."""\n\n\ndef silent():\n    pass\n\n\n'
        'class Thing:\n    """A class."""\n\n    def told(self):\n        """A method."""\n\n'
        "    def untold(self):\n        pass\n"
    )
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    for function in (reference.load, reference.public):
        function.cache_clear()
    try:
        assert reference.undocumented() == ["arcee_lab.Thing.untold", "arcee_lab.silent"]
    finally:
        for function in (reference.load, reference.public):
            function.cache_clear()


def test_the_public_names_of_this_package_are_documented():
    assert reference.undocumented() == []
