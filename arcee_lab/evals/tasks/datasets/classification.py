"""The data sets with one label per text or word: a head is fitted and scored on the same texts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from arcee_lab.evals.tasks.datasets import entities, files, labels
from arcee_lab.evals.tasks.datasets.source import Source, read_rows


class Classified(NamedTuple):
    """A data set for the sequence or the token head.

    Attributes:
        source: Where it is stored.
        names: Its labels, in the order of their ids on the Hub.
        text: Columns that make a text; without any, its words have the labels.
    """

    source: Source
    names: tuple[str, ...]
    text: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """The head that it asks: "sequence" or "token"."""
        return "sequence" if self.text else "token"

    def documents(
        self, data: str | Mapping[str, str] | None = None, *, split: str | None = None
    ) -> list[dict[str, Any]]:
        """Its documents.

        Args:
            data: A file in place of the Hub, or files by the name of the task.
            split: Split on the Hub; by default the one that results are reported on.

        Returns:
            Of a sequence head `head`, `text` and `label`, an index into the names; of a token head
            `head`, `text`, `words` and `labels`, which are names.

        Raises:
            ValueError: The data cannot be had, or a row is not as it should be.
        """
        source = self.source if split is None else self.source._replace(split=split)
        rows = read_rows(source, data)
        if self.text:
            return labels.labelled(rows, source, self.names, text=self.text)
        return entities.labelled(rows, source, self.names)


def wikiann(language: str) -> Classified:
    """WikiANN in a language, as "en"."""
    source = Source("wikiann", "unimelb-nlp/wikiann", language, "test", files.read_wikiann)
    return Classified(source, entities.WIKIANN)


SST2 = Classified(
    Source("sst2", "stanfordnlp/sst2", None, "validation", files.read_table),
    labels.SST2,
    ("sentence",),
)
AG_NEWS = Classified(
    Source("ag_news", "fancyzhx/ag_news", None, "test", files.read_ag_news),
    labels.AG_NEWS,
    ("text",),
)
MNLI = {
    side: Classified(
        Source(f"mnli_{side}", "nyu-mll/glue", "mnli", f"validation_{side}", files.read_mnli),
        labels.MNLI,
        ("premise", "hypothesis"),
    )
    for side in ("matched", "mismatched")
}
CONLL2003 = Classified(
    Source("conll2003", "tomaarsen/conll2003", None, "test", files.read_conll), entities.CONLL2003
)
BY_TASK = {
    f"arcee_{one.source.name}": one
    for one in (SST2, AG_NEWS, *MNLI.values(), CONLL2003, wikiann("en"))
}
