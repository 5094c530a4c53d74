"""`use_cache`: answers kept in a file, whose they are, and how they are written.

lm-eval identifies requests only by their text, and pickles the answers into a dictionary in SQLite:
reading such a file runs whatever code is in it. Here the answers in that dictionary are JSON, in
every way in. A file with pickled answers, which `hf` or another program wrote, is refused without
being unpickled.
"""

import json
import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.api.model
from lm_eval.api.model import CacheHook, CachingLM

from arcee_lab.errors import FileError, OtherRun, SavedDamaged
from arcee_lab.evals.scoring.unscorable import Unscorable
from arcee_lab.runs.json_text import parse_json
from arcee_lab.runs.storage import require_local

_OWNER = "arcee_lab: whose answers these are"  # not a key of lm-eval's, which are hexadecimal
_TABLE = "unnamed"  # lm-eval's
_HEADER = b"SQLite format 3\0"
_AGAIN = "give another file name"


def cache_file(use_cache: str | os.PathLike) -> Path:
    """The file of a `use_cache`, named as lm-eval names it."""
    return Path(f"{os.fspath(use_cache)}_rank0.db")


def check_cache_file(path: Path) -> None:
    """Checks that a file is a cache of answers, or absent, before anything is written to it.

    Raises:
        FileError: It is something else, or cannot be read.
    """
    require_local(path)
    if not path.exists():
        return
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
        if size and header != _HEADER:
            raise FileError(f"{path} is no use_cache file (it is not SQLite); {_AGAIN}.")
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            found = opened.execute("SELECT type, name FROM sqlite_master").fetchall()
            opened.execute("PRAGMA quick_check(1)").fetchall()
    except FileError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise FileError(f"{path} is no use_cache file ({error}); {_AGAIN}.") from error
    strange = [name for kind, name in found if (kind, name) != ("table", _TABLE)]
    strange = [name for name in strange if not name.startswith("sqlite_autoindex_")]
    if strange:
        raise FileError(f"{path} is a database of another program ({strange[0]!r}); {_AGAIN}.")


@contextmanager
def answers_cached(lm: Any, use_cache: str | os.PathLike | None) -> Iterator[Any]:
    """The model to ask: the given one, or one that answers from a file what it answered before.

    Args:
        lm: An `ArceeLab`.
        use_cache: The file, without the ending `_rank0.db` that lm-eval adds; None for no cache.

    Raises:
        FileError: The file is no cache.
        OtherRun: It holds the answers of another model.
    """
    if use_cache is None:
        yield lm
        return
    path = cache_file(use_cache)
    check_cache_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = lm_eval.api.model.tqdm
    lm_eval.api.model.tqdm = partial(own, disable=True)  # one bar counts documents
    try:
        cached = CachingLM(lm, str(path))
        try:
            yield cached
        finally:
            cached.dbdict.close()
    finally:
        lm_eval.api.model.tqdm = own
        lm.set_cache_hook(CacheHook(None))


def require_own_cache(answers: Any, identity: dict[str, Any]) -> None:
    """Claims an empty cache, or checks that it holds answers of this model and interventions.

    From here on its answers are written and read as JSON.

    Args:
        answers: lm-eval's dictionary on disk.
        identity: Fingerprints, interventions and everything else that decides the scores, as JSON
            values.

    Raises:
        OtherRun: It holds answers of another model or other interventions, or does not say whose.
    """
    answers.encode, answers.decode = _encoded, _decoded  # before anything is read
    mine = json.dumps(identity, sort_keys=True)
    if _OWNER not in answers:
        if len(answers) == 0:
            answers[_OWNER] = mine
            answers.commit()
            return
        raise OtherRun(
            "This use_cache file does not say which model and interventions its answers are from, "
            f"so they may be stale; {_AGAIN}."
        )
    theirs = answers[_OWNER]
    if theirs != mine:
        before = parse_json(str(theirs), "the owner of this use_cache file")
        before = before if isinstance(before, dict) else {}
        other = [key for key in identity if before.get(key) != identity[key]]
        raise OtherRun(
            f"This use_cache file holds the answers of another run ({', '.join(other)} differ); "
            f"{_AGAIN}, one per model and intervention."
        )


def _encoded(answer: Any) -> str:
    if isinstance(answer, Unscorable):
        return json.dumps({"unscorable": answer.reason})
    return json.dumps(answer)


def _decoded(stored: Any) -> Any:
    """An answer of the file: a text, a log-likelihood, or one with whether it is greedy.

    Raises:
        SavedDamaged: It is none of these; bytes, which may be pickled, are not looked into.
    """
    if not isinstance(stored, str):
        raise SavedDamaged(
            "This use_cache file holds pickled answers of another program, and reading them would "
            f"run code; {_AGAIN}."
        )
    value = parse_json(stored, "an answer in this use_cache file", nan=True)
    if isinstance(value, dict) and isinstance(value.get("unscorable"), str):
        return Unscorable(value["unscorable"])
    if isinstance(value, str) or _is_number(value):
        return value
    if isinstance(value, list) and len(value) == 2 and _is_number(value[0]):
        return value[0], bool(value[1])
    raise SavedDamaged(f"An answer in this use_cache file is {stored[:60]!r}; {_AGAIN}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
