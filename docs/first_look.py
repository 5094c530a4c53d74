"""Draws docs/first_look.png, the picture at the top of the README, from the demo itself.

    .venv/bin/python docs/first_look.py

Each row is the best neuron of a concept, chosen on some stories and confirmed on others; shown are
concepts whose neuron has an F1 of `LEAST` or more there, on a story that was not used to choose.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEAST = 0.7  # F1 of a neuron that is shown: a weaker one leaves its row empty under its own words
STORIES = 120
WORDS = (20, 27)  # of the story that is shown


def main() -> int:
    """Finds the neurons, draws them on one story, and writes the picture."""
    sys.path.insert(0, str(HERE.parent))
    import torch

    import arcee_lab as al
    from arcee_lab.demo import documents
    from arcee_lab.demo.concepts import CONCEPTS
    from arcee_lab.views.figures.figure import png
    from arcee_lab.views.figures.raster import raster

    model, tokenizer = al.load("demo")
    labels, others = (
        al.neurons.labels.demo("story", n=STORIES, **part)
        for part in ({}, {"part": "confirmation"})
    )
    found = al.neurons.find(model, tokenizer, labels, confirm=others, batch_size=32)
    units = [one.best for one in found.labels if one.best.f1 >= LEAST]
    stories = documents("story", n=STORIES, seed=0, split="test")
    named = [unit.label for unit in units if unit.label != "plural subject in scope"]

    def kind(word):
        return next((name for name in named if CONCEPTS[name].label(word)), None)

    # The story with the most concepts to see.
    fitting = [story for story in stories if WORDS[0] <= len(story.words) <= WORDS[1]]
    story = max(fitting, key=lambda one: len({kind(word) for word in one.words}))
    batch = tokenizer(story.text, return_tensors="pt", return_offsets_mapping=True)
    at_end = {end: i for i, (_, end) in enumerate(batch.pop("offset_mapping")[0].tolist())}
    with al.capture(model, "layers.*.mlp.hook_post") as acts, torch.no_grad():
        model(**batch)
    places = [at_end[word.end] for word in story.words]
    values = torch.stack([acts[unit.site][0, places, unit.unit] for unit in units])
    above = values > torch.tensor([unit.threshold for unit in units])[:, None]
    kinds, rows = [kind(word) for word in story.words], [unit.label for unit in units]
    hits = [bool(above[rows.index(one), at]) for at, one in enumerate(kinds) if one is not None]
    figure = raster(
        (values * above).numpy(),
        [word.text for word in story.words],
        [f"{unit.label}  {unit.name}" for unit in units],
        notes=[f"F1 {unit.f1:.2f}" for unit in units],
        marks=kinds,
        across="word, on the colour of its known label",
        down="neuron",
        title=f"On {sum(hits)} of {len(hits)} labelled words of a story it was not chosen on, the "
        "neuron of the concept fires",
    )
    (HERE / "first_look.png").write_bytes(png(figure, dpi=150, small=True))
    print(f"{HERE / 'first_look.png'}: {', '.join(unit.label for unit in units)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
