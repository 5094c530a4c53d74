"""The field's own data sets as lm-eval documents, from the Hub or from files in their own formats.

A task file names a function of this package as `custom_dataset`. By default the data come from the
Hub. `al.evals.run(..., data="dev.tsv")`, `arcee-lab eval --data dev.tsv` and lm-eval's own
`--metadata '{"data": "dev.tsv"}'` read a file instead, `{"arcee_sst2": "dev.tsv", ...}` one for
each of several tasks. A `.parquet` file holds the Hub's columns.
"""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetDict

from arcee_lab.evals.standard import entities, files, labels, questions
from arcee_lab.evals.standard.source import Source, read_rows

Data = str | Mapping[str, str] | None

SST2 = Source("sst2", "stanfordnlp/sst2", None, "validation", files.read_table)
AG_NEWS = Source("ag_news", "fancyzhx/ag_news", None, "test", files.read_ag_news)
MNLI = {
    side: Source(f"mnli_{side}", "nyu-mll/glue", "mnli", f"validation_{side}", files.read_mnli)
    for side in ("matched", "mismatched")
}
CONLL2003 = Source("conll2003", "tomaarsen/conll2003", None, "test", files.read_conll)
SQUAD = Source("squad", "rajpurkar/squad", None, "validation", files.read_squad)
SQUAD_V2 = Source("squad_v2", "rajpurkar/squad_v2", None, "validation", files.read_squad)


def sst2(*, data: Data = None, **_: Any) -> DatasetDict:
    """SST-2's sentences; local: GLUE's `dev.tsv`."""
    return _test(labels.labelled(read_rows(SST2, data), SST2, labels.SST2, text=("sentence",)))


def ag_news(*, data: Data = None, **_: Any) -> DatasetDict:
    """AG's news; local: the original `test.csv` (class 1 to 4, title, description)."""
    rows = read_rows(AG_NEWS, data)
    return _test(labels.labelled(rows, AG_NEWS, labels.AG_NEWS, text=("text",)))


def mnli(*, side: str, data: Data = None, **_: Any) -> DatasetDict:
    """MultiNLI; local: GLUE's `dev_matched.tsv` or MultiNLI's `.jsonl`.

    A document is the premise, a line break, and the hypothesis.

    Args:
        side: "matched" or "mismatched".
        data: A file in place of the Hub.
    """
    source = MNLI[side]
    rows = read_rows(source, data)
    return _test(labels.labelled(rows, source, labels.MNLI, text=("premise", "hypothesis")))


def conll2003(*, data: Data = None, **_: Any) -> DatasetDict:
    """CoNLL-2003's English names; local: `eng.testb`, whose labels are read as IOB1 or IOB2."""
    return _test(entities.labelled(read_rows(CONLL2003, data), CONLL2003, entities.CONLL2003))


def wikiann(*, language: str = "en", data: Data = None, **_: Any) -> DatasetDict:
    """WikiANN's names; local: its `test` file (`en:word`, a tab, the label).

    Args:
        language: Its code, as "en".
        data: A file in place of the Hub.
    """
    source = Source("wikiann", "unimelb-nlp/wikiann", language, "test", files.read_wikiann)
    return _test(entities.labelled(read_rows(source, data), source, entities.WIKIANN))


def squad(*, data: Data = None, **_: Any) -> DatasetDict:
    """SQuAD v1.1; local: `dev-v1.1.json`."""
    return _test(questions.asked(read_rows(SQUAD, data), may_be_empty=False))


def squad_v2(*, data: Data = None, **_: Any) -> DatasetDict:
    """SQuAD v2.0, in which a question may have no answer; local: `dev-v2.0.json`."""
    return _test(questions.asked(read_rows(SQUAD_V2, data), may_be_empty=True))


def _test(rows: list[dict[str, Any]]) -> DatasetDict:
    return DatasetDict({"test": Dataset.from_list(rows)})
