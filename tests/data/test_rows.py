"""Rows of every kind of file, plain and compressed, as documents and as labelled texts."""

import csv
import gzip
import json
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from arcee_lab.data import rows
from arcee_lab.data.documents import read_dataset, read_files
from arcee_lab.data.windows import cut
from arcee_lab.training.heads.labelled import read_labelled

TEXTS = ["one, with a comma", "", 'a "quoted" word', "two\nlines", "last"]
ONE_LINE = [text.replace("\n", " ").replace('"', "") for text in TEXTS]


def write(path, texts):
    """A file of its kind that holds these texts, and a second column."""
    found = [{"text": text, "n": n} for n, text in enumerate(texts)]
    kind = path.suffixes[0]
    if kind == ".parquet":
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(found), sink)
        content = sink.getvalue().to_pybytes()
    elif kind in (".jsonl", ".ndjson"):
        content = "".join(json.dumps(row) + "\n" for row in found).encode()
    elif kind == ".json":
        content = json.dumps({"version": 1, "data": found}, indent=1).encode()
    elif kind == ".csv":
        cells = [f'{row["n"]},"' + row["text"].replace('"', '""') + '"\r\n' for row in found]
        content = ("\ufeffn,text\r\n" + "".join(cells)).encode()
    else:
        content = ("text\tn\n" + "".join(f"{row['text']}\t{row['n']}\n" for row in found)).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("packed", ["", ".gz", ".GZ"])
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".tsv"])
def test_every_kind_gives_the_texts_of_its_rows(tmp_path, kind, packed):
    texts = ONE_LINE if kind == ".tsv" else TEXTS
    path = tmp_path / f"a{kind}{packed.lower()}"
    write(path, texts)
    if packed == ".GZ":
        path = path.rename(tmp_path / f"a{kind.upper()}.GZ")
    assert list(read_files([path])) == texts


@pytest.mark.parametrize("name", ["a.txt.gz", "a.md.gz", "a.py.gz", "notes.gz"])
def test_other_compressed_files_are_documents(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress("\ufeffthe caf\u00e9".encode()))
    assert list(read_files([tmp_path / name])) == ["the caf\u00e9"]


def test_a_plain_list_and_one_in_an_object(tmp_path):
    path = tmp_path / "a.json"
    for content in ('[{"text": "x"}]', '{"rows": [{"text": "x"}], "about": "y"}'):
        path.write_text(content)
        assert list(read_files([path])) == ["x"]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet"])
def test_a_nested_column(tmp_path, kind):
    found = [{"a": {"b": {"c": "x"}, "d": 1}}, {"a": {"b": {"c": "y"}, "d": 2}}]
    path = tmp_path / f"a{kind}"
    if kind == ".parquet":
        parquet.write_table(pa.Table.from_pylist(found), path)
    else:
        path.write_text(json.dumps(found) if kind == ".json" else "\n".join(map(json.dumps, found)))
    assert list(read_files([path], column="a.b.c")) == ["x", "y"]
    with pytest.raises(ValueError, match=r"0 has no column 'a.b.e'|1 has no column 'a.b.e'"):
        list(read_files([path], column="a.b.e"))
    if kind != ".parquet":
        assert list(rows.read_rows(path))[1].values == found[1]


def test_a_column_whose_name_has_a_dot_comes_first(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a.b\nx\n")
    assert list(read_files([path], column="a.b")) == ["x"]


def test_a_cell_longer_than_pythons_limit(tmp_path):
    path, limit = tmp_path / "a.csv", csv.field_size_limit()
    path.write_text(f'text\n"{"word " * 50_000}"\n')
    (text,) = read_files([path])
    assert len(text) == 250_000 > limit
    assert csv.field_size_limit() == limit


def test_conversations_in_every_kind_that_can_hold_them(tmp_path):
    class Chat:
        chat_template = "there"

        def apply_chat_template(self, messages, tokenize):
            return "".join(f"[{m['role']}] {m['content']}" for m in messages)

    chat = [{"role": "user", "content": "hi"}, {"role": "bot", "content": "yes"}]
    found = [{"messages": chat, "in": {"it": chat}}]
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    lines.write_text(json.dumps(found[0]))
    parquet.write_table(pa.Table.from_pylist(found), table)
    for column in ("messages", "in.it"):
        texts = list(read_files([lines, table], column=column, tokenizer=Chat()))
        assert texts == ["[user] hi[bot] yes"] * 2
    spec = f"{tmp_path}:train:messages"
    table.unlink()
    assert list(read_dataset(spec, tokenizer=Chat())) == ["[user] hi[bot] yes"]
    with pytest.raises(ValueError, match=r"'messages', is a conversation.*give tokenizer="):
        list(read_files([lines], column="messages"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"{}", "an object with 0 lists"),
        ("a.json", b'{"a": [], "b": []}', "an object with 2 lists"),
        ("a.json", b'"text"', "holds str; expected a list"),
        ("a.json", b'[{"text": "a"}, "b"]', "row 1 is str, no object"),
        ("a.json", b'{"text": "a"}\n{"text": "b"}', "is not JSON.*one object per line in a .jsonl"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b'[{"text": null}]', "row 0: 'text' is NoneType; expected a string"),
        ("a.json", b'[{"body": "x"}]', "row 0 has no column 'text'; it has 'body'"),
        ("a.ndjson", b'{"text": ["a", "b"]}', "line 1: 'text' is list; expected a string"),
        ("a.csv", b"a,b\nx,y\n", "line 2 has no column 'text'; it has 'a', 'b'"),
        ("a.csv", b"text,n\nx\n", "line 2 has 1 cells and the header 2"),
        ("a.csv", b"text,n\nx,1,2\n", "line 2 has 3 cells and the header 2"),
        ("a.csv", b"text,text\nx,y\n", "names the column 'text' twice"),
        ("a.csv", b'text\n"x\ny\n', "line 2 is not in the format of its table"),
        ("a.csv", b'text\n"a" b\n', "line 2 is not in the format of its table"),
        ("a.csv", b"text\nx\n\xff\n", "line 3 is not UTF-8"),
        ("a.csv", b"text\n", "holds no text"),
        ("a.tsv", b"text\tn\nx\n", "line 2 has 1 cells"),
        ("a.jsonl.gz", b"no gzip", "cannot be read: Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"text", mtime=0)[:-9], "cannot be read: Compressed file ended"),
        ("a.tar.gz", gzip.compress(b"t", mtime=0), "is compressed or packed as .tar"),
        ("a.jsonl.zst", b"t", "is compressed or packed as .zst; expected.*Unpack"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        list(read_files([tmp_path / name]))
    assert name in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.json.gz", "a.jsonl.gz", "a.parquet.gz"])
def test_what_is_held_whole_is_bounded(tmp_path, monkeypatch, name):
    monkeypatch.setattr(rows, "LARGEST", 1000)
    content = json.dumps({"text": "x" * 5000}).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match=r"holds more than 1,000 bytes in one piece"):
        list(read_files([tmp_path / name]))


def test_compressed_lines_are_read_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LARGEST", 1000)  # far less than the file holds
    line = json.dumps({"text": "x" * 500}).encode() + b"\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line * 10_000))
    documents = read_files([tmp_path / "a.jsonl.gz"])
    assert [len(next(documents)) for _ in range(3)] == [500] * 3


def test_paths_and_columns_that_do_not_fit(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    with pytest.raises(ValueError, match="paths of read_files is one path"):
        read_files(str(path))
    with pytest.raises(ValueError, match=r"column 'body' was named, and .*a.txt has no columns"):
        read_files([path], column="body")


# ---------------------------------------------------------------- numbers of documents


class Letters:
    pad_token_id = 0
    bos_token_id = 1

    def __call__(self, texts, verbose=True):
        return {"input_ids": [[1] + [ord(c) for c in text] for text in texts]}


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet"])
def test_the_number_of_a_document_is_that_of_its_row(tmp_path, kind):
    path = write(tmp_path / f"a{kind}", TEXTS)
    read = cut(Letters(), read_files([path, path]), context=64)
    given = cut(Letters(), TEXTS + TEXTS, context=64)
    assert read.documents.tolist() == given.documents.tolist() == [0, 2, 3, 4, 5, 7, 8, 9]
    assert read.ids.tolist() == given.ids.tolist()


def test_numbers_of_a_store_and_of_a_page(tmp_path, monkeypatch):
    import arcee_lab as al
    from arcee_lab.sparsity.report import html_page

    model, tokenizer = al.load("demo")
    texts = ["", " The dogs near the barn sleep ." * 3]
    path = tmp_path / "a.jsonl"  # a blank line is no row
    path.write_text("".join(json.dumps({"text": text}) + "\n\n" for text in texts))
    stores = [
        al.dump.write(model, tokenizer, given, tmp_path / name)
        for name, given in (("file", read_files([path])), ("list", texts))
    ]
    for store in stores:
        assert set(store.frame()["document"]) == {1}
    report = al.sparsity.measure(model, tokenizer, texts, analyses=["core"])
    assert report.n_documents == 1
    # The page without its pictures, which take long to draw.
    monkeypatch.setattr(
        html_page, "read_passage", lambda *args: SimpleNamespace(figure=lambda: None)
    )
    monkeypatch.setattr(html_page, "titled", lambda figure, of: figure)
    monkeypatch.setattr(html_page, "png", lambda figure: b"")
    monkeypatch.setattr(html_page, "report_html", lambda report, shown, domains: shown[0][0])
    html_page.save_page(tmp_path, report, model, tokenizer, cut(tokenizer, texts, context=64))
    assert (tmp_path / "report.html").read_text() == "document 1"


# ---------------------------------------------------------------- labelled rows


def labelled(tmp_path, text, *, name="a.jsonl", head="sequence", **more):
    path = tmp_path / name
    path.write_text(text)
    return read_labelled(path, head=head, **more)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"text": null, "label": 1}', "line 1: 'text' is NoneType; expected a text"),
        ("a.jsonl", '{"text": ["a"], "label": 1}', "line 1: 'text' is list"),
        ("a.jsonl", '{"text": 3, "label": 1}', "line 1: 'text' is int"),
        ("a.jsonl", '{"text": "a\\ud800", "label": 1}', "'text' holds half of a surrogate pair"),
        ("a.jsonl", '{"text": " ", "label": 1}', "line 1: 'text' is blank"),
        ("a.jsonl", '{"text": "a", "label": null}', "line 1: the label in 'label' is NoneType"),
        ("a.jsonl", '{"text": "a", "label": {"b": 1}}', "line 1: the label in 'label' is dict"),
        ("a.jsonl", '{"text": "a", "label": ["b"]}', "line 1: the label in 'label' is list"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', "line 1: the label in 'label' is float"),
        ("a.csv", "text,label\na\n", "line 2 has 1 cells and the header 2"),
        ("a.csv", "text,label\na,\n", "line 2: the label in 'label' is empty"),
        ("a.csv", "text,label\n,b\n", "line 2: 'text' is blank"),
        ("a.json", '[{"text": "a", "label": 1}, {"text": "b"}]', "row 1 has no column 'label'"),
    ],
)
def test_rows_without_a_text_or_label_are_refused(tmp_path, name, text, said):
    with pytest.raises(ValueError, match=said) as error:
        labelled(tmp_path, text, name=name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"tokens": "word", "tags": ["O"] * 4},
            "line 1: 'tokens' is str; expected a list of words",
        ),
        ({"tokens": ["a"], "tags": "O"}, "line 1: 'tags' is str; expected a list of labels"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, "line 1, word 1: 'tokens' is NoneType"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "line 1, word 1: 'tokens' is int"),
        ({"tokens": ["a"], "tags": [None]}, "line 1: the label in 'tags' is NoneType"),
        ({"tokens": [], "tags": []}, "line 1: 'tags' is empty"),
        ({"tokens": ["a"], "tags": ["O"], "text": None}, "line 1: 'text' is NoneType"),
    ],
)
def test_rows_without_words_or_labels_are_refused(tmp_path, row, said):
    with pytest.raises(ValueError, match=said):
        labelled(tmp_path, json.dumps(row), head="token")


@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_labelled_rows_of_every_kind(tmp_path, kind):
    path = write(tmp_path / f"a{kind}.gz", ["x", "y"])
    data = read_labelled(path, head="sequence", label_column="n")
    assert (data.texts, data.names, data.labels) == (("x", "y"), ("0", "1"), (0, 1))


def test_labels_inside_an_object(tmp_path):
    text = '{"in": {"text": "x", "label": "b"}}\n{"in": {"text": "y", "label": "a"}}\n'
    data = labelled(tmp_path, text, text_column="in.text", label_column="in.label")
    assert (data.texts, data.names, data.labels) == (("x", "y"), ("a", "b"), (1, 0))


def test_the_fields_data_sets_are_refused_alike():
    from arcee_lab.evals.tasks.datasets import classification, entities, labels, question_answering

    source = classification.SST2.source
    texts = [{"sentence": "a", "label": 0}, {"sentence": None, "label": 0}]
    with pytest.raises(ValueError, match=r"row 1: 'sentence' is NoneType; expected a text"):
        labels.labelled(texts, source, ("no", "yes"), text=("sentence",))
    with pytest.raises(ValueError, match=r"row 0: 'tokens' is str; expected a list"):
        entities.labelled([{"tokens": "ab", "ner_tags": [0, 0]}], source, ("O",))
    with pytest.raises(ValueError, match=r"row 0 has the word None; expected a text"):
        entities.labelled([{"tokens": [None], "ner_tags": [0]}], source, ("O",))
    asked = {"question": "a", "context": None, "answers": {"text": ["b"]}}
    with pytest.raises(ValueError, match=r"row 0: 'context' is NoneType; expected a text"):
        question_answering.asked([asked], may_be_empty=False)


# ---------------------------------------------------------------- the command line


def test_a_column_of_the_command_line(tmp_path, capsys):
    from arcee_lab.cli import main

    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"body,n\nThe dogs near the barn sleep .,1\n"))
    words = ["demo", "--text", str(path), "--text-column", "body", "--out", str(tmp_path / "acts")]
    assert main(["dump", *words]) == 0
    (tmp_path / "acts" / "manifest.json").stat()
    damaged = next((tmp_path / "acts").rglob("*.safetensors"))
    damaged.write_bytes(b"")
    named = ["--model", "demo", "--text", str(path), "--text-column", "body"]
    assert main(["verify", str(tmp_path / "acts"), "--repair", *named]) == 0
    capsys.readouterr()
    words[words.index(str(tmp_path / "acts"))] = str(tmp_path / "zeros")
    assert main(["sparsity", *words, "--max-tokens", "1000"]) == 2
    assert "the texts hold 10 tokens; max_tokens asks for 1,000" in capsys.readouterr().err
    wrong = ["dump", "demo", "--world", "all", "--text-column", "a", "--out", str(tmp_path / "b")]
    assert main(wrong) == 2
    assert "--text-column a applies to files of --text" in capsys.readouterr().err
