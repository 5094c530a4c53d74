"""The field's own data sets as lm-eval documents, from the Hub or from files in their own formats.

A task file names a function of this package as `custom_dataset`. By default the data come from the
Hub. `al.evals.run(..., data="dev.tsv")`, `arcee-lab eval --data dev.tsv` and lm-eval's own
`--metadata '{"data": "dev.tsv"}'` read a file instead, `{"arcee_sst2": "dev.tsv", ...}` one for
each of several tasks. A `.parquet` file holds the Hub's columns.
"""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetDict

from arcee_lab.evals.tasks.datasets import classification, files, question_answering
from arcee_lab.evals.tasks.datasets.source import Source, read_rows

Data = str | Mapping[str, str] | None

SQUAD = Source("squad", "rajpurkar/squad", None, "validation", files.read_squad)
SQUAD_V2 = Source("squad_v2", "rajpurkar/squad_v2", None, "validation", files.read_squad)


def sst2(*, data: Data = None, **_: Any) -> DatasetDict:
    """SST-2's sentences; local: GLUE's `dev.tsv`."""
    return _test(classification.SST2.documents(data))


def ag_news(*, data: Data = None, **_: Any) -> DatasetDict:
    """AG's news; local: the original `test.csv` (class 1 to 4, title, description)."""
    return _test(classification.AG_NEWS.documents(data))


def mnli(*, side: str, data: Data = None, **_: Any) -> DatasetDict:
    """MultiNLI; local: GLUE's `dev_matched.tsv` or MultiNLI's `.jsonl`.

    A document is the premise, a line break, and the hypothesis.

    Args:
        side: "matched" or "mismatched".
        data: A file in place of the Hub.
    """
    return _test(classification.MNLI[side].documents(data))


def conll2003(*, data: Data = None, **_: Any) -> DatasetDict:
    """CoNLL-2003's English names; local: `eng.testb`, whose labels are read as IOB1 or IOB2."""
    return _test(classification.CONLL2003.documents(data))


def wikiann(*, language: str = "en", data: Data = None, **_: Any) -> DatasetDict:
    """WikiANN's names; local: its `test` file (`en:word`, a tab, the label).

    Args:
        language: Its code, as "en".
        data: A file in place of the Hub.
    """
    return _test(classification.wikiann(language).documents(data))


def squad(*, data: Data = None, **_: Any) -> DatasetDict:
    """SQuAD v1.1; local: `dev-v1.1.json`."""
    return _test(question_answering.asked(read_rows(SQUAD, data), may_be_empty=False))


def squad_v2(*, data: Data = None, **_: Any) -> DatasetDict:
    """SQuAD v2.0, in which a question may have no answer; local: `dev-v2.0.json`."""
    return _test(question_answering.asked(read_rows(SQUAD_V2, data), may_be_empty=True))


def _test(rows: list[dict[str, Any]]) -> DatasetDict:
    return DatasetDict({"test": Dataset.from_list(rows)})
