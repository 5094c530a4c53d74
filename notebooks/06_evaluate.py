# %% [markdown]
# # Evaluate: a clean run, a run under an ablation, and quality against sparsity
#
# lm-eval's tasks run on the LM head and on the classification heads, every score has a 95 %
# bootstrap interval over documents, and any run can be repeated under interventions.
# This notebook takes about one minute on one CPU core.
#
# As it is, it evaluates **the demo, a toy model** of a small generated world whose truth is known,
# so next to most scores is the best that any reader could reach; its numbers say nothing about
# AFM-4.5B. Write another model, and if you like your own texts, into the next cell; nothing else
# has to be changed. Another model is asked about plain English, or about your texts.

# %% tags=["parameters"]
import os

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = None  # such as "cuda"; None takes the GPU if there is one
DTYPE = None  # such as "bfloat16"; None takes the checkpoint's own
TEXTS = None  # yours: a text, a list of texts, or {"kind": [texts]}; None takes the lesson's

# %%
import random

import numpy as np
import pandas as pd
import torch
from IPython.display import display

import arcee_lab as al
from arcee_lab.evals.sweep_levels import random_control, top_k

LIMIT = 100  # documents per task, from its start; None takes all

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
lm = al.evals.ArceeLab(MODEL, device=device, dtype=DTYPE, batch_size=32)
lesson = al.lesson.build(lm.model, lm.tokenizer, texts=TEXTS)
tasks = lesson.tasks()  # loaded once, for all runs below


def answered(name):
    """Whether the model has the head that a task asks."""
    with lesson.part(name):
        lm.require_heads([tasks["tasks"][name]])
    return lesson.parts[name].done


kept = [name for name in tasks["tasks"] if answered(name)]
if len(kept) < len(tasks["tasks"]):
    tasks = {"tasks": {name: tasks["tasks"][name] for name in kept}, "groups": {}, "group_map": {}}
print(f"{len(kept)} tasks on {MODEL}")
lesson

# %% [markdown]
# ## A clean run
#
# `al.evals.run` returns a frame and the samples. Here is the first metric of each task. The ceiling
# is what the best possible reader scores, where that is known; a score above it is luck of these
# documents, which the interval allows for. Lower nats per word is better.


# %%
def short(task):
    return task.removeprefix("arcee_").removeprefix("demo_").removeprefix("english_")


def first_metrics(evaluation):
    return evaluation.frame().drop_duplicates("task").set_index("task").rename(index=short)


with lesson.part("a clean run"):
    if not kept:
        raise al.errors.SettingError("the model has the head of none of these tasks.")
    clean = al.evals.run(lm, tasks=tasks, limit=LIMIT, progress=False)
    columns = ["metric", "value", "low", "high", "ceiling", "n"]
    display(first_metrics(clean)[columns].round(3).reset_index())

# %% [markdown]
# The scores with their intervals, as a picture; the mark across is the ceiling, where it is known.

# %%
with lesson.part("the picture of a clean run"):
    lesson.needs("a clean run")
    display(clean.figure())

# %% [markdown]
# Every document is kept: the question, the answer, and each metric. These are the first documents
# of one task that the model got wrong.

# %%
with lesson.part("what went wrong"):
    lesson.needs("a clean run")
    names = list(tasks["tasks"])
    task = "arcee_demo_ner" if "arcee_demo_ner" in names else names[0]
    metric = (
        first_metrics(clean)["metric"].iloc[names.index(task)] if task == names[0] else "name_acc"
    )
    samples = clean.samples_frame(task)
    right = [
        item[0] == item[1] if isinstance(item, (list, tuple)) else item for item in samples[metric]
    ]
    wrong = samples[~np.array(right, dtype=bool)]
    for prompt in wrong["prompt"].head(3):
        print(prompt)
    print(f"{len(wrong)} of {len(samples)} documents of {task}, by {metric}")

# %% [markdown]
# ## Which neurons does a task need?
#
# Some neurons fire at words with a label and hardly elsewhere: `al.neurons.find` ranks them, on
# documents that no task below asks about. Are these neurons needed? The label is one of the
# lesson's; in the demo's world it is "person", a part of a person's name, and one of the tasks is
# to find names.

# %%
neurons = lm.model.config.num_hidden_layers * lm.model.config.intermediate_size
SIZES = tuple(size for size in (32, 96) if size <= neurons // 8) or (max(1, neurons // 8),)
with lesson.part("marking neurons"):
    if lesson.source == "demo":
        labels = al.neurons.labels.demo("news", n=120)
        concept = "person"
    else:
        labels = lesson.labels("search", n=160)
        concept = labels.names[0]
    found = al.neurons.find(
        lm.model,
        lm.tokenizer,
        labels,
        names=concept,
        top=max(SIZES),
        shuffles=19,
        untrained=False,
        batch_size=32,
        progress=False,
    )
    best = found[concept]
    print(f"{found.headline}.")
    base = best.positives / best.tokens  # who always says yes is right so often
    print(
        lesson.caption(
            f"The best neuron for {concept!r}, {best.best.name}, has F1 {best.best.f1:.2f} on "
            f"texts that did not choose it; the best for shuffled labels {best.shuffled.f1:.2f}, "
            f"always saying yes {2 * base / (1 + base):.2f}",
            n=best.tokens,
        )
    )
    table = found.units().head(5).rename(columns={"F1 searched": "F1 where it was chosen"})
    columns = ["label", "unit", "F1 where it was chosen", "F1", "F1 low", "F1 high"]
    display(table[columns].round(2))

# %% [markdown]
# To see whether they matter, they are switched off (`al.Ablate`) and tasks run again, on documents
# behind the first hundred. The control switches off other neurons, drawn at random, until together
# they fire as often: the same activity is lost, from neurons that do not mark the label as well.

# %%
with lesson.part("four tasks"):
    lesson.needs("a clean run")
    wanted = [f"arcee_demo_{name}" for name in ("ner", "sentiment", "qa", "agreement_1")]
    wanted = [name for name in (*wanted, *kept) if name in kept]
    wanted = list(dict.fromkeys(wanted))[:4]
    few = {**tasks, "tasks": {name: tasks["tasks"][name] for name in wanted}}
    few |= {"groups": {}, "group_map": {}}
    for task in few["tasks"].values():
        split = task.config.test_split
        if len(task.dataset[split]) > 2 * LIMIT:
            task.dataset[split] = task.dataset[split].select(range(LIMIT, 2 * LIMIT))

with lesson.part("tasks without neurons"):
    lesson.needs("marking neurons", "four tasks")
    sites = "layers.*.mlp.hook_post"
    with al.capture(lm.model, {sites: al.reducers.FiringRate()}) as fired, torch.no_grad():
        for start in range(0, min(96, len(labels.texts)), 16):
            lm.model(**lesson.batch(labels.texts[start : start + 16]))
    rate = {(site, unit): float(r) for site in fired for unit, r in enumerate(fired[site].rates)}
    marking = [(unit.site, unit.unit) for unit in best.units]

    def as_active(chosen, seed):
        """Other neurons at random, until they fire as often together as the chosen ones."""
        rest = [unit for unit in rate if unit not in set(marking)]
        random.Random(seed).shuffle(rest)
        left, taken = sum(rate[unit] for unit in chosen), []
        for unit in rest:
            if 0 < rate[unit] <= left:
                taken.append(unit)
                left -= rate[unit]
        return taken

    def switched_off(chosen):
        units = pd.DataFrame(chosen, columns=["site", "unit"]).groupby("site")["unit"].apply(list)
        return [al.Ablate(site, units=group) for site, group in units.items()]

    rows = [("none", [], al.evals.run(lm, tasks=few, limit=LIMIT, progress=False))]
    for size in SIZES:
        for name, chosen in (
            (f"{size} marking", marking[:size]),
            (f"random for {size}", as_active(marking[:size], seed=0)),
        ):
            if not chosen:
                continue  # hardly any other neuron fires
            off = switched_off(chosen)
            scores = al.evals.run(lm, tasks=few, interventions=off, limit=LIMIT, progress=False)
            rows.append((name, chosen, scores))
    table = pd.DataFrame(
        [
            {
                "neurons off": name,
                "number": len(chosen),
                "active per token": sum(rate[unit] for unit in chosen),
                **first_metrics(scores)["value"],
            }
            for name, chosen, scores in rows
        ]
    )
    display(table.round(3))

# %% [markdown]
# Each change with its paired interval: the same documents with and without the neurons. An interval
# that contains 0 is no finding. A task that asks for the label should lose more without the marking
# neurons than without the random ones; a task that has nothing to do with it is the check on the
# other side. `active per token` is how many of these neurons fire at an average token.

# %%
from arcee_lab.views.figures.forest import Row, interval_rows

with lesson.part("paired changes"):
    lesson.needs("tasks without neurons")
    names = ["clean", *(name for name, _, _ in rows[1:])]
    compared = al.evals.compare(*(scores for _, _, scores in rows), names=names)
    panels, seen = {}, set()
    for one in compared.differences:
        if (one.task, one.run) not in seen:  # the first metric of each task
            seen.add((one.task, one.run))
            row = Row(one.run, one.difference, one.low, one.high, clear=one.p_holm < 0.05)
            panels.setdefault(f"{short(one.task)}: {one.metric}", []).append(row)
    print(f"{compared.headline}.")
    most = max((one.n for one in compared.differences), default=0)
    clear = sorted({row.label for rows in panels.values() for row in rows if row.clear})
    display(
        interval_rows(
            list(panels.items()),
            x="change, with its 95% interval",
            differences=True,
            title=(
                f"Switched off, {' and '.join(clear)} neurons clearly change a task"
                if clear
                else "No neurons that were switched off clearly change a task"
            )
            + f" (N up to {most} documents)",
        )
    )

# %% [markdown]
# ## How sparse may it be?
#
# `al.evals.sweep` keeps the k largest neurons of each token in every layer and runs the tasks at
# each k; the control keeps a fixed share of neurons, drawn once. The axis is the share of MLP
# activations above zero that was measured while the tasks ran, not k over the width. Where k
# reaches the number of neurons that fire, nothing is lost, to the last bit.

# %%
with lesson.part("the sweep"):
    lesson.needs("four tasks")
    width = lm.model.config.intermediate_size
    levels = top_k(lm.model, sorted({width, max(1, width // 16), max(1, width // 128), 1})[::-1])
    levels += random_control(lm.model, (0.5, 0.125))
    sweep = al.evals.sweep(lm, tasks=few, levels=levels, limit=LIMIT, progress=False)
    lossless, clean_run = (
        [one.value for one in step.evaluation.scores] for step in (sweep.steps[1], sweep.clean)
    )
    print("k = width equals the clean run:", lossless == clean_run)
    display(sweep.figure())
    frame = sweep.frame().drop_duplicates(["level", "task"])
    frame["task"], frame["active"] = frame["task"].map(short), frame["active"].round(4)
    display(
        frame.pivot_table(
            index=["family", "level", "active"], columns="task", values="value", sort=False
        )
        .round(3)
        .reset_index()
        .rename_axis(columns=None)
    )

# %% [markdown]
# ## Next steps
#
# The same from a shell: `arcee-lab eval MODEL --tasks arcee_all --out DIR`, with `--intervention
# FILE` for what `al.interventions.to_json` writes. `--tasks afm` runs lm-eval's own tasks, `--tasks
# arcee_standard` the field's data sets for heads; see docs/how-to/evals.md. A head for another data
# set comes from `arcee-lab train-head`. This notebook on another model:
# `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
