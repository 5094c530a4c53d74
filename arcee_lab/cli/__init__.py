"""The command line: one file per command, and one place where errors become exit codes.

A command is a module of this package with `HELP` (one sentence), `EXAMPLE` (a line to paste),
`add_arguments(parser)` and `run(args) -> int`. It imports heavy packages inside `run`, so that
`arcee-lab --help` is fast.

Exit codes: 0 done, 2 bad input or a file that cannot be written, 130 interrupted, 141 the reader of
a pipe left; 2 and 130 print one line to stderr that says why. Anything else is a bug and keeps its
traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import NoReturn

from arcee_lab.errors import Interrupted

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
    except (ValueError, OSError) as error:
        print(f"arcee-lab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
