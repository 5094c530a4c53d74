"""Heads for any data set: reading it, fitting, loading what was saved, probes; and the command."""

import json

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

import arcee_lab as al
from arcee_lab.directions.layer_probes import _read
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.training.heads import HeadRecipe, probe_layers, read_labelled, train_head
from arcee_lab.training.heads.encoding import collate, encode


@pytest.fixture
def base():
    return al.load("demo", head="base")


@pytest.fixture(scope="module")
def reviews():
    return read_labelled("demo:train", head="sequence", limit=48)


@pytest.fixture(scope="module")
def news():
    return read_labelled("demo:train", head="token", limit=16)


def test_texts_with_labels_from_files(tmp_path):
    rows = [{"review": "fine soup", "mark": "good"}, {"review": "a, b", "mark": "bad"}]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    table = tmp_path / "a.csv"
    table.write_text('review,mark\nfine soup,good\n"a, b",bad\n')
    packed = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), packed)
    for file in (lines, table, packed):
        data = read_labelled(file, head="sequence", text_column="review", label_column="mark")
        assert data.texts == ("fine soup", "a, b")
        assert data.names == ("bad", "good")
        assert data.labels == (1, 0)
        assert data.majority == 0.5


def test_words_with_labels_from_a_file(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"tokens": ["Port", "Gazis"], "tags": ["B-LOC", "I-LOC"]}\n')
    data = read_labelled(file, head="token")
    assert data.texts == ("Port Gazis",)
    assert data.words == (("Port", "Gazis"),)
    assert data.labels == ((0, 1),)


def test_numbers_stand_for_the_names_given(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "x", "label": 1}\n{"text": "y", "label": 0}\n')
    assert read_labelled(file, head="sequence").names == ("0", "1")
    with pytest.raises(ValueError, match="line 1 has the label '1'; expected one of no, yes"):
        read_labelled(file, head="sequence", names=["no", "yes"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.jsonl", None, "is missing"),
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("a.jsonl", "", "holds no row"),
        ("a.jsonl", '{"text": "x"}', "no column 'label'; it has 'text'"),
        ("a.parquet", "no parquet", "not a readable Parquet file"),
    ],
)
def test_bad_files(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_labelled(tmp_path / name, head="sequence")


def test_bad_words(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"tokens": ["a", "b"], "tags": ["O"]}')
    with pytest.raises(ValueError, match="line 1 has 2 words and 1 labels"):
        read_labelled(file, head="token")
    with pytest.raises(ValueError, match="no split 'dev'; it has train"):
        read_labelled("demo:dev", head="token")
    with pytest.raises(ValueError, match="cannot be opened"):
        read_labelled("no/such-set:train", head="token")


def test_a_words_label_stands_at_its_last_token(base):
    _, tokenizer = base
    model = base[0]
    data = read_labelled("demo:test", head="token", limit=3)
    rows = encode(anatomy_of(model), tokenizer, data)
    batch = collate(rows, token=True, pad=0)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    for slot, row in enumerate(rows):
        seen = batch["labels"][slot] != -100
        assert seen.sum() == len(data.words[slot])
        assert seen.nonzero().flatten().tolist() == row.at
        assert not batch["attention_mask"][slot, len(row.ids) :].any()
        # every word of the world is one token, behind <bos>
        assert row.at == list(range(1, len(row.ids)))


def losses_fall(trained) -> bool:
    return trained.losses[-1]["loss"] < trained.losses[0]["loss"]


def test_a_head_on_a_frozen_backbone(base, reviews, tmp_path):
    model, tokenizer = base
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    recipe = HeadRecipe(epochs=6, batch_size=8)
    trained = train_head(model, tokenizer, reviews, test=reviews, recipe=recipe, progress=False)
    assert (torch.rand(1), np.random.rand()) == expected, "no seed is left behind"
    assert losses_fall(trained)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    frame = trained.frame().set_index("metric")
    assert frame.loc["acc", "value"] > trained.majority + 0.1
    assert frame.loc["acc", "low"] <= frame.loc["acc", "value"] <= frame.loc["acc", "high"]
    folder = trained.save(tmp_path / "checkpoint")
    loaded, its = al.load(folder, head="sequence")
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    texts = list(reviews.texts[:9])
    torch.testing.assert_close(
        score_sequence(loaded, its, texts), score_sequence(trained.model, tokenizer, texts)
    )
    told = json.loads((folder / "scores.json").read_text())
    assert told["settings"]["recipe"]["learning_rate"] == 3e-3


def test_a_fit_that_fails_leaves_the_generators(base, reviews, monkeypatch):
    def fit(*args, **settings):
        np.random.seed(1)
        torch.manual_seed(1)
        raise RuntimeError("out of memory")

    monkeypatch.setattr("arcee_lab.training.heads.fitting._fit", fit)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with pytest.raises(RuntimeError, match="out of memory"):
        train_head(*base, reviews, recipe=HeadRecipe(), progress=False)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_the_same_seed_gives_the_same_head(base, reviews):
    model, tokenizer = base
    recipes = [HeadRecipe(epochs=1, batch_size=48, seed=seed) for seed in (1, 1, 2)]
    one, two, other = (
        train_head(model, tokenizer, reviews, recipe=recipe, progress=False) for recipe in recipes
    )
    assert str(one).endswith("of the training texts")
    assert torch.equal(one.model.score.weight, two.model.score.weight)
    assert not torch.equal(one.model.score.weight, other.model.score.weight)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_head_that_moves_the_backbone(base, news, tmp_path, tune):
    model, tokenizer = base
    names = [name for name, _ in model.named_parameters()]
    before = model.layers[1].mlp.up_proj.weight.clone()
    norm = model.norm.weight.clone()
    recipe = HeadRecipe(tune=tune, epochs=2, batch_size=8, learning_rate=1e-3)
    trained = train_head(model, tokenizer, news, test=news, recipe=recipe, progress=False)
    assert not torch.equal(before, model.layers[1].mlp.up_proj.weight)
    assert torch.equal(norm, model.norm.weight) is (tune == "lora")
    assert [name for name, _ in model.named_parameters()] == names, "nothing of LoRA is left"
    assert {score.metric for score in trained.scores} == {
        "token_acc",
        "entity_f1",
        "entity_precision",
        "entity_recall",
    }
    loaded, _ = al.load(trained.save(tmp_path / "checkpoint"), head="token")
    assert torch.equal(loaded.score.weight, trained.model.score.weight)
    assert torch.equal(
        loaded.model.layers[1].mlp.up_proj.weight, model.layers[1].mlp.up_proj.weight
    )


def test_refusals(base, reviews, news):
    with pytest.raises(
        ValueError, match="lora_rank=8 has no effect with tune='head'; leave it out"
    ):
        HeadRecipe(lora_rank=8)
    with pytest.raises(ValueError, match="lora_rank=0; expected from 1 to"):
        HeadRecipe(tune="lora", lora_rank=0)
    assert HeadRecipe(tune="lora").settings()["lora_rank"] == 8
    assert HeadRecipe().settings()["lora_rank"] is None
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=r"seed=.*; expected from 0 to"):
            HeadRecipe(seed=seed)
    with pytest.raises(ValueError, match="tune='half'; expected one of head, lora, full"):
        HeadRecipe(tune="half")
    with pytest.raises(ValueError, match="learning_rate=2"):
        HeadRecipe(learning_rate=2.0)
    with pytest.raises(ValueError, match=r"read them with names=train.names"):
        train_head(*base, reviews, test=news, progress=False)
    with pytest.raises(ValueError, match=r"read them with names=train.names"):
        probe_layers(*base, reviews, news, progress=False)


def test_probes_read_the_stream_behind_each_layer(base, news):
    model, tokenizer = base
    anatomy = anatomy_of(model)
    rows = encode(anatomy, tokenizer, news)[:5]
    sites = anatomy.resolve(["hook_embed", "layers.*.hook_resid_post"])

    found = _read(model, rows, sites, 2, None)
    for site in sites:
        expected = []
        for row in rows:
            with al.capture(model, [site]) as acts:
                model(input_ids=torch.tensor([row.ids]))
            expected.append(acts[site][0, row.at].numpy())
        np.testing.assert_allclose(found[site], np.concatenate(expected), rtol=1e-4, atol=1e-4)


def test_probes_know_more_with_depth(base):
    train = read_labelled("demo:train", head="sequence", limit=160)
    test = read_labelled("demo:test", head="sequence", limit=100, names=train.names)
    probes = probe_layers(*base, train, test, batch_size=16, progress=False)
    frame = probes.frame()
    assert list(frame["layer"]) == [0, 1, 2, 3, 4]
    assert probes.sites[0] == "hook_embed"
    # all reviews end in the same word, so its embedding tells nothing
    assert frame["acc"][0] == pytest.approx(max(probes.majority, 1 - probes.majority), abs=0.13)
    assert frame["acc"][3:].max() > frame["acc"][0] + 0.15
    assert probes.figure()._repr_png_().startswith(b"\x89PNG")
    assert "hook_resid_post" in probes._repr_html_()
    assert f"{frame['acc'].max():.3f}" in probes.headline


def test_the_command_from_end_to_end(tmp_path, capsys):
    from arcee_lab.cli import main

    words = ["train-head", "demo", "--head", "sequence", "--train", "demo:train", "--limit", "40"]
    words += ["--test", "demo:test", "--epochs", "1", "--probes", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "layers.3.hook_resid_post" in out
    assert "macro_f1" in out
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"run.json", "checkpoint", "probes.csv", "probes.png"}
    model, _ = al.load(tmp_path / "run" / "checkpoint", head="sequence")
    assert model.config.num_labels == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train", "none.jsonl"], "file none.jsonl is missing"),
        (["--train", "demo", "--probes"], "--probes needs held-out texts"),
        (["--train", "demo", "--test", "demo"], "--test demo names the training texts"),
        (["--train", "demo", "--learning-rate", "3"], "learning_rate=3.0; expected between"),
    ],
)
def test_bad_commands_exit_2_with_one_line(tmp_path, capsys, words, said):
    from arcee_lab.cli import main

    out = tmp_path / "run"
    assert main(["train-head", "demo", "--head", "sequence", "--out", str(out), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not out.exists()
