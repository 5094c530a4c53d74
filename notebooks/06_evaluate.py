# %% [markdown]
# # Evaluate: a clean run, a run under an ablation, and quality against sparsity
#
# **The demo is a toy model.** It was trained on a little generated world whose truth is known, so
# next to most scores is the best that any reader could reach. Its numbers say nothing about
# AFM-4.5B.
#
# lm-eval's tasks run on the LM head and on the three classification heads, every score has a 95 %
# bootstrap interval over documents, and any run can be repeated under interventions.
# This notebook takes about one minute on one CPU core.

# %%
import os
import random

import numpy as np
import pandas as pd
import torch

import arcee_lab as al
from arcee_lab.evals.sweep_levels import random_control, top_k
from arcee_lab.evals.tasks.find import find_tasks

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMIT = 100  # documents per task, from its start; None takes all
# The three heads come with the demo; a causal checkpoint has none until `arcee-lab train-head`.
TASKS = "arcee_all" if MODEL == "demo" else "arcee_lm"

lm = al.evals.ArceeLab(MODEL, device=DEVICE, batch_size=32)
tasks = find_tasks(TASKS)  # loaded once, for all runs below
print(f"{len(tasks['tasks'])} tasks on {MODEL}")

# %% [markdown]
# ## A clean run
#
# `al.evals.run` returns a frame and the samples. Here is the first metric of each task. The ceiling
# is what the best possible reader scores: exact, or, for `ner` and the texts, on all documents of
# the task. Lower nats per word is better, so there the ceiling is a floor.

# %%
clean = al.evals.run(lm, tasks=tasks, limit=LIMIT, progress=False)


def first_metrics(evaluation):
    frame = evaluation.frame().drop_duplicates("task").set_index("task")
    frame.index = frame.index.str.removeprefix("arcee_demo_")
    return frame


shown = first_metrics(clean)[["metric", "value", "low", "high", "ceiling", "n"]]
shown.round(3)

# %% [markdown]
# The scores that are shares, as a picture: the dot is the score, the line its interval, the bar
# across it the ceiling.

# %%
from arcee_lab.views.figures.figure import new, style
from arcee_lab.views.scale import CATEGORIES

shares = shown[shown["metric"] != "nats_per_word"].iloc[::-1]
with style():
    figure, (axes,) = new(0.8 + 0.27 * len(shares))
    rows = np.arange(len(shares))
    axes.hlines(rows, shares["low"], shares["high"], color=CATEGORIES[0], linewidth=2)
    axes.plot(shares["value"], rows, "o", color=CATEGORIES[0], markersize=5, label="score, 95 %")
    axes.vlines(shares["ceiling"], rows - 0.32, rows + 0.32, color=CATEGORIES[1], label="ceiling")
    axes.set_yticks(rows, [f"{task}: {row.metric}" for task, row in shares.iterrows()])
    axes.set(xlabel="score", xlim=(min(0.7, shares["low"].min()), 1.01))
    axes.grid(axis="x", linewidth=0.5)
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
figure

# %% [markdown]
# Every document is kept: the question, the answer, and each metric. These
# are the first names that the token head (or the first facts that the LM) got wrong.

# %%
task, metric = ("arcee_demo_ner", "name_acc") if MODEL == "demo" else ("arcee_demo_facts", "acc")
samples = clean.samples_frame(task)
right = [
    item[0] == item[1] if isinstance(item, (list, tuple)) else item for item in samples[metric]
]
wrong = samples[~np.array(right, dtype=bool)]
for prompt in wrong["prompt"].head(3):
    print(prompt)
print(f"{len(wrong)} of {len(samples)} documents")

# %% [markdown]
# ## Which neurons does a task need?
#
# Some neurons mark words that belong to a person's name: they fire there and hardly elsewhere, or
# the other way round. We rank all neurons by the gap between the two firing rates, on documents of
# the world's validation split; the tasks are on its test split.
#
# The concept was chosen with an earlier training run of the demo, as the one of four whose neurons
# mattered most on the first 100 documents of each task. The weights asked here are others, and
# these documents are left out from here on: every run below, the clean one included, is on the
# documents behind them.

# %%
CONCEPT = "person"
SEEN = 100  # documents of each task on which the concept was chosen
SIZES = (32, 96)  # neurons that are switched off
NEURONS = "layers.*.mlp.hook_post"
ASKED = [f"arcee_demo_{name}" for name in ("ner", "sentiment", "qa", "agreement_1")]
few = find_tasks([name for name in ASKED if name in tasks["tasks"]])
for task in few["tasks"].values():
    split = task.config.test_split
    task.dataset[split] = task.dataset[split].select(range(SEEN, len(task.dataset[split])))

from arcee_lab.demo.concepts import concept_labels


@torch.no_grad()
def firing_rates(concept, n=100):
    """Share of words with and without the concept at which each neuron fires: [layer, d_mlp]."""
    found = concept_labels(concept, part="search", n=n)
    fired, count = [0, 0], [0, 0]
    for document, labels in zip(found.documents, found.labels, strict=True):
        batch = lm.tokenizer(document.text, return_tensors="pt", return_offsets_mapping=True)
        at_end = {end: i for i, (_, end) in enumerate(batch.pop("offset_mapping")[0].tolist())}
        with al.capture(lm.model, NEURONS) as acts:
            lm.model(**batch.to(DEVICE))
        fires = torch.stack([acts[site][0] for site in acts], dim=1) > 0  # pos layer d_mlp
        for has in (0, 1):
            places = [
                at_end[word.end]
                for word, label in zip(document.words, labels, strict=True)
                if label is not None and label == bool(has)
            ]
            fired[has] = fired[has] + fires[places].sum(0)
            count[has] += len(places)
    return fired[1] / count[1], fired[0] / count[0], (fired[0] + fired[1]) / sum(count)


with_it, without, everywhere = firing_rates(CONCEPT)
gap = (with_it - without).abs()
order = gap.flatten().argsort(descending=True, stable=True)
best = [divmod(int(i), gap.shape[1]) for i in order[:5]]
pd.DataFrame(
    [
        (layer, unit, float(with_it[layer, unit]), float(without[layer, unit]))
        for layer, unit in best
    ],
    columns=["layer", "neuron", f"fires at {CONCEPT!r}", "fires elsewhere"],
).round(3)

# %% [markdown]
# To see whether they matter, they are switched off (`al.Ablate`) and the tasks run again. The
# control switches off other neurons, drawn at random, until together they fire as often at an
# average word: the same activity is lost, from neurons that do not mark the concept as well.


# %%
def marked(size):
    chosen = {}
    for i in order[:size].tolist():
        layer, unit = divmod(i, gap.shape[1])
        chosen.setdefault(layer, []).append(unit)
    return chosen


def as_active(chosen, seed):
    """Other neurons at random, until they fire as often together as the chosen ones."""
    rest = order[max(SIZES) :].tolist()
    random.Random(seed).shuffle(rest)
    left, found = activity(chosen), {}
    for i in rest:
        layer, unit = divmod(i, gap.shape[1])
        rate = float(everywhere[layer, unit])
        if 0 < rate <= left:
            found.setdefault(layer, []).append(unit)
            left -= rate
    return found


def switched_off(chosen):
    return [al.Ablate(f"layers.{n}.mlp.hook_post", units=units) for n, units in chosen.items()]


def activity(chosen):
    return sum(float(everywhere[n, units].sum()) for n, units in chosen.items())


unchanged = al.evals.run(lm, tasks=few, limit=LIMIT, progress=False)
rows = [("none", 0, 0.0, unchanged)]
for size in SIZES:
    for name, chosen in (("marking", marked(size)), ("random", as_active(marked(size), seed=0))):
        scores = al.evals.run(
            lm, tasks=few, interventions=switched_off(chosen), limit=LIMIT, progress=False
        )
        number = sum(map(len, chosen.values()))
        rows.append((name, number, activity(chosen), scores))

table = pd.DataFrame(
    [
        {"neurons off": name, "number": size, "active per word": round(active, 1)}
        | {task.removeprefix("arcee_demo_"): first_metrics(scores).loc[
            task.removeprefix("arcee_demo_"), "value"] for task in few["tasks"]}
        for name, size, active, scores in rows
    ]
)  # fmt: skip
table.round(3)

# %% [markdown]
# How to read it: if the entity score falls without the marking neurons, while random neurons of the
# same activity, several times as many, leave it where it was, then the marking neurons do not only
# show persons, the model uses them. A task without names is the check on the other side: if it fell
# as far, the neurons would be needed for everything. Compare each difference with the intervals in
# the figure. `active per word`: how many of these neurons fire at an average word of the news.
#
# In the shipped demo the larger set of marking neurons costs entities a few points, and
# its random control costs them next to nothing; the tasks without names lose no more to the marking
# neurons than to the random ones. The loss is small compared with the score: most of what the head
# needs to find a person is elsewhere, or in more than one place.

# %%
lowest = min(first_metrics(row[3])["low"].min() for row in rows)
with style():
    figure, panels = new(2.6, columns=len(few["tasks"]))
    for axes, task in zip(panels, few["tasks"], strict=True):
        short = task.removeprefix("arcee_demo_")
        for number, name in enumerate(("marking", "random")):
            own = [row for row in rows if row[0] in ("none", name)]
            found = [first_metrics(row[3]).loc[short] for row in own]
            value = np.array([score["value"] for score in found])
            low = value - [score["low"] for score in found]
            high = np.array([score["high"] for score in found]) - value
            axes.errorbar(
                np.array([row[2] for row in own]) + number,  # next to each other, not on top
                value,
                yerr=[low, high],
                color=CATEGORIES[number],
                marker="o",
                markersize=4,
                label=name if axes is panels[0] else None,
            )
        axes.set(title=short, xlabel="active neurons off", ylim=(lowest - 0.03, 1.01))
        axes.grid(linewidth=0.5)
    panels[0].set_ylabel("score, 95 %")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
figure

# %% [markdown]
# ## How sparse may it be?
#
# `al.evals.sweep` keeps the k largest neurons of each token in every layer and runs the tasks at
# each k; the control keeps a fixed share of neurons, drawn once. The axis is the share of MLP
# activations above zero that was measured while the tasks ran, not k over the width. Where k
# reaches the number of neurons that fire, nothing is lost, to the last bit.

# %%
width = lm.model.config.intermediate_size
levels = top_k(lm.model, [width, width // 16, width // 128, 1])
levels += random_control(lm.model, (0.5, 0.125))
sweep = al.evals.sweep(lm, tasks=few, levels=levels, limit=LIMIT, progress=False)
lossless = sweep.steps[1]
print("k = width equals the clean run:", all(
    one.value == other.value for one, other in zip(
        lossless.evaluation.scores, sweep.clean.evaluation.scores, strict=True)))  # fmt: skip
sweep.figure()

# %%
frame = sweep.frame().drop_duplicates(["level", "task"])
frame["task"] = frame["task"].str.removeprefix("arcee_demo_")
frame.pivot_table(
    index=["family", "level", "active"], columns="task", values="value", sort=False
).round(3)

# %% [markdown]
# ## Next steps
#
# The same from a shell: `arcee-lab eval MODEL --tasks arcee_all --out DIR`, with `--intervention
# FILE` for what `al.interventions.to_json` writes. `--tasks afm` runs lm-eval's own tasks, `--tasks
# arcee_standard` the field's data sets for heads; see docs/how-to/evals.md. A head for another data
# set comes from `arcee-lab train-head`.
