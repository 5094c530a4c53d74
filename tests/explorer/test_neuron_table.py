"""Sorted, searched and cut as pandas would; and what is known of one neuron."""

import numpy as np
import pandas as pd
import pytest
import torch
from explorers import MESSAGE, Asking, opened

import arcee_lab as al


@pytest.fixture(scope="module")
def known(demo):
    """The demo's run over stories, its effects, and a search for two labels."""
    model, tokenizer = demo
    labels = al.neurons.labels.demo("story", n=24)
    run = al.neurons.exemplars(model, tokenizer, labels.texts, layers=[0, 2], progress=False)
    found = al.neurons.find(
        model, tokenizer, labels, names=["plural noun", "adjective"],
        shuffles=1, untrained=False, progress=False,
    )  # fmt: skip
    return {"run": run, "effects": al.neurons.effects(model, tokenizer, top=4), "found": found}


@pytest.fixture(scope="module")
def ask(demo, known):
    return Asking(*opened(*demo, **known))


@pytest.fixture(scope="module")
def frame(known):
    """The same table, by other means."""
    effects, run = known["effects"], known["run"]
    frame = pd.DataFrame({"layer": effects.layers.numpy(), "unit": effects.units.numpy()})
    frame["effect"] = np.maximum(
        effects.promoted_by[:, 0].abs().numpy(), effects.suppressed_by[:, 0].abs().numpy()
    )
    rates = run.frame().set_index(["layer", "unit"])
    keys = pd.MultiIndex.from_frame(frame[["layer", "unit"]])
    frame["rate"] = rates["rate"].reindex(keys).to_numpy().astype("float32")
    frame["largest"] = rates["max"].reindex(keys).to_numpy()
    frame["name"] = [f"L{i}/N{j}" for i, j in zip(frame["layer"], frame["unit"], strict=True)]
    return frame


@pytest.mark.parametrize("sort", ["rate", "largest", "effect"])
@pytest.mark.parametrize("descending", [True, False])
def test_sorted_like_pandas(ask, frame, sort, descending):
    found, _ = ask(
        "page", **{**MESSAGE["page"], "sort": sort, "descending": descending, "count": 100}
    )
    wanted = frame.sort_values(sort, ascending=not descending, kind="stable", na_position="last")
    assert found["total"] == len(frame)
    assert [row[0] for row in found["rows"]] == wanted["name"][:100].tolist()


def test_what_is_not_known_comes_last(ask):
    for descending in (True, False):
        found, _ = ask(
            "page", **{**MESSAGE["page"], "start": 3570, "count": 14, "descending": descending}
        )
        assert all(row[1] is None for row in found["rows"])  # layers 1 and 3 were not run


def test_search_by_label(ask, known):
    found, _ = ask("page", **{**MESSAGE["page"], "query": "Plural NO", "sort": "score"})
    units = [unit.name for unit in known["found"]["plural noun"].units]
    assert sorted(row[0] for row in found["rows"]) == sorted(units)
    assert all(row[4] == "plural noun" for row in found["rows"])
    scores = [row[5] for row in found["rows"]]
    assert scores == sorted(scores, reverse=True)


def test_search_by_token(ask, demo, known):
    _, tokenizer = demo
    effects, run = known["effects"], known["run"]
    wanted = set()
    for layer, unit, ids in zip(
        effects.layers.tolist(), effects.units.tolist(), effects.promoted.tolist(), strict=True
    ):
        tokens = [tokenizer.decode([i]) for i in ids]
        if layer in run.layers:
            top = run.top(layer, unit)[:5]
            tokens += [tokenizer.decode([run.ids(one.window)[one.position]]) for one in top]
        if any("dog" in token.lower() for token in tokens):
            wanted.add(f"L{layer}/N{unit}")
    found, _ = ask("page", **{**MESSAGE["page"], "query": "dog", "count": 100})
    assert found["total"] == len(wanted) > 20
    assert {row[0] for row in found["rows"]} <= wanted


@pytest.mark.parametrize(
    ("query", "total"), [("L2", 896), ("l2/n68", 1), ("L9", 0), ("no such thing", 0), ("", 3584)]
)
def test_search_by_name(ask, query, total):
    assert ask("page", **{**MESSAGE["page"], "query": query})[0]["total"] == total


def test_one_neuron_is_its_page(ask, demo, known):
    model, tokenizer = demo
    best = known["found"]["plural noun"].best
    found, _ = ask("neuron", unit=best.name, values=True)
    page = al.neurons.page(
        known["run"], best.layer, best.unit, tokenizer=tokenizer, model=model,
        found=known["found"], before=12, after=6,
    )  # fmt: skip
    assert found["headline"] == page.headline
    assert found["counts"] == page.counts.tolist()
    first = found["groups"][0]["rows"][0]
    assert first["value"] == page.top[0].value
    assert first["values"] == list(page.top[0].values)
    assert found["labels"][0][0] == "plural noun"
    ids = known["effects"].promoted[known["effects"].row(best.layer, best.unit)]
    assert [token for token, _ in found["promoted"]] == [tokenizer.decode([i]) for i in ids]


def test_without_a_run_it_says_what_is_missing(demo):
    ask = Asking(*opened(*demo))
    found, _ = ask("neuron", unit="L2/N681", values=False)
    assert [line.split(",")[0] for line in found["missing"]] == [
        "No run was given", "No labels were given: pass found=al.neurons.find(model",
    ]  # fmt: skip
    assert "headline" not in found
    assert len(found["promoted"]) == 8
    rows = ask("page", **{**MESSAGE["page"], "sort": "effect"})[0]["rows"]
    assert rows[0][1] is None
    assert rows[0][3] >= rows[1][3] > 0
    assert "error" not in ask("text", text="The dogs", names=["L2/N681"], at=-1)[0]


def test_results_of_another_kind_and_of_another_model_are_refused(demo, known, tiny):
    model, tokenizer = demo
    with pytest.raises(al.errors.SettingError, match=r"run is a str; expected .*exemplars returns"):
        al.explore(model, tokenizer, "a run")
    with pytest.raises(al.errors.SettingError, match="effects is a"):
        al.explore(model, tokenizer, effects=known["found"])
    with pytest.raises(al.errors.OtherRun, match="another model"):
        al.explore(tiny(), tokenizer, known["run"])
    with pytest.raises(al.errors.ModelError, match=r"al\.explore reads the unembedding"):
        al.explore(tiny("sequence"), tokenizer)
    with pytest.raises(al.errors.ModelError, match="Expected a model of arcee_lab"):
        al.explore(torch.nn.Linear(2, 2), tokenizer)
