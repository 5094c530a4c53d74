"""Executes notebooks/NN_name.py into notebooks/NN_name.ipynb, the same bytes wherever it can.

    python3 run.py notebooks [NAME...] [--out DIR]

The sources are jupytext percent files. They run on the demo, or on the model that ARCEE_LAB_MODEL
names, with this folder as their current directory.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
DEFAULTS = {"ARCEE_LAB_MODEL": "demo", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# A stored widget is an empty box on the web, so nothing draws a bar: not we, no other library.
NO_BARS = {
    "ARCEE_LAB_PROGRESS": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers reads it too
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
QUIET = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # debugpy would warn about frozen modules on stderr
LARGEST = 600_000  # bytes of a notebook with its outputs
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[Path]:
    """The notebooks' sources, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> nbformat.NotebookNode:
    """Reads a percent file as a notebook without outputs."""
    return normalise(jupytext.read(source, fmt="py:percent"))


def parameterise(notebook: nbformat.NotebookNode, **values: object) -> nbformat.NotebookNode:
    """Puts other values behind the cell tagged `parameters`, as papermill does; in place."""
    place = next(
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    lines = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    cell = nbformat.v4.new_code_cell(lines, metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(place + 1, cell)
    return notebook


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leaves nothing in a notebook that changes from run to run; in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5  # the first with cell ids
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)  # when each cell ran
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:  # the static face of a widget, which no stored state would open
                data.pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


def lighten(notebook: nbformat.NotebookNode, most: int = LARGEST) -> nbformat.NotebookNode:
    """Leaves the PNG alone of figures with the largest SVGs, until the notebook fits; in place.

    A figure that has been run again is an SVG in any case.
    """
    pictures = [
        output.data
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if {"image/svg+xml", "image/png"} <= set(output.get("data", {}))
    ]
    pictures.sort(key=lambda data: len(data["image/svg+xml"]))
    while pictures and len(nbformat.writes(notebook)) > most:
        del pictures.pop()["image/svg+xml"]
    return notebook


def execute(source: Path) -> nbformat.NotebookNode:
    """Runs a source in a fresh kernel.

    Raises:
        CellExecutionError: A cell failed; the message has its traceback.
    """
    notebook = read(source)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    )
    return lighten(normalise(client.execute(env=DEFAULTS | os.environ | NO_BARS | QUIET)))


def main(argv: list[str] | None = None) -> int:
    """Builds the named notebooks, or all."""
    parser = argparse.ArgumentParser(prog="run.py notebooks", description="Builds notebooks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 01_first_look")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="default: notebooks/")
    args = parser.parse_args(argv)
    known = {source.stem: source for source in sources()}
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"no notebook {unknown[0]!r}; there are: {', '.join(known)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or known:
        start = time.perf_counter()
        try:
            notebook = execute(known[name])
        except CellExecutionError as error:
            print(f"notebook {name} failed:\n{error}", file=sys.stderr)
            return 1
        path = args.out / f"{name}.ipynb"
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1024
        print(f"{path}  {time.perf_counter() - start:.1f} s  {size:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
