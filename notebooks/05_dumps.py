# %% [markdown]
# # Activation dumps: store everything once, query it any time
#
# Running a model again for each question is slow, and keeping all activations dense is large. A
# ReLU² neuron that does not fire is exactly zero, so a store can leave most values out and lose
# nothing. This notebook writes a store, queries neurons, trains a probe from it, damages it on
# purpose and repairs it. It takes about 20 seconds on one CPU core.
#
# As it is, it reads **the demo, a toy model** of a small generated world whose truth is known: its
# numbers show what the tools do, and nothing about AFM-4.5B. Write another model, and if you like
# your own texts, into the next cell; nothing else has to be changed.

# %% tags=["parameters"]
import os

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = None  # such as "cuda"; None takes the GPU if there is one
DTYPE = None  # such as "bfloat16"; None takes the checkpoint's own
TEXTS = None  # yours: a text, a list of texts, or {"kind": [texts]}; None takes the lesson's

# %%
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import display

import arcee_lab as al
from arcee_lab.dump import DumpConfig, Tag

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
model, tokenizer = al.load(MODEL, dtype=DTYPE, device=device)
lesson = al.lesson.build(model, tokenizer, texts=TEXTS)
lesson

# %% [markdown]
# ## Labels to keep with the activations
#
# A store takes further numbers per token. Here it is what the token is, out of the labels that the
# lesson knows. A token may have several of them, so each combination has a number; 0 is none.

# %%
with lesson.part("labels"):
    labels = lesson.labels("search", n=160)
    display(labels)
named = lesson.parts["labels"].done
texts = list(labels.texts) if named else lesson.pieces
by_name = {name: labels.tokens(tokenizer, name) for name in labels.names} if named else {}


def labels_of(number):
    """The labels of each token of a text."""
    held = [()] * len(lesson.tokens(texts[number]))
    for name in by_name:
        for place in np.arange(len(held))[by_name[name][number]]:
            held[place] += (name,)
    return held


held = [labels_of(number) for number in range(len(texts))]
COMBINATIONS = list(dict.fromkeys([(), *(names for text in held for names in text)]))
NAMES = [" + ".join(names) or "none" for names in COMBINATIONS]
numbers = [[COMBINATIONS.index(names) for names in text] for text in held]
tags = {"label": Tag(numbers, labels=tuple(NAMES))}

# %% [markdown]
# ## What will it take?
#
# A plan is measured on a few batches, before anything is written.

# %%
middle = model.config.num_hidden_layers // 2
RESID = f"layers.{middle}.hook_resid_post"
config = DumpConfig(
    sites=("layers.*.mlp.hook_post", RESID), batch_size=32, packed=True, shard_tokens=2048
)
with lesson.part("a plan"):
    plan = al.dump.plan(model, tokenizer, texts, config, tags=tags)
    print(
        f"{plan.n_tokens:,} tokens, {len(plan.sites)} sites, {plan.n_shards} shards: "
        f"{plan.bytes / 1e6:.1f} MB, where all values written out take "
        f"{plan.dense_bytes / 1e6:.1f} MB"
    )

# %% [markdown]
# ## Write it
#
# All sites are read in one forward; conversion and files follow in another thread. The same call on
# the same folder continues where an interrupted run stopped, and ends with the same bytes.
# `of_dense` is what a site takes, over all its values written out.

# %%
folder = Path(tempfile.mkdtemp()) / "acts"
with lesson.part("the store"):
    lesson.needs("a plan")
    store = al.dump.write(model, tokenizer, texts, folder, config, tags=tags)
    sites = store.sites()
    sites.insert(4, "planned bytes", plan.frame()["bytes"].map("{:,}".format))
    sites["bytes"] = sites["bytes"].map("{:,}".format)
    display(sites.round(3))

# %% [markdown]
# Neurons are stored as relu(u), exactly; their squares are bit-identical to the model's own in
# the batch in which they were computed. Here is how much smaller that is, layer by layer; 1 is
# every value written out.

# %%
from arcee_lab.views.figures.curves import Line, lines

with lesson.part("bytes by layer"):
    lesson.needs("the store")
    neurons = store.sites()[store.sites()["layout"] == "neuron"]
    layers = np.arange(len(neurons))
    print(
        lesson.caption(
            f"On disk the neurons take {neurons['of_dense'].mean():.1%} of their dense size",
            n=plan.n_tokens,
        )
    )
    display(
        lines(
            [
                Line("neurons, nothing lost", layers, neurons["of_dense"].to_numpy()),
                Line("every value written out", layers, np.ones(len(neurons)), dashed=True),
            ],
            x="layer",
            y="share of dense bytes",
            shares="y",
            log_y=True,
            title="With nothing lost, the neurons of a layer take "
            f"{neurons['of_dense'].min():.1%} to {neurons['of_dense'].max():.1%} of "
            f"their dense size (N = {plan.n_tokens:,} tokens)",
        )
    )

# %% [markdown]
# ## When does a neuron fire?
#
# `al.neurons.find` names a neuron for each label, chosen on every second text and confirmed on the
# others. What the store adds: a question about one neuron reads that neuron's bytes alone, without
# the model.

# %%
with lesson.part("neurons of the labels"):
    lesson.needs("labels")
    found = al.neurons.find(model, tokenizer, labels, batch_size=32, shuffles=19, untrained=False)
    print(f"{found.headline}.")
    columns = ["label", "unit", "F1", "F1 low", "F1 high", "F1 shuffled", "p", "n"]
    display(found.frame()[columns].round(2))

# %% [markdown]
# From the store: how often the tokens at which each of them fires have its label, and how often any
# token has it. To fire means to be above 0 here; the search above gave each neuron a level of its
# own. First positions are left out, as in all counts of a store.

# %%
with lesson.part("their firings"):
    lesson.needs("the store", "neurons of the labels")
    known = store.token_data()
    counts = known.attended & ~known.first
    rows = []
    for one in found.labels:
        unit = one.best
        mine = torch.tensor(
            [place for place, names in enumerate(COMBINATIONS) if one.label in names]
        )
        has = torch.isin(known.tags["label"][counts], mine)
        fires = store.neuron(unit.layer, unit.unit).dense().flatten()[counts] > 0
        when = float(has[fires].float().mean()) if bool(fires.any()) else float("nan")
        rows.append((one.label, unit.name, int(fires.sum()), when, float(has.float().mean())))
    columns = ["label", "neuron", "fires", "labelled when it fires", "labelled at all"]
    display(pd.DataFrame(rows, columns=columns).round(3))
    print(lesson.caption("Firings, and shares of tokens with the label", n=int(counts.sum())))
    best = max(found.labels, key=lambda one: one.best.f1)
    print(f"{best.best.name}, the best of them, for {best.label!r}; where it fires most:")
    display(store.topk(best.best.layer, best.best.unit, 4))

# %% [markdown]
# ## The same statistics as a streamed run
#
# Firing rates are read off the files, without the model: the neuron of each layer that fires most.

# %%
with lesson.part("statistics of the store"):
    lesson.needs("the store")
    stats = store.stats()
    busiest = stats.frame().sort_values("rate", ascending=False).groupby("layer").head(1)
    print(stats)
    columns = ["layer", "unit", "rate", "n_tokens"]
    display(busiest.sort_values("layer")[columns].round(3).reset_index(drop=True))

# %% [markdown]
# ## Train a probe
#
# `torch_dataset` gives shuffled batches together with the tags; only what is needed is read. The
# probe tells the labels of a token from the residual stream, trained on every second document and
# tested on the others.

# %%
with lesson.part("the probe"):
    lesson.needs("the store", "labels")
    torch.manual_seed(0)
    probe = torch.nn.Linear(model.config.hidden_size, len(NAMES))
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.01)
    data = store.torch_dataset(RESID, batch_size=128, seed=0)
    for epoch in range(6):
        data.epoch = epoch
        for batch in data:
            mine = batch["documents"] % 2 == 0
            x, y = batch[RESID][mine].float(), batch["tag.label"][mine].long()
            loss = torch.nn.functional.cross_entropy(probe(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    known = store.token_data()
    label, others = known.tags["label"], (known.documents % 2 == 1) & ~known.first
    with torch.no_grad():
        guess = probe(store.tokens(slice(None), RESID).float()).argmax(-1)
    right = (guess == label)[others].float()
    usual = (label[others] == label[others].mode().values).float().mean()
    print(
        lesson.caption(
            f"From {RESID} the probe tells the labels of {{}} of tokens on other documents; the "
            f"most frequent answer alone {usual:.1%}",
            values=right,
            percent=True,
        )
    )

# %% [markdown]
# ## Damage is found and repaired
#
# One bit of one file is flipped. `verify` names the file, `repair` computes just that shard again,
# and puts it in place only if it has the very bytes that were lost.

# %%
with lesson.part("damage"):
    lesson.needs("the store")
    path = sorted((folder / "layers.0.mlp.hook_relu").glob("*.safetensors"))[-1]
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    damage = al.dump.verify(folder)
    display(damage.frame()[["shard", "site", "why"]])

# %%
with lesson.part("repair"):
    lesson.needs("damage")
    mended = al.dump.repair(folder, model, tokenizer, texts, tags=tags, found=damage)
    print("intact again:", mended.intact)
    store = al.dump.open(folder, tokenizer=tokenizer)  # the open one still holds the damaged file

# %% [markdown]
# ## For other programs
#
# `parquet` has a row per nonzero, sorted by neuron; DuckDB, polars and pandas read it. `delphi`,
# `saelens` and `coo` are there too, and each export states what it loses.

# %%
with lesson.part("an export"):
    lesson.needs("the store")
    export = store.export("parquet", folder.parent / "parquet", sites=[0])
    print(f"{export.entries:,} nonzeros; lost: {dict(export.lost) or 'nothing'}")
    nonzeros = pd.read_parquet(next(p for p in export.files if "layers.0" in str(p)))
    print(
        "The neurons of layer 0 that fire most, first positions included, and their largest "
        "relu(u):"
    )
    most = nonzeros.groupby("unit")["relu"].agg(["count", "max"]).nlargest(3, "count")
    display(most.round(3).reset_index())

# %%
shutil.rmtree(folder.parent)

# %% [markdown]
# ## Next steps
#
# - The same from a shell: `arcee-lab dump demo --world all --max-tokens 20000 --out out/acts`
# - AFM-4.5B on one GPU and on eight: [docs/how-to/dumps.md](../docs/how-to/dumps.md)
# - The format, with a reader in 40 lines: [docs/reference/formats.md](../docs/reference/formats.md)
# - This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
