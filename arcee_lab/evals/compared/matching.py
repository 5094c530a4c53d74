"""Which documents of two runs are the same ones."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from arcee_lab.errors import SettingError, TaskError
from arcee_lab.results import counted

WAYS = ("same", "common")


def match_documents(
    base: Sequence[dict[str, Any]],
    other: Sequence[dict[str, Any]],
    *,
    documents: str,
    where: str,
) -> list[tuple[int, int]]:
    """Positions of the same documents in two lists of samples, in the order of the first.

    Documents are the same if lm-eval's hash of them is; a document that occurs twice is matched
    with the occurrence of the same number.

    Args:
        base: Samples of one task and filter.
        other: The other run's.
        documents: "same", where both must have the same ones, or "common".
        where: Names the task and the runs in errors.

    Raises:
        TaskError: The runs have different documents, or none in common.
    """
    if documents not in WAYS:
        raise SettingError(f"documents is {documents!r}; expected 'same' or 'common'.")
    places = {key: at for at, key in enumerate(_keys(other))}
    pairs = [(at, places[key]) for at, key in enumerate(_keys(base)) if key in places]
    if not pairs:
        raise TaskError(
            f"{where} have no document in common ({counted(len(base), 'document')} and "
            f"{len(other):,}); compare runs of the same task and data."
        )
    if documents == "same" and not len(base) == len(other) == len(pairs):
        raise TaskError(
            f"{where} have different documents: {len(base):,} and {len(other):,}, of which "
            f"{len(pairs):,} are in both; give documents='common' (--common) to compare those."
        )
    return pairs


def _keys(samples: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    seen: Counter[str] = Counter()
    keys = []
    for sample in samples:
        name = str(sample["doc_hash"])
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys
