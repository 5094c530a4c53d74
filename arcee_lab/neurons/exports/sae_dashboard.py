"""The batch of features that SAEDashboard 0.8.0 reads as `NeuronpediaDashboardBatch`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arcee_lab.neurons.exports.records import check_name, groups
from arcee_lab.neurons.pages.excerpts import Excerpt
from arcee_lab.neurons.pages.many import pages
from arcee_lab.neurons.pages.neuron_page import NeuronPage, UnitEffects
from arcee_lab.runs import storage

OPTIONS = ("source_set",)


def write(
    run: Any,
    units: Sequence[tuple[int, int]],
    out: Path,
    *,
    model: Any,
    tokenizer: Any,
    effects: Any = None,
    source_set: str = "relu2-neurons",
) -> tuple[int, dict[str, int]]:
    """Writes `layer-N/batch-0.json` for each layer.

    Args:
        run: The run.
        units: Layer and number of each neuron.
        out: A folder.
        model: The model of the run.
        tokenizer: Its tokenizer.
        effects: What `al.neurons.effects` found.
        source_set: Name of the set, `sae_set`.

    Returns:
        Activations written, and what was lost.
    """
    check_name(source_set, "source_set")
    batches: dict[int, list[dict[str, Any]]] = {}
    cut = silent = 0
    for page in pages(run, units, model=model, tokenizer=tokenizer, effects=effects):
        made = feature(page, run)
        batches.setdefault(page.layer, []).append(made)
        silent += len(page.negatives)
        cut += sum(x.length - len(x.ids) for x in page.excerpts if x.kind != "negative")
    for layer, features in batches.items():
        folder = storage.make_folder(out / f"layer-{layer}")
        batch = {
            "model_id": run.model,
            "layer": layer,
            "sae_set": source_set,
            "sae_id_suffix": None,
            "features": features,
        }
        storage.write_atomic(folder / "batch-0.json", json.dumps(batch, allow_nan=False))
    entries = sum(len(x["activations"]) for some in batches.values() for x in some)
    return entries, {"tokens far from a peak": cut, "windows in which a neuron is silent": silent}


def feature(page: NeuronPage, run: Any) -> dict[str, Any]:
    """A neuron as a feature.

    Bars are windows by the octave of the largest value in them. The group of largest values has
    the bounds and the share that SAEDashboard gives to it: -1, the maximum, -1.

    Args:
        page: Its page, with values.
        run: The run.
    """
    effects = page.effects or UnitEffects()
    filled = np.flatnonzero(page.counts)
    # The last bin has no upper bound; the largest value is one.
    above = np.minimum(page.edges[1:], max(page.maximum, float(page.edges[-2])))
    middles = (page.edges[:-1] + above) / 2
    whole: dict[str, Any] = dict.fromkeys(_LISTS, ())
    return {name: list(value) for name, value in whole.items()} | {
        "feature_index": page.unit,
        "neg_str": [token for token, _ in effects.lowers],
        "neg_values": [value for _, value in effects.lowers],
        "pos_str": [token for token, _ in effects.raises],
        "pos_values": [value for _, value in effects.raises],
        "frac_nonzero": page.rate,
        "freq_hist_data_bar_values": middles[filled].tolist(),
        "freq_hist_data_bar_heights": [float(count) for count in page.counts[filled]],
        "n_prompts_total": run.n_windows,
        "n_tokens_in_prompt": run.context,
        "dataset": "",
        "activations": [
            *(_activation(x, -1.0, page.maximum, -1.0) for x in page.top),
            *(
                _activation(x, group.low, group.high, group.share)
                for group in groups(page)
                for x in group.excerpts
            ),
        ],
    }


def _activation(x: Excerpt, low: float, high: float, share: float) -> dict[str, Any]:
    return {
        "bin_min": low,
        "bin_max": high,
        "bin_contains": share,
        "tokens": list(x.tokens),
        "values": list(x.known),
        "qualifying_token_index": x.peak,
    }


_LISTS = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
    "vector",
)
