"""Whose answers a `--use_cache` file holds: lm-eval itself knows requests by their text alone."""

import json
from typing import Any

from arcee_lab.errors import OtherRun

_OWNER = "arcee_lab: whose answers these are"  # no key of lm-eval's, which are hexadecimal


def require_own_cache(answers: Any, identity: dict[str, Any]) -> None:
    """Claims an empty cache, or checks that it holds answers of this very model.

    Args:
        answers: lm-eval's dictionary on disk.
        identity: Fingerprints, interventions, and what else decides the numbers, as JSON values.

    Raises:
        ValueError: It holds answers of another model, of other interventions, or of nobody known.
    """
    mine = json.dumps(identity, sort_keys=True)
    theirs = answers.get(_OWNER)
    if theirs is None and len(answers) == 0:
        answers[_OWNER] = mine
        answers.commit()
        return
    if theirs is None:
        raise OtherRun(
            "This use_cache file holds answers without saying of which model or interventions, so "
            "they may be stale; give another file name."
        )
    if theirs != mine:
        before = json.loads(theirs)
        other = [key for key in identity if before.get(key) != identity[key]]
        raise OtherRun(
            f"This use_cache file holds the answers of another run: {', '.join(other)} differ. "
            "Give another file name, one a model and intervention."
        )
