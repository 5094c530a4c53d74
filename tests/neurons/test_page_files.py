"""Files of pages: static pages, the index of all neurons, values per token on disk."""

import json

import numpy as np
import page_runs
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import arcee_lab as al
from arcee_lab.neurons.pages.neuron_page import NeuronPage


@pytest.fixture(scope="module")
def model():
    from arcee_lab.model import ArceeConfig, ArceeForCausalLM

    torch.manual_seed(1)
    config = ArceeConfig(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = ArceeForCausalLM(config).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[5] = 0
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return page_runs.Plain()


@pytest.fixture(scope="module")
def run(model, tokenizer):
    return page_runs.run_of(model, tokenizer, n=20)


# ---------------------------------------------------------------------- pages


def test_pages_are_files_with_contents(run, model, tokenizer, tmp_path):
    units = [(0, 3), (1, 5)]
    made = al.neurons.write_pages(run, units, tmp_path / "p", tokenizer=tokenizer, model=model)
    names = {path.name for path in made.files}
    assert names == {"L0-N3.html", "L1-N5.html", "index.html"}
    contents = (tmp_path / "p" / "index.html").read_text()
    assert 'href="L0-N3.html"' in contents
    assert "never fired" in (tmp_path / "p" / "L1-N5.html").read_text()
    page = al.neurons.page(run, 0, 3, tokenizer=tokenizer, model=model)
    text = (tmp_path / "p" / "L0-N3.html").read_text()
    assert page.headline in text
    assert "2 pages" in repr(made)
    assert made.bytes == sum(path.stat().st_size for path in made.files)
    assert len(made.frame()) == 3


def test_a_later_call_adds_pages_and_links_to_the_earlier_ones(run, tokenizer, tmp_path):
    for units in ([(0, 3)], [(1, 7), (0, 4)]):
        al.neurons.write_pages(run, units, tmp_path / "p", tokenizer=tokenizer)
    contents = (tmp_path / "p" / "index.html").read_text()
    assert '<a href="L0-N3.html">L0/N3</a>' in contents
    assert (tmp_path / "p" / "L0-N3.html").is_file()


def test_another_run_may_not_write_there(run, model, tokenizer, tmp_path):
    al.neurons.write_pages(run, [(0, 3)], tmp_path / "p", tokenizer=tokenizer)
    other = page_runs.run_of(model, tokenizer, n=5, seed=3)
    with pytest.raises(al.errors.OtherRun):
        al.neurons.write_pages(other, [(0, 3)], tmp_path / "p", tokenizer=tokenizer)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(al.errors.FileError, match="holds other files"):
        al.neurons.write_index(run, tmp_path / "mine", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ([], "0 pages were asked for"),
        ([(0, n % 40) for n in range(5001)], "5,001 pages"),
        ([(0, 1), (0, 1)], "twice"),
        ([(0, 40)], "expected 0 to 39"),
    ],
)
def test_bad_lists_of_neurons(run, tokenizer, tmp_path, units, words):
    with pytest.raises(al.errors.SettingError, match=words):
        al.neurons.write_pages(run, units, tmp_path / "p", tokenizer=tokenizer)
    assert not (tmp_path / "p").exists()


# ---------------------------------------------------------------------- the index


def test_the_index_holds_every_neuron_with_the_numbers_of_the_run(run, model, tokenizer, tmp_path):
    effects = al.neurons.effects(model, top=3)
    al.neurons.write_index(run, tmp_path / "i", tokenizer=tokenizer, effects=effects)
    frame = pd.read_parquet(tmp_path / "i" / "units.parquet")
    assert len(frame) == 2 * 40
    for layer in run.layers:
        here = frame[frame["layer"] == layer]
        assert np.array_equal(here["rate"], run.rates(layer).numpy())
        assert np.array_equal(here["max"], run.maxima(layer).numpy())
        assert np.array_equal(here["n_fired"], run.fired(layer).numpy())
        for row in here.itertuples():
            peaks = [run.ids(x.window)[x.position] for x in run.top(layer, row.unit)]
            expected = list(dict.fromkeys(tokenizer.decode([number]) for number in peaks))[:5]
            assert list(row.fires_at) == expected
            ids = effects.promoted[effects.row(layer, row.unit)].tolist()
            assert list(row.raises) == [tokenizer.decode([number]) for number in ids]
    page = (tmp_path / "i" / "layer-01.html").read_text()
    assert page.count("<tr>") == 1 + 40
    assert "1 never fired" in page
    assert 'href="layer-01.html"' in (tmp_path / "i" / "index.html").read_text()


# ---------------------------------------------------------------------- values on disk


def test_stored_values_are_those_that_the_model_computes(run, model, tokenizer, tmp_path):
    expected_bytes = al.neurons.values_bytes(run, before=5, after=2)
    made = al.neurons.write_values(run, model, tmp_path / "v", before=5, after=2)
    data = sum(path.stat().st_size for path in made.files if path.suffix == ".safetensors")
    # Headers are what it leaves out; windows of octaves below the strata are what it counts more.
    assert 0.7 * expected_bytes < data < expected_bytes + 1000
    values = al.neurons.StoredValues.load(tmp_path / "v")
    for layer, unit in ((0, 0), (0, 39), (1, 5), (1, 17)):
        page = al.neurons.page(run, layer, unit, tokenizer=tokenizer, values=values)
        fresh = al.neurons.page(
            run, layer, unit, tokenizer=tokenizer, model=model, before=5, after=2
        )
        assert page.values_seconds == 0
        for x, y in zip(page.excerpts, fresh.excerpts, strict=True):
            assert x.ids == y.ids
            # Another batch: the same fp32 sums in another order.
            assert x.values == pytest.approx(y.values, rel=1e-4, abs=1e-6)


def _damage(folder, kind):
    file = folder / "layer-00.safetensors"
    facts = folder / "values.json"
    if kind == "missing file":
        file.unlink()
    elif kind == "short file":
        file.write_bytes(file.read_bytes()[:200])
    elif kind == "places beyond the end":
        tensors = load_file(file)
        tensors["first"] = tensors["first"] + 10_000_000
        save_file(tensors, file)
    elif kind == "too few rows":
        tensors = load_file(file)
        tensors["first"] = tensors["first"] // 2
        save_file(tensors, file)
    elif kind == "narrow rows":
        tensors = load_file(file)
        tensors["values"] = tensors["values"][:, :1].contiguous()
        save_file(tensors, file)
    elif kind == "facts":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "before": -5}))
    elif kind == "no JSON":
        facts.write_text("{")
    else:
        facts.unlink()


@pytest.mark.parametrize(
    "kind",
    [
        "missing file",
        "short file",
        "places beyond the end",
        "too few rows",
        "narrow rows",
        "facts",
        "no JSON",
        "no facts",
    ],
)
def test_damaged_values_are_refused(run, model, tokenizer, tmp_path, kind):
    al.neurons.write_values(run, model, tmp_path / "v", before=3, after=1)
    _damage(tmp_path / "v", kind)

    def read():
        values = al.neurons.StoredValues.load(tmp_path / "v")
        al.neurons.page(run, 0, 1, tokenizer=tokenizer, values=values)

    with pytest.raises(al.errors.SavedDamaged) as caught:
        read()
    assert str(caught.value).endswith(".")


def test_values_of_another_run_are_refused(run, model, tokenizer, tmp_path):
    al.neurons.write_values(run, model, tmp_path / "v", before=3, after=1)
    values = al.neurons.StoredValues.load(tmp_path / "v")
    other = page_runs.run_of(model, tokenizer, n=5, seed=3)
    with pytest.raises(al.errors.OtherRun):
        al.neurons.page(other, 0, 1, tokenizer=tokenizer, values=values)


# ---------------------------------------------------------------------- joined


def test_labels_of_a_search_are_on_the_page_and_in_the_index(demo, tmp_path):
    """The page of the label's best unit shows the search's own numbers."""
    model, tokenizer = demo
    labels = al.neurons.labels.demo("story", n=40)
    found = al.neurons.find(
        model, tokenizer, labels, names=["plural noun"], untrained=False, shuffles=2, progress=False
    )
    run = al.neurons.exemplars(model, tokenizer, labels.texts, max_tokens=600, progress=False)
    best = found["plural noun"].best
    page = al.neurons.page(run, best.layer, best.unit, tokenizer=tokenizer, found=found)
    assert isinstance(page, NeuronPage)
    assert page.labels[0].label == "plural noun"
    assert page.labels[0].scores["F1"] == best.f1
    assert page.labels[0].scores["AUPRC"] == best.auprc
    assert "plural noun" in page.headline
    assert "plural noun" in page.html()
    frame = al.neurons.write_index(run, tmp_path, tokenizer=tokenizer, found=found).folder
    table = pd.read_parquet(frame / "units.parquet")
    row = table[(table["layer"] == best.layer) & (table["unit"] == best.unit)].iloc[0]
    assert (row["label"], row["f1"]) == ("plural noun", best.f1)
    assert table["label"].notna().sum() == len(found["plural noun"].units)


def test_an_ablation_is_on_the_page(demo):
    model, tokenizer = demo
    texts = [document.text for document in al.demo.documents(n=12, seed=1, split="test")]
    run = al.neurons.exemplars(model, tokenizer, texts, progress=False)
    found = al.neurons.ablate(
        model, tokenizer, ["L1/N3", ["L1/N3", "L2/N7"]], texts, progress=False
    )
    page = al.neurons.page(run, 1, 3, tokenizer=tokenizer, ablation=found)
    assert page.ablation["NLL"] == found.nll_change[0]
    assert page.ablation["KL"] == found.kl_change[0]
    assert "Without it" in page.html()
    with pytest.raises(al.errors.UnknownName, match="L2/N7 is not among"):
        al.neurons.page(run, 2, 7, tokenizer=tokenizer, ablation=found)
