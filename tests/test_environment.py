"""pyproject.toml, constraints.txt and environment.yml tell one story."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
PIP = CONDA["dependencies"][-1]["pip"]


def specifiers(lines):
    """Canonical name -> specifier of requirement lines; a name stands once."""
    wanted = [Requirement(line) for line in lines]
    found = {canonicalize_name(need.name): (need.specifier, need.extras) for need in wanted}
    assert len(found) == len(wanted)
    return found


def pins():
    """(requirement, version) of each line of constraints.txt."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        need = Requirement(line)
        (pin,) = need.specifier
        assert pin.operator == "==", line
        yield need, pin.version


def test_environment_lists_what_pyproject_lists():
    listed = [line for line in PIP if not line.startswith("-")]
    assert specifiers(listed) == specifiers(PROJECT["dependencies"] + EXTRAS["dev"])


def test_environment_installs_the_project_at_the_pins():
    assert [line for line in PIP if line.startswith("-")] == ["-c constraints.txt", "-e ."]
    assert CONDA["channels"] == ["conda-forge"]
    python, pip, _ = CONDA["dependencies"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert pip == "pip"


def test_every_direct_dependency_is_pinned_and_fits():
    pinned = {}
    for need, version in pins():
        pinned.setdefault(canonicalize_name(need.name), []).append(version)
    direct = specifiers(PROJECT["dependencies"] + EXTRAS["dev"] + EXTRAS["bench"])
    for name, (specifier, _) in direct.items():
        assert name in pinned, f"{name} has no line in constraints.txt: python3 run.py lock"
        for version in pinned[name]:
            assert specifier.contains(version), f"{name}=={version} is not {specifier}"
    assert pinned["torch"] == ["2.13.0"]


def test_constraints_are_versions_alone():
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|^-|@|\+|--hash", text, re.MULTILINE)
    names = [canonicalize_name(need.name) for need, _ in pins()]
    assert names == sorted(names)


def test_this_environment_is_the_pinned_one():
    from importlib.metadata import version

    for name in specifiers(PROJECT["dependencies"] + EXTRAS["dev"]):
        pinned = {
            pin
            for need, pin in pins()
            if canonicalize_name(need.name) == name and (not need.marker or need.marker.evaluate())
        }
        assert {version(name).partition("+")[0]} == pinned, f"{name}: python3 run.py setup"


def test_the_version_is_written_once():
    import arcee_lab

    assert "version" in PROJECT["dynamic"]
    assert PYPROJECT["tool"]["hatch"]["version"] == {"path": "arcee_lab/__init__.py"}
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == arcee_lab.__version__


def test_the_wheel_lists_every_notebook():
    listed = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    notebooks = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {source for source in listed if source.startswith("notebooks/")} == notebooks
    assert all(listed[source] == f"arcee_lab/{source}" for source in notebooks)


@pytest.mark.slow
@pytest.mark.net
def test_the_wheel_holds_what_an_installed_package_needs(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-q", "-w", str(tmp_path)]
    child = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    (wheel,) = tmp_path.glob("arcee_lab-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "arcee_lab/py.typed" in names
    assert "arcee_lab/demo/checkpoint/model.safetensors" in names
    assert "arcee_lab/explorer/page/frame.js" in names
    assert "arcee_lab/explorer/page/explorer.css" in names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/", "docs/"))]
    code = (
        "from arcee_lab.cli import lab; from arcee_lab.evals.tasks import find\n"
        "print(*[path.name for path in lab.packaged_notebooks()])\n"
        "print(*sorted(path.name for path in find._PACKAGED.glob('*/*.yaml')))"
    )
    child = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    notebooks, tasks = child.stdout.splitlines()
    assert notebooks.split() == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert tasks.split() == sorted(path.name for path in (ROOT / "evals").glob("*/*.yaml"))


@pytest.mark.slow
@pytest.mark.net
def test_pip_can_resolve_the_conda_list(tmp_path):
    # conda hands the list to pip as a requirements file next to environment.yml.
    requirements = ROOT / f".environment-{tmp_path.name}.txt"
    requirements.write_text("\n".join(PIP) + "\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "-q",
        "-r",
    ]
    try:
        child = subprocess.run(
            [*command, requirements.name], cwd=ROOT, capture_output=True, text=True, check=False
        )
    finally:
        requirements.unlink()
    assert child.returncode == 0, child.stderr
