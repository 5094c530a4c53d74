"""Paths, and what looks like one, are not looked up on the Hub; URLs are no paths."""

import os

import pytest

import arcee_lab as al
from arcee_lab.data.documents import read_dataset
from arcee_lab.runs import storage
from arcee_lab.runs.hub import is_hub_id
from arcee_lab.training.heads.labelled import read_labelled


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty working folder, and a Hub that nothing may ask."""
    import datasets
    import huggingface_hub

    def ask(*args, **kwargs):
        raise AssertionError(f"the Hub was asked for {args}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", ask)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "arcee-ai/AFM-4.5B",
        "meta-llama/Llama-3.2-1B",
        "imdb",
        "black-forest-labs/FLUX.1-dev",
        "a/b_c",
    ],
)
def test_ids_of_the_hub(name):
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "train.conll",
        "data/train.conll",
        "a/b.jsonl.gz",
        "owner/model.safetensors",
        "./a",
        "../a/b",
        "/a/b",
        "~/a",
        "a/b/c",
        "a\\b",
        "C:/a",
        "a//b",
        "a/",
        "",
        "a b/c",
        "s3://a/b",
    ],
)
def test_paths(name):
    assert not is_hub_id(name)


def test_what_exists_is_a_path(no_hub):
    (no_hub / "owner").mkdir()
    (no_hub / "owner" / "name").mkdir()
    (no_hub / "owner" / "link").symlink_to("gone")
    assert not is_hub_id("owner/name")
    assert not is_hub_id("owner/link")
    assert not is_hub_id("owner")
    assert is_hub_id("owner/other")


@pytest.mark.parametrize("kind", [".conll", "", ".txt"])
def test_a_file_of_another_kind_is_not_asked_for(no_hub, kind):
    (no_hub / f"train{kind}").write_text("word O\n")
    with pytest.raises(ValueError, match=r"is no table of texts and labels; expected .jsonl"):
        read_labelled(f"train{kind}", head="sequence")
    with pytest.raises(ValueError, match=r"is no table of questions; expected SQuAD's"):
        read_labelled(f"train{kind}", head="qa")
    assert read_labelled(f"train{kind}", head="token").words == (("word",),)


@pytest.mark.parametrize("name", ["gone.conll", "data/gone.conll", "./gone", "a/b/c"])
def test_a_missing_path_is_not_asked_for(no_hub, name):
    with pytest.raises(ValueError, match="is missing; expected"):
        read_labelled(name, head="token")
    with pytest.raises(ValueError, match="is neither a folder nor a Hub id"):
        list(read_dataset(name))
    with pytest.raises(ValueError, match="is neither a folder, nor a Hub id"):
        al.load(name)


def test_a_file_is_neither_a_data_set_nor_a_model(no_hub):
    (no_hub / "owner").mkdir()
    (no_hub / "owner" / "name").write_text("x")
    with pytest.raises(ValueError, match="'owner/name' is a file; expected a folder of data files"):
        list(read_dataset("owner/name:train"))
    with pytest.raises(ValueError, match="'owner/name' is a file; expected the folder of a check"):
        al.load("owner/name")
    with pytest.raises(ValueError, match="is no table"):
        read_labelled("owner/name", head="sequence")


@pytest.mark.parametrize(
    "words",
    [
        ["train-head", "demo", "--head", "token", "--train", "train.conll", "--out", "o"],
        ["train-head", "demo", "--head", "token", "--train", "gone.conll", "--out", "o"],
        [
            "train-head",
            "./gone",
            "--head",
            "token",
            "--train",
            "demo",
            "--limit",
            "2",
            "--out",
            "o",
        ],
        ["dump", "demo", "--dataset", "train.conll", "--out", "o"],
        ["dump", "owner/model.safetensors", "--world", "all", "--out", "o"],
        ["sparsity", "demo", "--dataset", "data/gone.conll", "--out", "o"],
        ["sparsity", "train.conll", "--world", "all", "--out", "o"],
        ["eval", "owner/gone.gguf", "--tasks", "arcee_demo_text_story", "--out", "o"],
        ["eval", "demo", "--seqcls", "train.conll", "--tasks", "arcee_demo_review", "--out", "o"],
        ["info", "train.conll"],
        ["info", "owner/model.bin"],
    ],
)
def test_no_command_asks_for_a_path(no_hub, capsys, words):
    from arcee_lab.cli import main

    (no_hub / "train.conll").write_text("word O\n")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the Hub was asked" not in said
    assert sorted(os.listdir()) == ["train.conll"]


def test_a_folder_of_labelled_files_is_a_data_set(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "x", "label": "a"}\n')
    assert read_labelled(str(tmp_path), head="sequence").texts == ("x",)
    (tmp_path / "train.jsonl").write_text('{"text": null, "label": "a"}\n')
    with pytest.raises(ValueError, match="row 0: 'text' is NoneType"):
        read_labelled(str(tmp_path), head="sequence")


def test_a_missing_head_names_the_command_that_fits_one():
    from arcee_lab.evals.head_routing import HeadRouter

    heads = HeadRouter({}, lambda source, head: None, None)
    for head, task in (("qa", "arcee_squad"), ("token", "arcee_conll2003")):
        with pytest.raises(ValueError, match="or fit one with `arcee-lab train-head`"):
            heads.require(head, task)


# ---------------------------------------------------------------- URLs

URLS = [
    "s3://bucket/run",
    "http://host/run",
    "https://host/run",
    "file:///tmp/run",
    "gs://b",
    "memory://a",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "words",
    [
        ["sparsity", "demo", "--world", "all", "--max-tokens", "50"],
        ["eval", "demo", "--tasks", "arcee_demo_text_story", "--limit", "1"],
        ["train-demo", "--quick"],
        ["train-head", "demo", "--head", "sequence", "--train", "demo", "--limit", "4"],
        ["world", "story"],
        ["tour"],
    ],
    ids=lambda words: words[0],
)
def test_commands_refuse_urls_at_once(no_hub, capsys, monkeypatch, words, url):
    from arcee_lab.cli import main
    from arcee_lab.model import loading

    def load(*args, **kwargs):
        raise AssertionError("something was loaded first")

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(al, "load", load, raising=False)
    assert main([*words, "--out", url]) == 2
    said = capsys.readouterr().err
    assert "is a URL; expected a path on this machine" in said
    assert said.count("\n") == 1
    assert os.listdir() == []


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "write",
    [
        lambda url: storage.write_atomic(f"{url}/a", b""),
        lambda url: storage.make_folder(url),
        lambda url: storage.claim(url, {}),
        lambda url: storage.check_claim(url, {}),
        lambda url: storage.fresh_folder(url, "a"),
    ],
)
def test_calls_refuse_urls(no_hub, url, write):
    with pytest.raises(ValueError, match="is a URL"):
        write(url)
    assert os.listdir() == []


def test_results_refuse_urls(no_hub):
    model, tokenizer = al.load("demo")
    texts = [" The dogs near the barn sleep ."]
    report = al.sparsity.measure(model, tokenizer, texts, analyses=["core"])
    store = al.dump.write(model, tokenizer, texts, no_hub / "acts")
    with al.capture(model, {"layers.0.mlp.hook_post": al.reducers.FiringRate()}) as stats:
        model(**tokenizer(texts, return_tensors="pt"))
    for save in (
        report.save,
        stats.save,
        lambda url: store.export("parquet", url),
        lambda url: al.sparsity.measure(model, tokenizer, texts, resume=f"{url}/state"),
    ):
        with pytest.raises(ValueError, match="is a URL"):
            save("s3://bucket/run")
    assert os.listdir() == ["acts"]


def test_a_drive_is_no_url(tmp_path):
    storage.require_local("C:/runs/a")
    storage.require_local(tmp_path / "s3:" / "a")
