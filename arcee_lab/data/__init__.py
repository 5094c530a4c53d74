"""Texts: read from files and data sets, then cut into windows of tokens.

documents     `read_files`, `read_dataset`: one text at a time, numbered as in the user's file
rows          tables: JSON lines, JSON, CSV, TSV, Parquet, each also compressed
word_columns  one word per line with its labels in columns: CoNLL, CoNLL-U
squad         SQuAD's JSON: questions, contexts, answers
windows       `cut`: windows of tokens, and batches of them
tokenization  one BOS per text, offsets, chat templates
limits        checks of how much text a model reads
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.data.documents import read_dataset, read_files
    from arcee_lab.data.windows import PaddedBatch, Windows, cut

__all__ = [
    "PaddedBatch",
    "Windows",
    "cut",
    "read_dataset",
    "read_files",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "documents": ("read_dataset", "read_files"),
        "windows": ("PaddedBatch", "Windows", "cut"),
    },
)
