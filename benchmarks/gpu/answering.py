"""What people wait for at AFM-4.5B's full shape: the explorer's answers, and training a head."""

import json
from functools import partial
from typing import Any

import torch

import arcee_lab as al
from benchmarks.gpu.cost import Large
from benchmarks.gpu.neuron_rows import letter_texts, letters
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Found, Row


def _explorer(place: Place, found: Found, *, large: Large) -> None:
    """What a key, a switched-off neuron and the two overviews take, without the browser."""
    found.aim = "values within 100 ms of a key, the next tokens within 250 ms"
    explorer = al.explore(large.model, letters(), selection=["L0/N3", "L0/H1"])
    sent: list[Any] = []
    explorer.send = lambda content, buffers=None: sent.append(content)
    text = {"text": "the dogs near the old door"}
    asked = {
        "text": {**text, "names": ["L0/N3", "L0/H1"], "at": -1},
        "next": {**text, "names": ["L0/N3", "L0/H1"], "factor": 0},
        "attention": text,
        "lens": text,
    }
    for kind, fields in asked.items():

        def work(kind: str = kind, fields: dict[str, Any] = fields) -> None:
            explorer._on_message(None, {"id": "a-1", "kind": kind, **fields}, [])
            assert "error" not in sent[-1], sent[-1]["error"]

        found.measured[f"{kind}, s"] = place.seconds(work)
    json.dumps(sent, allow_nan=False)  # as it goes to the browser
    if not place.dry:
        found.want(found.measured["text, s"] <= 0.1, "a key takes more than 100 ms")
        found.want(found.measured["next, s"] <= 0.25, "a neuron takes more than 250 ms")


def _head(place: Place, found: Found, *, large: Large) -> None:
    """A sequence head on the frozen backbone: one pass over short texts."""
    from arcee_lab.training.heads import HeadRecipe, LabelledTexts, train_head

    found.aim = "finite losses; the backbone is as before"
    count = 8 if place.dry else 64
    texts = tuple(letter_texts(count, 20 if place.dry else 255))
    labels = tuple(number % 2 for number in range(count))
    data = LabelledTexts("sequence", texts, None, labels, ("no", "yes"))
    weight = large.model.model.layers[0].mlp.down_proj.weight
    before = weight.detach()[:8].clone()
    recipe = HeadRecipe(epochs=1, batch_size=8)

    def work() -> Any:
        return train_head(large.model, letters(), data, recipe=recipe, progress=False)

    with torch.enable_grad():
        trained = work()
        found.measured |= {"texts": count, "s": place.seconds(work, repeats=1)}
    assert all(loss == loss for loss in trained.losses), "a loss is not a number"
    assert torch.equal(weight[:8], before), "the backbone has changed"


def rows(large: Large) -> list[Row]:
    """None is core: they add no kernel of their own."""
    works = {"explorer": _explorer, "training of a head": _head}
    return [
        Row(name, partial(work, large=large), packages=("pandas", "tokenizers", "anywidget"))
        for name, work in works.items()
    ]
