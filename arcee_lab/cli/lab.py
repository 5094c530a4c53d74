"""`arcee-lab lab`: JupyterLab on this machine only, protected by its token."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from arcee_lab.cli import flags
from arcee_lab.errors import SettingError
from arcee_lab.runs import bounds

HELP = "Open JupyterLab on the notebooks, reachable from this machine only."
EXAMPLE = "arcee-lab lab --no-browser --port 8890"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `lab`."""
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="start folder (default: notebooks/ if it exists, else the current folder)",
    )
    parser.add_argument(
        "--port", type=flags.Whole(1, bounds.PORT), metavar="N", help="default: 8888 or the next"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--allow-root", action="store_true", help="run as root, which Jupyter refuses by default"
    )


def command(args: argparse.Namespace) -> list[str]:
    """The command line that starts JupyterLab.

    Jupyter manages its token itself. News and the check for updates are off, since both use the
    network without being asked.
    """
    here = Path("notebooks") if Path("notebooks").is_dir() else Path()
    folder = (args.folder or here).resolve()
    if not folder.is_dir():
        raise SettingError(f"--folder {folder} is no folder; expected one that exists.")
    words = [
        *(sys.executable, "-m", "jupyterlab"),
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    if args.port:
        words.append(f"--ServerApp.port={args.port}")
    if args.no_browser:
        words.append("--no-browser")
    if args.allow_root:
        words.append("--allow-root")
    return words


def run(args: argparse.Namespace) -> int:
    """Starts JupyterLab and waits for it."""
    words = command(args)
    signal.signal(signal.SIGINT, lambda *_: None)  # Jupyter itself asks for confirmation
    # transformers' bars warn in the first cell of each notebook if ipywidgets is missing.
    quiet = {"PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore:IProgress not found")}
    return subprocess.call(words, env=os.environ | quiet)
