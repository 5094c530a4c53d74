"""Records of OpenAI's neuron-explainer 0.0.1: one `NeuronRecord` per neuron.

Source of the format: Bills et al., "Language models can explain neurons in language models" (2023),
and the classes `NeuronRecord`, `NeuronId` and `ActivationRecord` of that program.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arcee_lab.errors import SettingError
from arcee_lab.neurons.exports.records import groups, random_excerpts
from arcee_lab.neurons.pages.excerpts import Excerpt
from arcee_lab.neurons.pages.many import pages
from arcee_lab.neurons.pages.neuron_page import NeuronPage
from arcee_lab.neurons.pages.token_text import TokenText
from arcee_lab.runs import storage

OPTIONS = ("n_random", "seed")
_TOGETHER = 256  # neurons whose random windows are read in one pass


def write(
    run: Any,
    units: Sequence[tuple[int, int]],
    out: Path,
    *,
    model: Any,
    tokenizer: Any,
    n_random: int = 20,
    seed: int = 0,
) -> tuple[int, dict[str, int]]:
    """Writes `neurons/LAYER/UNIT.json`.

    The program splits the largest ones in four and the random ones in three, so a run with 20 and
    20 gives splits of 5 and 6.

    Args:
        run: The run.
        units: Layer and number of each neuron.
        out: A folder.
        model: The model of the run.
        tokenizer: Its tokenizer.
        n_random: Random excerpts per neuron.
        seed: Random seed of their draw.

    Returns:
        Activation records written, and what was lost.

    Raises:
        SettingError: Fewer than three random excerpts.
    """
    if not 3 <= n_random <= 1000:
        raise SettingError(f"n_random is {n_random}; expected 3 to 1,000.")
    text = TokenText(tokenizer)
    entries = cut = silent = 0
    for at in range(0, len(units), _TOGETHER):
        some = units[at : at + _TOGETHER]
        drawn = random_excerpts(run, model, some, text, n=n_random, seed=seed)
        made = pages(run, some, model=model, tokenizer=tokenizer)
        for page, random in zip(made, drawn, strict=True):
            folder = storage.make_folder(out / "neurons" / str(page.layer))
            text_of = json.dumps(record(page, random), allow_nan=False)
            storage.write_atomic(folder / f"{page.unit}.json", text_of)
            silent += len(page.negatives)
            whole = [*random, *(x for x in page.excerpts if x.kind != "negative")]
            entries += len(whole)
            cut += sum(x.length - len(x.ids) for x in whole)
    return entries, {"tokens far from a peak": cut, "windows in which a neuron is silent": silent}


def record(page: NeuronPage, random: Sequence[Excerpt]) -> dict[str, Any]:
    """A neuron as a `NeuronRecord`, whose moments are left out.

    Args:
        page: Its page, with values.
        random: Excerpts drawn without regard to the neuron.
    """
    strata = list(reversed(groups(page)))
    return {
        "dataclass_name": "NeuronRecord",
        "neuron_id": {
            "dataclass_name": "NeuronId",
            "layer_index": page.layer,
            "neuron_index": page.unit,
        },
        "random_sample": [_activations(x) for x in random],
        "random_sample_by_quantile": [[_activations(x) for x in one.excerpts] for one in strata],
        "quantile_boundaries": [one.low for one in strata] + [one.high for one in strata[-1:]],
        "most_positive_activation_records": [_activations(x) for x in page.top],
    }


def _activations(x: Excerpt) -> dict[str, Any]:
    return {
        "dataclass_name": "ActivationRecord",
        "tokens": list(x.tokens),
        "activations": list(x.known),
    }
