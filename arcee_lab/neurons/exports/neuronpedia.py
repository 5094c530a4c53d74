"""Neuronpedia's activation records: one JSON object per exemplar, one file of lines per layer.

Their fields are those of the activations in its database, which `neuronpedia` 1.2.1 reads with
`Activation.from_np_db_json`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from arcee_lab.neurons.exports.records import check_name, groups
from arcee_lab.neurons.pages.excerpts import Excerpt
from arcee_lab.neurons.pages.many import pages
from arcee_lab.neurons.pages.neuron_page import NeuronPage
from arcee_lab.runs import storage

OPTIONS = ("source_set",)


def write(
    run: Any,
    units: Sequence[tuple[int, int]],
    out: Path,
    *,
    model: Any,
    tokenizer: Any,
    source_set: str = "relu2-neurons",
) -> tuple[int, dict[str, int]]:
    """Writes `LAYER-SOURCE_SET.jsonl` for each layer.

    `values` are relu(u)². A record of a stratum has its bounds in `binMin` and `binMax`, and in
    `binContains` the share of the windows in which the neuron fires that are within; those of the
    largest values, and of windows in which it is silent, have null there.

    Args:
        run: The run.
        units: Layer and number of each neuron.
        out: A folder.
        model: The model of the run.
        tokenizer: Its tokenizer.
        source_set: What Neuronpedia calls a set of sources.

    Returns:
        Records written, and what was lost.
    """
    check_name(source_set, "source_set")
    lines: dict[str, list[str]] = {}
    cut = 0
    for page in pages(run, units, model=model, tokenizer=tokenizer):
        source = f"{page.layer}-{source_set}"
        for record, x in records(page, model_id=run.model, source=source):
            lines.setdefault(source, []).append(json.dumps(record, allow_nan=False))
            cut += x.length - len(x.ids)
    for source, some in lines.items():
        storage.write_atomic(out / f"{source}.jsonl", "\n".join(some) + "\n")
    return sum(map(len, lines.values())), {"tokens far from a peak": cut}


def records(
    page: NeuronPage, *, model_id: str, source: str
) -> Iterator[tuple[dict[str, Any], Excerpt]]:
    """The records of a neuron, each with the excerpt that it is of.

    Args:
        page: Its page, with values.
        model_id: What Neuronpedia calls the model.
        source: What it calls the layer.
    """
    for low, high, share, excerpts in [
        (None, None, None, page.top),
        *groups(page),
        (None, None, None, page.negatives),
    ]:
        for x in excerpts:
            values = list(x.known)
            best = max(range(len(values)), key=values.__getitem__)
            yield (
                {
                    "modelId": model_id,
                    "source": source,
                    "index": str(page.unit),
                    "tokens": list(x.tokens),
                    "values": values,
                    "maxValue": values[best],
                    "maxValueTokenIndex": best,
                    "binMin": low,
                    "binMax": high,
                    "binContains": share,
                },
                x,
            )
