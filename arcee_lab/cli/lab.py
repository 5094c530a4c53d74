"""`arcee-lab lab`: JupyterLab on this machine only, protected by its token."""

import argparse
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from arcee_lab.cli import flags
from arcee_lab.errors import SettingError
from arcee_lab.runs import bounds, storage

HELP = "Open JupyterLab on the notebooks, reachable from this machine only."
EXAMPLE = "arcee-lab lab --no-browser --port 8890"
_PACKAGED = Path(__file__).parents[1] / "notebooks"  # where a wheel puts them
_CHECKOUT = Path(__file__).parents[2] / "notebooks"
_NEW = "arcee_lab_notebooks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `lab`."""
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where Lab starts; a new or empty folder gets a copy of the notebooks "
        f"(default: notebooks/ if there is one here, else {_NEW}/)",
    )
    parser.add_argument(
        "--port", type=flags.Whole(1, bounds.PORT), metavar="N", help="default: 8888 or the next"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--allow-root", action="store_true", help="run as root, which Jupyter refuses by default"
    )


def start_folder(named: Path | None) -> Path:
    """The folder in which Lab starts, as an absolute path; filled where it is new or empty.

    Args:
        named: The folder that the user names. None: `notebooks/` if there is one here, and
            otherwise `arcee_lab_notebooks/`, with a copy of the package's notebooks.

    Raises:
        SettingError: It is a file, or its parent folder does not exist.
    """
    here = Path("notebooks")
    folder = (named or (here if here.is_dir() else Path(_NEW))).resolve()
    if folder.is_file() or not folder.parent.is_dir():
        raise SettingError(
            f"--folder {folder} is a file or its parent folder does not exist; name a folder that "
            "exists, or a new one in a folder that exists."
        )
    folder = storage.make_folder(folder)
    if not any(folder.iterdir()):
        for notebook in packaged_notebooks():
            shutil.copy(notebook, folder)
        print(f"arcee-lab: copied the notebooks to {folder}")
    return folder


def packaged_notebooks() -> list[Path]:
    """The notebooks that come with the package, installed or in a checkout."""
    return sorted((_PACKAGED if _PACKAGED.is_dir() else _CHECKOUT).glob("[0-9][0-9]_*.ipynb"))


def command(args: argparse.Namespace) -> list[str]:
    """The command line that starts JupyterLab.

    Jupyter manages its token itself. News and the check for updates are off, since both use the
    network without being asked.
    """
    folder = start_folder(args.folder)
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
    signal.signal(signal.SIGINT, lambda *_: None)  # Jupyter asks back on Ctrl-C; let it
    return subprocess.call(words)
