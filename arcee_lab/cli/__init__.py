"""The command line: one file per command, and one place where errors become exit codes.

A command is a module of this package with `HELP` (one sentence), `EXAMPLE` (a line to paste),
`add_arguments(parser)` and `run(args) -> int`. It imports heavy packages inside `run`, so that
`arcee-lab --help` is fast.

Exit codes: 0 done, 2 bad input, a file that cannot be written or too little memory, 130
interrupted, 141 the reader of a pipe left; 2 and 130 print one line to stderr that says why.
Anything else is a bug and keeps its traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import NoReturn

from arcee_lab import __version__
from arcee_lab.errors import ArceeLabError, Interrupted
from arcee_lab.runs.json_text import reason

# For an interrupt outside of long calls, which have messages of their own.
INTERRUPTED = "interrupted; finished files are complete, and the same command starts again."
SHARED = {"flags", "neuron_pages"}  # modules of this package that are no commands
COMMANDS = tuple(
    sorted(name.replace("_", "-") for _, name, _ in iter_modules(__path__) if name not in SHARED)
)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before them."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"arcee-lab: error: {message} (see {self.prog} --help)\n")


def build_parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Builds the parser of some commands; only their modules are imported.

    Args:
        names: Names from `COMMANDS`.

    Returns:
        A parser whose namespace has the command's `run`.
    """
    parser = _Parser(
        prog="arcee-lab",
        description="Inspect, measure, change and evaluate Arcee models.",
        epilog="Each command shows an example: arcee-lab COMMAND --help",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"arcee-lab {__version__}",
        help="print the version and end",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        module = import_module(f"arcee_lab.cli.{name.replace('-', '_')}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words after `arcee-lab`; by default those of the process.

    Returns:
        The exit code. Bad arguments raise SystemExit(2), as usual with argparse.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(words[:1] if words and words[0] in COMMANDS else COMMANDS)
    args = parser.parse_args(words)
    if any("\0" in word for word in words):  # no shell passes one, but a caller in Python can
        parser.error("a word holds a null byte; no file and no setting has one")
    try:
        return args.run(args)
    except KeyboardInterrupt as stopped:
        message = str(stopped) if isinstance(stopped, Interrupted) else INTERRUPTED
        print(f"arcee-lab: {' '.join(message.split())}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left (`| head`). Python would fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        said = _one_line(error)
        if said is None:
            raise
        print(f"arcee-lab: error: {said}", file=sys.stderr)
        return 2


def _one_line(error: Exception) -> str | None:
    """What a user is told about an error; None for one that is a fault of ours."""
    cause: BaseException | None = error
    while cause is not None:
        if _is_out_of_memory(cause):
            return (
                "there is not enough memory for this; expected less at once. Give a smaller "
                "--batch-size or --context, --dtype bfloat16, or another --device; what was "
                f"finished is kept ({type(cause).__name__}: {reason(cause)[:160]})."
            )
        cause = cause.__cause__
    if isinstance(error, ArceeLabError):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        file = "" if error.filename is None else f"{os.fspath(error.filename)!r}: "
        return (
            f"{file}{reason(error)}; expected a file or folder that can be read and written. Make "
            "room or get permission there, then repeat the same command."
        )
    if isinstance(error, ValueError):
        return f"{reason(error)}."
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    # By name: torch may not be there yet. Its allocator for the CPU has no class for this.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
