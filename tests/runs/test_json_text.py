"""JSON from outside: what is right is read, everything else is one sentence of the given class."""

import json
import os

import pytest

from arcee_lab.errors import CheckpointError, FileError, SavedDamaged
from arcee_lab.runs import json_text
from arcee_lab.runs.json_text import parse_json, read_json, read_object, reason


@pytest.mark.parametrize("value", [None, True, 5, -0.5, "ä", [], {"a": [1, {"b": None}]}])
def test_values_come_back(tmp_path, value):
    text = json.dumps(value, ensure_ascii=False)
    assert parse_json(text, "it") == value
    assert parse_json(text.encode(), "it") == value
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + text.encode())  # some editors write a BOM
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value at line 1, column 1"),
        ('{"a": 1,\n "b"}', "Expecting ':' delimiter at line 2, column 5"),
        ("[" * 10_000, "nested too deep"),
        ("[" * 10_000 + "]" * 10_000, "nested too deep"),
        ("9" * 10_000, "too many digits"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
    ],
)
def test_faults_are_one_sentence(tmp_path, text, why):
    with pytest.raises(CheckpointError, match=rf"^config is not JSON: .*{why}.*; do this\.$"):
        parse_json(text, "config", error=CheckpointError, do="do this")
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SavedDamaged, match=r"a\.json is not JSON"):
        read_json(path)


def test_files_that_are_none(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")  # would wait for a writer forever
    for name, why in (
        ("absent", "No such file"),
        (".", "is no plain file"),
        ("pipe", "is no plain file"),
        ("a\0b", "null"),
    ):
        with pytest.raises(FileError, match=why):
            read_json(tmp_path / name, error=FileError)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(FileError, match=r"holds a list; expected a JSON object"):
        read_object(tmp_path / "list.json", error=FileError)
    monkeypatch.setattr(json_text, "LONGEST", 2)
    with pytest.raises(FileError, match="3 bytes long; expected at most 2"):
        read_json(tmp_path / "list.json", error=FileError)


def test_nan_where_other_programs_write_it():
    assert parse_json('{"a": Infinity}', "row", nan=True) == {"a": float("inf")}


def test_reasons_are_short_and_one_line():
    assert reason(OSError(28, "No space left on device", "x")) == "No space left on device"
    assert reason(ValueError("a\n  b.")) == "a b"
    assert reason(ValueError()) == "ValueError"
    assert len(reason(ValueError("x" * 10_000))) == 300
