"""Bad texts: files of every kind, for every command that reads some, and labelled texts."""

import io
from collections.abc import Callable
from typing import Any

from cases import Case, command

JSONL = {
    "a lone surrogate": '{"text": "half \\ud800 pair"}\n',
    "deep": '{"text": ' + "[" * 10_000 + "]" * 10_000 + "}\n",
    "a number": "5\n",
    "a string": '"text"\n',
    "a list": '["text"]\n',
    "null": "null\n",
    "not JSON": "{text}\n",
    "no text": '{"body": "x"}\n',
    "text a number": '{"text": 5}\n',
    "text null": '{"text": null}\n',
    "text a list": '{"text": ["a", 5]}\n',
    "text an object": '{"text": {"a": "b"}}\n',
    "text a conversation": '{"text": [{"role": "user", "content": 5}]}\n',
    "only blanks": '{"text": " "}\n',
    "empty": "",
    "binary": b"\x00\x01\x02\n",
    "latin": '{"text": "caf\xe9"}\n'.encode("latin-1"),
    "cut": '{"text": "a"}\n{"text": "b',
    "a long number": '{"text": ' + "9" * 5_000 + "}\n",
}
FILES: dict[str, dict[str, bytes | str]] = {
    "jsonl": JSONL,
    "json": {
        "a number": "5",
        "a text": '"x"',
        "rows of numbers": "[1, 2]",
        "rows of lists": '[["a"]]',
        "two lists": '{"a": [], "b": []}',
        "no rows": "[]",
        "deep": "[" * 10_000 + "]" * 10_000,
        "not JSON": "[",
        "a surrogate": '[{"text": "\\udfff"}]',
    },
    "csv": {
        "no header": "a,b\nc,d\n",
        "ragged": "text,b\nx\n",
        "an open quote": 'text\n"abc\n',
        "twice": "text,text\na,b\n",
        "empty": "",
        "only a header": "text\n",
        "zero bytes": b"text\na\0b\n",
        "a long cell without a column": "body\n" + "x" * 200_000 + "\n",
    },
    "tsv": {"ragged": "text\tb\nx\n", "no column": "a\nb\n", "latin": b"text\n\xff\n"},
    "parquet": {
        "empty": b"",
        "text": b"hello",
        "magic": b"PAR1PAR1",
        "long footer": b"PAR1" + b"\xff" * 8 + b"PAR1",
    },
    "txt": {"empty": "", "binary": b"\0\1", "latin": b"caf\xe9"},
    "jsonl.gz": {"not packed": '{"text": "a"}\n', "cut": b"\x1f\x8b\x08\0\0\0\0\0", "empty": b""},
    "zip": {"packed": b"PK\3\4"},
}
LABELLED = {
    "no label": '{"text": "a"}\n',
    "label null": '{"text": "a", "label": null}\n',
    "label a fraction": '{"text": "a", "label": 0.5}\n',
    "label a list": '{"text": "a", "label": ["a"]}\n',
    "text blank": '{"text": "", "label": "a"}\n',
    "text null": '{"text": null, "label": "a"}\n',
    "rows of numbers": "5\n",
    "rows of lists": "[1]\n",
    "rows of strings": '"a"\n',
    "one label": '{"text": "a", "label": "a"}\n{"text": "b", "label": "a"}\n',
    "a surrogate": '{"text": "\\ud800", "label": "a"}\n{"text": "b", "label": "b"}\n',
    "a surrogate as label": '{"text": "c", "label": "\\ud800"}\n{"text": "b", "label": "b"}\n',
    "deep": "[" * 10_000 + "\n",
    "empty": "",
}
COLUMNS: dict[str, bytes | str] = {
    "one column": "word O\nword\n",
    "ragged": "word X O\nword O\n",
    "only words": "word\n",
    "a surrogate": "\ud800 O\n".encode("utf-8", "surrogatepass"),
    "binary": b"word O\n\0 O\n",
    "latin": b"caf\xe9 O\n",
    "empty": "",
    "only blanks": "\n\t\n\n",
    "one label": "word O\n",
    "long": "x" * 200_000 + "\n",
}
UNIVERSAL: dict[str, bytes | str] = {
    "few columns": "1\tword\tX\n",
    "spaces": "1 word word X X _ 0 root _ _\n",
    "only comments": "# text = word\n\n",
    "a blank word": "1\t \t_\tX\t_\t_\t0\troot\t_\t_\n2\tb\t_\tY\t_\t_\t0\troot\t_\t_\n",
}
SQUAD: dict[str, bytes | str] = {
    "no object": "[]",
    "no data": '{"version": "1.1"}',
    "data a number": '{"data": 5}',
    "articles numbers": '{"data": [5]}',
    "no paragraphs": '{"data": [{"paragraphs": null}]}',
    "no context": '{"data": [{"paragraphs": [{"qas": []}]}]}',
    "no questions": '{"data": [{"paragraphs": [{"context": "a", "qas": []}]}]}',
    "question null": '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": null}]}]}]}',
    "no answers": '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}',
    "answer elsewhere": '{"data": [{"paragraphs": [{"context": "a b", "qas": [{"question": "c", '
    '"answers": [{"text": "b", "answer_start": 0}]}]}]}]}',
    "a long number": '{"data": [{"paragraphs": [{"context": "a b", "qas": [{"question": "c", '
    '"answers": [{"text": "b", "answer_start": ' + "9" * 4_000 + "}]}]}]}]}",
    "deep": '{"data": ' + "[" * 10_000 + "]" * 10_000 + "}",
    "cut": '{"data": [{"paragraphs": [',
    "empty": "",
}
TABLES: dict[str, bytes | str] = {  # of SST-2 and AG's news, without a header
    "ragged": "fine soup\t1\ndull bread\n",
    "latin": b"caf\xe9\t1\n",
    "a blank text": "\t1\nb\t0\n",
    "no label": "fine soup\t\nb\t0\n",
    "empty": "",
}


def cases() -> list[Case]:
    """All of them."""
    found = []
    for head, suffix, contents, more in (
        ("token", "conll", COLUMNS, ()),
        ("token", "conllu", UNIVERSAL, ()),
        ("qa", "json", SQUAD, ()),
        ("sequence", "tsv", TABLES, ("--columns", "text", "label")),
    ):
        for name, content in contents.items():
            run = _head(content, head=head, name=f"a.{suffix}", more=more)
            named = () if name == "one label" else (f"a.{suffix}",)
            found.append(Case(f"train-head --head {head} .{suffix} {name}", run, named))
    for suffix, contents in FILES.items():
        for name, content in contents.items():
            found.append(
                Case(
                    f"read_files .{suffix} {name}",
                    _python(f"a.{suffix}", content),
                )
            )
    for name in ("a lone surrogate", "deep", "a list", "text a number", "empty", "binary"):
        for words in (("sparsity",), ("dump",)):
            found.append(
                Case(f"{words[0]} --text .jsonl {name}", _command(words[0], "a.jsonl", JSONL[name]))
            )
    for name, content in LABELLED.items():
        found.append(Case(f"train-head --train .jsonl {name}", _head(content)))
    found.append(Case("read_files .parquet of numbers", _parquet([1, 2])))
    found.append(Case("read_files .parquet of nulls", _parquet([None])))
    found.append(Case("read_files .parquet of lists", _parquet([["a", "b"]])))
    found.append(Case("read_files of a FIFO", _fifo, ("pipe",)))
    found.append(Case("read_files of a device", lambda g: _read("/dev/zero"), ("device",)))
    found.append(Case("read_files of a null byte", lambda g: _read("a\0b.txt"), ("null",)))
    found.append(Case("read_files of a folder", lambda g: _read(g.folder)))
    found.append(Case("read_files of a long name", lambda g: _read("a" * 5_000 + ".txt")))
    found.append(Case("read_files without a right", lambda g: _read("/proc/self/mem")))
    return found


def _read(path: Any) -> list[str]:
    import arcee_lab as al

    return list(al.data.read_files([path]))


def _python(name: str, content: bytes | str) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        import arcee_lab as al

        texts = al.data.read_files([ground.file(name, content)])
        return al.data.cut(ground.tokenizer, texts, context=16)

    return run


def _command(name: str, file: str, content: bytes | str) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        path = ground.file(file, content)
        return command(name, "{checkpoint}", "--text", path, "--out", "{out}")(ground)

    return run


def _head(
    content: bytes | str,
    *,
    head: str = "sequence",
    name: str = "a.jsonl",
    more: tuple[str, ...] = (),
) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        path = ground.file(name, content)
        words = ("--head", head, "--train", path, "--out", "{out}", *more)
        return command("train-head", "{checkpoint}", *words)(ground)

    return run


def _parquet(values: list[Any]) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        import pandas as pd

        file = io.BytesIO()
        pd.DataFrame({"text": values}).to_parquet(file)
        return _read(ground.file("a.parquet", file.getvalue()))

    return run


def _fifo(ground: Any) -> object:
    import os

    path = ground.new()
    os.mkfifo(path)
    return _read(path)
