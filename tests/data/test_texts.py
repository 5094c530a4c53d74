"""Documents from files and data sets, and the windows they are cut to."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet


class Letters:
    """A tokenizer of letters: a = 3, b = 4, ...; BOS is 1 where it is wanted."""

    pad_token_id = 0

    def __init__(self, bos=True):
        self.bos_token_id = 1 if bos else None

    def __call__(self, texts, verbose=True):
        prefix = [] if self.bos_token_id is None else [1]
        return {"input_ids": [prefix + [3 + ord(c) - ord("a") for c in text] for text in texts]}


def cut(texts, *, bos=True, **limits):
    from arcee_lab.data.windows import cut

    return cut(Letters(bos), texts, **({"context": 8} | limits))


def words(windows):
    return [windows[number].tolist() for number in range(len(windows))]


# ---------------------------------------------------------------- files


def test_reads_text_jsonl_and_parquet_in_order(tmp_path):
    from arcee_lab.data.documents import read_files

    plain, lines, table = tmp_path / "a.md", tmp_path / "b.jsonl", tmp_path / "c.parquet"
    plain.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    lines.write_text('{"text": "three"}\n\n{"text": "  "}\n{"text": "four", "n": 1}\n')
    parquet.write_table(pa.table({"text": ["five", "", "six"], "n": [1, 2, 3]}), table)
    assert list(read_files([plain, lines, table])) == [
        "one\r\ntwo\n",
        "three",
        "  ",  # as in the file, so that a document's number is its row's
        "four",
        "five",
        "",
        "six",
    ]


def test_reads_another_column(tmp_path):
    from arcee_lab.data.documents import read_files

    lines = tmp_path / "b.jsonl"
    lines.write_text('{"body": "three"}\n')
    assert list(read_files([str(lines)], column="body")) == ["three"]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.txt", b"", "holds no text"),
        ("blank.txt", b" \n\t", "holds no text"),
        ("zero.txt", b"ab\0c", "is binary"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "not UTF-8 at byte 3"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', r"bad.jsonl line 2 is not JSON"),
        ("list.jsonl", b"[1]\n", r"line 1 is list, no object"),
        ("none.jsonl", b'{"body": "a"}\n', r"line 1 has no column 'text'; it has 'body'"),
        ("int.jsonl", b'{"text": 3}\n', r"line 1: 'text' is int; expected a string"),
        ("fake.parquet", b"PAR1 is what it says", "not a readable Parquet file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, match):
    from arcee_lab.data.documents import read_files

    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=match) as error:
        list(read_files([tmp_path / name]))
    assert name in str(error.value)


def test_a_missing_file_a_folder_and_a_parquet_without_text(tmp_path):
    from arcee_lab.data.documents import read_files

    with pytest.raises(ValueError, match=r"gone\.txt is missing; expected"):
        list(read_files([tmp_path / "gone.txt"]))
    with pytest.raises(ValueError, match="is a folder"):
        list(read_files([tmp_path]))
    table = tmp_path / "c.parquet"
    parquet.write_table(pa.table({"body": ["a"], "n": [1]}), table)
    with pytest.raises(ValueError, match="no column 'text'; it has 'body', 'n'"):
        list(read_files([table]))
    with pytest.raises(ValueError, match="row 0: 'n' is int"):
        list(read_files([table], column="n"))


# ---------------------------------------------------------------- data sets


def test_reads_saved_datasets_and_folders_of_files(tmp_path):
    import datasets

    from arcee_lab.data.documents import read_dataset

    rows = datasets.Dataset.from_dict({"text": ["a", "", "b"], "body": ["c", "d", "e"]})
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "two"))
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "data.jsonl").write_text(json.dumps({"text": "z"}) + "\n")
    assert list(read_dataset(f"{tmp_path}/one")) == ["a", "", "b"]
    assert list(read_dataset(f"{tmp_path}/two:test:body")) == ["c", "d", "e"]
    assert list(read_dataset(f"{tmp_path}/three:train")) == ["z"]
    with pytest.raises(ValueError, match="no column 'nope'; it has 'text', 'body'"):
        list(read_dataset(f"{tmp_path}/two:test:nope"))
    with pytest.raises(ValueError, match="it has the splits test"):
        list(read_dataset(f"{tmp_path}/two"))


def test_a_damaged_row_of_a_dataset_is_a_value_error(tmp_path):
    from arcee_lab.data.documents import read_dataset

    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"data set .* cannot be read: JSON"):
        list(read_dataset(f"{tmp_path}"))


@pytest.mark.parametrize("spec", ["", ":train", "no/such/folder", "no/such/folder:test:text"])
def test_bad_datasets_are_value_errors(spec):
    from arcee_lab.data.documents import read_dataset

    with pytest.raises(ValueError, match="data set"):
        list(read_dataset(spec))


# ---------------------------------------------------------------- windows


def test_windows_start_with_bos_and_do_not_overlap():
    windows = cut(["abcdefghij", "k", "lm"], context=5)
    assert words(windows) == [
        [1, 3, 4, 5, 6],
        [1, 7, 8, 9, 10],
        [1, 11, 12],
        [1, 13],
        [1, 14, 15],
    ]
    assert windows.documents.tolist() == [0, 0, 0, 1, 2]
    assert (windows.n_tokens, windows.n_documents, len(windows)) == (18, 3, 5)


def test_windows_without_bos_and_empty_documents():
    windows = cut(["abc", "", "de"], bos=False, context=2)
    assert words(windows) == [[3, 4], [5], [6, 7]]
    assert windows.documents.tolist() == [0, 0, 2]
    assert words(cut(["", " ", "a"])) == [[1, 3]]
    assert cut(["", " ", "a"]).documents.tolist() == [2]


def test_max_tokens_is_exact_and_stops_reading():
    def endless():
        while True:
            yield "abcd"

    windows = cut(endless(), max_tokens=13)
    assert words(windows) == [[1, 3, 4, 5, 6], [1, 3, 4, 5, 6], [1, 3, 4]]


@pytest.mark.parametrize(
    ("texts", "limits", "match"),
    [
        ([], {}, "hold no token"),
        ([""], {}, "hold no token"),
        ([" \n"], {"bos": False}, "hold no token"),
        (["a", "b\ud800"], {}, "document 1 holds half of a surrogate pair at character 1"),
        (iter(["a", None]), {}, "document 1 is NoneType; expected a string"),
        ("abc", {}, r"pass \[text\]"),
        (["a"], {"context": 1}, "expected at least 2"),
        (["a"], {"max_tokens": 0}, "expected at least 1"),
        (["a"], {"context": 5, "overlap": 4}, "overlap is 4 tokens; expected 0 to 3"),
        (["a"], {"overlap": -1}, "overlap is -1"),
    ],
)
def test_bad_limits(texts, limits, match):
    with pytest.raises(ValueError, match=match):
        cut(texts, **limits)


def test_windows_that_overlap_say_what_they_repeat():
    windows = cut(["abcdefgh", "k"], context=5, overlap=2)
    assert words(windows) == [
        [1, 3, 4, 5, 6],
        [1, 5, 6, 7, 8],
        [1, 7, 8, 9, 10],
        [1, 13],
    ]
    assert windows.repeated.tolist() == [0, 2, 2, 0]
    assert windows.new(1).tolist() == [True, False, False, True, True]
    assert windows.new(3).tolist() == [True, True]
    few = cut(["abcdefgh"], context=5, overlap=2, max_tokens=7)
    assert words(few) == [[1, 3, 4, 5, 6], [1, 5, 6, 7]]


@given(
    texts=st.lists(st.text("abcdef", min_size=1, max_size=30), min_size=1, max_size=6),
    bos=st.booleans(),
    context=st.integers(2, 12),
    overlap=st.integers(0, 10),
    max_tokens=st.none() | st.integers(1, 60),
)
def test_overlapping_windows_hold_every_token_once_as_new(texts, bos, context, overlap, max_tokens):
    overlap = min(overlap, context - 2)
    windows = cut(texts, bos=bos, context=context, overlap=overlap, max_tokens=max_tokens)
    new = [windows[w][windows.new(w)].tolist() for w in range(len(windows))]
    assert all(any(token != 1 for token in window) for window in new[:-1])
    body = [token for window in new for token in window if token != 1]
    whole = [ord(letter) - ord("a") + 3 for text in texts for letter in text]
    assert body == whole[: len(body)]
    if max_tokens is None:
        assert body == whole
    else:
        assert sum(map(len, new)) <= max_tokens
    assert all(len(windows[w]) <= context for w in range(len(windows)))


@given(
    texts=st.lists(st.text("abcdef", min_size=1, max_size=30), min_size=1, max_size=12),
    bos=st.booleans(),
    context=st.integers(2, 12),
    batch_size=st.integers(1, 5),
    max_tokens=st.none() | st.integers(1, 60),
)
def test_batches_hold_every_token_once(texts, bos, context, batch_size, max_tokens):
    windows = cut(texts, bos=bos, context=context, max_tokens=max_tokens)
    everything = sum(len(text) for text in texts)
    if max_tokens is None:
        body = [token for word in words(windows) for token in word if token != 1]
        assert len(body) == everything
    else:
        assert windows.n_tokens <= max_tokens
    seen = {}
    for batch in windows.batches(batch_size):
        assert batch.input_ids.shape == batch.attention_mask.shape == batch.first.shape
        assert len(batch.rows) <= batch_size
        for slot, row in enumerate(batch.rows):
            length = int(batch.attention_mask[slot].sum())
            assert batch.attention_mask[slot, :length].all()
            assert (batch.input_ids[slot, length:] == 0).all()
            assert batch.first[slot].nonzero().flatten().tolist() == [0]
            seen[row] = batch.input_ids[slot, :length].tolist()
    assert [seen[row] for row in range(len(windows))] == words(windows)
    again = [batch.rows for batch in windows.batches(batch_size)]
    assert again == [batch.rows for batch in windows.batches(batch_size)]
    lengths = [len(windows[row]) for rows in again for row in rows]
    assert lengths == sorted(lengths)


def test_a_bos_within_the_text_stands_apart_too():
    from arcee_lab.data.windows import Windows

    windows = Windows(np.array([1, 3, 1, 4], np.int32), np.array([0, 4]), np.array([0]), 1, 0)
    (batch,) = windows.batches(1)
    assert torch.equal(batch.first, torch.tensor([[True, False, True, False]]))


def test_batch_size_below_one():
    with pytest.raises(ValueError, match="batch size is 0"):
        next(cut(["abc"]).batches(0))
