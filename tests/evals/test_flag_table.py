"""The table of lm-eval's flags in the docs is complete, and what it names exists."""

import argparse
import inspect
import re
from pathlib import Path

from lm_eval._cli.run import Run

from arcee_lab.cli import build_parser
from arcee_lab.evals import run

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "lm_eval_flags.md"


def rows():
    """Each row's flags of lm-eval, our flag, and our argument; None for a dash."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `--"):
            theirs, ours, argument, _ = line.strip("|").split("|")
            found.append((re.findall(r"`([^`]+)`", theirs), _word(ours), _word(argument)))
    return found


def _word(cell):
    words = re.findall(r"`([^`]+)`", cell)
    return words[0] if words else None


def lm_evals_flags():
    parser = argparse.ArgumentParser()
    made = Run(parser.add_subparsers())
    return {tuple(a.option_strings): a.dest for a in made._parser._actions if a.dest != "help"}


def our_flags():
    parser = build_parser(["eval"])
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {flag for a in commands.choices["eval"]._actions for flag in a.option_strings}


def test_every_flag_of_lm_eval_has_a_row():
    told = [flag for flags, _, _ in rows() for flag in flags]
    theirs = [flag for flags in lm_evals_flags() for flag in flags]
    assert sorted(told) == sorted(theirs)


def test_what_the_table_names_exists():
    flags, arguments = our_flags(), inspect.signature(run).parameters
    for _, flag, argument in rows():
        assert flag is None or flag in flags
        assert argument is None or argument in arguments


def test_every_argument_of_ours_is_a_flag_too():
    flags = our_flags()
    others = {"model", "tokenizer", "interventions", "heads", "draws", "progress", "out"}
    for name in inspect.signature(run).parameters:
        assert name in others or f"--{name.replace('_', '-')}" in flags, name
