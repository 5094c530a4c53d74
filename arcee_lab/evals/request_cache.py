"""Whose answers a `--use_cache` file holds: lm-eval identifies requests only by their text."""

import json
from typing import Any

from arcee_lab.errors import OtherRun
from arcee_lab.runs.json_text import parse_json

_OWNER = "arcee_lab: whose answers these are"  # not a key of lm-eval's, which are hexadecimal


def require_own_cache(answers: Any, identity: dict[str, Any]) -> None:
    """Claims an empty cache, or checks that it holds answers of this model and interventions.

    Args:
        answers: lm-eval's dictionary on disk.
        identity: Fingerprints, interventions and everything else that decides the scores, as JSON
            values.

    Raises:
        OtherRun: It holds answers of another model or other interventions, or does not say whose.
    """
    mine = json.dumps(identity, sort_keys=True)
    theirs = answers.get(_OWNER)
    if theirs is None and len(answers) == 0:
        answers[_OWNER] = mine
        answers.commit()
        return
    if theirs is None:
        raise OtherRun(
            "This use_cache file does not say which model and interventions its answers are from, "
            "so they may be stale; give another file name."
        )
    if theirs != mine:
        before = parse_json(theirs, "the owner of this use_cache file")
        other = [key for key in identity if before.get(key) != identity[key]]
        raise OtherRun(
            f"This use_cache file holds the answers of another run ({', '.join(other)} differ); "
            "give another file name, one per model and intervention."
        )
