"""Exports hold the numbers of the run, in exactly the fields that the other programs name."""

import json

import numpy as np
import page_runs
import pytest
import torch

import arcee_lab as al
from arcee_lab.neurons.exports.records import random_excerpts
from arcee_lab.neurons.pages.token_text import TokenText

ACTIVATION = {
    "modelId": str,
    "source": str,
    "index": str,
    "tokens": list,
    "values": list,
    "maxValue": float,
    "maxValueTokenIndex": int,
    "binMin": (float, type(None)),
    "binMax": (float, type(None)),
    "binContains": (float, type(None)),
}
FEATURE = {
    "feature_index": int,
    "neuron_alignment_indices": list,
    "neuron_alignment_values": list,
    "neuron_alignment_l1": list,
    "correlated_neurons_indices": list,
    "correlated_neurons_l1": list,
    "correlated_neurons_pearson": list,
    "correlated_features_indices": list,
    "correlated_features_l1": list,
    "correlated_features_pearson": list,
    "neg_str": list,
    "neg_values": list,
    "pos_str": list,
    "pos_values": list,
    "frac_nonzero": float,
    "freq_hist_data_bar_values": list,
    "freq_hist_data_bar_heights": list,
    "logits_hist_data_bar_heights": list,
    "logits_hist_data_bar_values": list,
    "n_prompts_total": int,
    "n_tokens_in_prompt": int,
    "dataset": str,
    "activations": list,
    "decoder_weights_dist": list,
    "vector": list,
}
FEATURE_ACTIVATION = {
    "bin_min": float,
    "bin_max": float,
    "bin_contains": float,
    "tokens": list,
    "values": list,
    "qualifying_token_index": int,
}
RECORD = {
    "dataclass_name": str,
    "neuron_id": dict,
    "random_sample": list,
    "random_sample_by_quantile": list,
    "quantile_boundaries": list,
    "most_positive_activation_records": list,
}
UNITS = [(0, 3), (0, 11), (1, 2)]


def check(record, schema):
    """Exactly these fields, of these types; one value per token, all of them finite."""
    assert set(record) == set(schema)
    for name, kind in schema.items():
        assert isinstance(record[name], kind), name
    for name in ("values", "activations"):
        if name in schema and "tokens" in schema:
            assert len(record["tokens"]) == len(record[name]) > 0
            assert all(isinstance(token, str) for token in record["tokens"])
            assert all(type(value) is float and 0 <= value < np.inf for value in record[name])


@pytest.fixture(scope="module")
def model():
    from arcee_lab.model import ArceeConfig, ArceeForCausalLM

    torch.manual_seed(2)
    config = ArceeConfig(
        vocab_size=50, hidden_size=32, intermediate_size=24, num_hidden_layers=2,
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
    return page_runs.run_of(model, tokenizer, n=25)


def strict(path):
    """JSON without NaN and infinity, which other readers refuse."""

    def refuse(word):
        raise AssertionError(word)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_neuronpedia(run, model, tokenizer, tmp_path):
    units = [*UNITS, (1, 5)]  # the last one never fires
    made = al.neurons.export(
        run, "neuronpedia", tmp_path / "x", model=model, tokenizer=tokenizer, units=units
    )
    records = []
    for layer in (0, 1):
        file = tmp_path / "x" / f"{layer}-relu2-neurons.jsonl"
        records += [json.loads(line) for line in file.read_text().splitlines()]
    assert made.entries == len(records)
    for record in records:
        check(record, ACTIVATION)
        assert record["values"][record["maxValueTokenIndex"]] == record["maxValue"]
        assert record["maxValue"] == max(record["values"])
        assert (record["binMin"] is None) == (record["binContains"] is None)
    for layer, unit in units:
        source = f"{layer}-relu2-neurons"
        mine = [r for r in records if (r["source"], r["index"]) == (source, str(unit))]
        top, strata = run.top(layer, unit), run.stratified(layer, unit)
        assert len(mine) == len(top) + sum(map(len, strata)) + len(run.negatives(layer, unit))
        for record, x in zip(mine, top, strict=False):
            assert record["maxValue"] == pytest.approx(x.value, rel=1e-4)
        _, counts = run.histogram(layer, unit)
        for record in mine:
            if record["binMin"] is not None:
                peak = record["maxValue"]
                within = record["binMin"] <= peak <= record["binMax"]
                # The peak is computed again, in another batch; it may cross a bound by rounding.
                assert within or peak == pytest.approx(record["binMax"], rel=1e-4)
        shares = {r["binMin"]: r["binContains"] for r in mine if r["binMin"] is not None}
        assert sum(shares.values()) <= 1 + 1e-12
        assert {round(share * int(counts.sum())) for share in shares.values()} <= {*counts.tolist()}


def test_sae_dashboard(run, model, tokenizer, tmp_path):
    effects = al.neurons.effects(model, top=4)
    made = al.neurons.export(
        run, "sae_dashboard", tmp_path / "x",
        model=model, tokenizer=tokenizer, units=UNITS, effects=effects,
    )  # fmt: skip
    batch = strict(tmp_path / "x" / "layer-0" / "batch-0.json")
    assert set(batch) == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
    assert [feature["feature_index"] for feature in batch["features"]] == [3, 11]
    entries = 0
    for file in (tmp_path / "x").glob("layer-*/batch-0.json"):
        for feature in strict(file)["features"]:
            check(feature, FEATURE)
            layer, unit = strict(file)["layer"], feature["feature_index"]
            assert feature["frac_nonzero"] == float(run.rates(layer)[unit])
            _, counts = run.histogram(layer, unit)
            assert sum(feature["freq_hist_data_bar_heights"]) == int(counts.sum())
            row = effects.row(layer, unit)
            assert feature["pos_values"] == effects.promoted_by[row].tolist()
            assert len(feature["neg_str"]) == 4
            for activation in feature["activations"]:
                check(activation, FEATURE_ACTIVATION)
                peak = activation["values"][activation["qualifying_token_index"]]
                assert peak == max(activation["values"])
            entries += len(feature["activations"])
    assert made.entries == entries
    assert "windows in which a neuron is silent" in made.lost


def test_neuron_explainer(run, model, tokenizer, tmp_path):
    al.neurons.export(
        run, "neuron_explainer", tmp_path / "x",
        model=model, tokenizer=tokenizer, units=UNITS, n_random=9,
    )  # fmt: skip
    for layer, unit in UNITS:
        record = strict(tmp_path / "x" / "neurons" / str(layer) / f"{unit}.json")
        check(record, RECORD)
        assert record["neuron_id"] == {
            "dataclass_name": "NeuronId",
            "layer_index": layer,
            "neuron_index": unit,
        }
        assert len(record["random_sample"]) == 9
        groups = record["random_sample_by_quantile"]
        whole = [*record["random_sample"], *record["most_positive_activation_records"]]
        for one in [*whole, *(x for group in groups for x in group)]:
            assert one["dataclass_name"] == "ActivationRecord"
            check(one, {"dataclass_name": str, "tokens": list, "activations": list})
        peaks = [max(x["activations"]) for x in record["most_positive_activation_records"]]
        expected = [x.value for x in run.top(layer, unit)]
        assert peaks == pytest.approx(expected, rel=1e-4)
        assert len(record["quantile_boundaries"]) == len(groups) + 1
        assert record["quantile_boundaries"] == sorted(record["quantile_boundaries"])


def test_random_windows_do_not_depend_on_other_neurons(run, model, tokenizer):
    text = TokenText(tokenizer)
    both = list(random_excerpts(run, model, [(0, 1), (1, 2)], text, n=5, seed=0))
    alone = list(random_excerpts(run, model, [(1, 2)], text, n=5, seed=0))
    assert [(x.window, x.position) for x in both[1]] == [(x.window, x.position) for x in alone[0]]
    assert [(x.window, x.position) for x in both[0]] != [(x.window, x.position) for x in both[1]]
    assert all(x.counted[x.peak] for x in both[0])


def test_delphi_is_the_cache_of_the_store(demo, tmp_path):
    from safetensors import safe_open

    model, tokenizer = demo
    texts = [document.text for document in al.demo.documents(n=40, seed=9, split="test")]
    run = al.neurons.exemplars(model, tokenizer, texts, progress=False)
    made = al.neurons.export(
        run, "delphi", tmp_path / "x", model=model, tokenizer=tokenizer, layers=[1], context=32
    )
    store = al.dump.open(tmp_path / "x" / "store")
    assert store.manifest.model["fingerprint"] == run.fingerprint
    files = sorted((tmp_path / "x" / "cache" / "latents").glob("layers.1.mlp.*/*.safetensors"))
    assert len(files) == 5
    entries = 0
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            assert set(tensors.keys()) == {"locations", "activations", "tokens"}
            entries += len(tensors.get_tensor("activations"))
    assert made.entries == entries > 0
    config = strict(files[0].parent / "config.json")
    assert config["model_name"] == str((tmp_path / "x" / "cache" / "tokenizer").resolve())
    assert (tmp_path / "x" / "export.json").is_file()


BAD = [
    (dict(kind="sae"), al.errors.SettingError, "expected one of neuronpedia"),
    (dict(units=[]), al.errors.SettingError, "has 0 neurons"),
    (dict(units=None), al.errors.SettingError, "has 0 neurons"),
    (dict(units=[(0, 1)] * 2), al.errors.SettingError, "twice"),
    (dict(units=[(0, 24)]), al.errors.SettingError, "expected 0 to 23"),
    (dict(units=[(2, 0)]), al.errors.SettingError, "layers 0, 1"),
    (dict(source_set="../up"), al.errors.SettingError, "expected letters"),
    (dict(source_set=".."), al.errors.SettingError, "expected letters"),
    (dict(n_random=5), al.errors.SettingError, "has no option 'n_random'"),
    (dict(kind="neuron_explainer", n_random=2), al.errors.SettingError, "expected 3 to"),
    (dict(kind="delphi"), al.errors.SettingError, "whole layers"),
    (dict(kind="delphi", units=None, layers=[7]), al.errors.SettingError, "expected some of 0, 1"),
    (dict(kind="delphi", units=None, layers=[]), al.errors.SettingError, "expected some of 0, 1"),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD)
def test_bad_calls_leave_nothing(run, model, tokenizer, tmp_path, given, error, words):
    call = {"kind": "neuronpedia", "units": UNITS} | given
    with pytest.raises(error, match=words) as caught:
        al.neurons.export(
            run, call.pop("kind"), tmp_path / "x", model=model, tokenizer=tokenizer, **call
        )
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "x").exists()


def test_a_full_folder_and_another_model_are_refused(run, model, tokenizer, tiny, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(al.errors.FileError, match="holds other files"):
        al.neurons.export(
            run, "neuronpedia", tmp_path, model=model, tokenizer=tokenizer, units=UNITS
        )
    with pytest.raises(al.errors.OtherRun):
        al.neurons.export(
            run, "neuronpedia", tmp_path / "x", model=tiny(), tokenizer=tokenizer, units=UNITS
        )
    assert not (tmp_path / "x").exists()
