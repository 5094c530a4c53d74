# %% [markdown]
# # Activation dumps: store everything once, query it any time
#
# **The demo is a toy model** of a little generated world; its numbers say nothing about AFM-4.5B.
#
# Running a model again for each question is slow, and keeping all activations dense is large. A
# ReLU² neuron that does not fire is exactly zero, so a store can leave most values out and lose
# nothing. This notebook writes a store, queries neurons, trains a probe from it, damages it on
# purpose and repairs it. It takes about 20 seconds on one CPU core.

# %%
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.dump import DumpConfig, Tag

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DOCUMENTS = 240

model, tokenizer = al.load(MODEL, device=DEVICE)
stories = documents("story", n=DOCUMENTS, seed=3, split="test")
texts = [story.text for story in stories]
print(f"{model.config.num_hidden_layers} layers of {model.config.intermediate_size} neurons")

# %% [markdown]
# ## Labels to compare neurons with
#
# A store takes further numbers per token. Every word of the little world has a role, which we give
# to the word's last token; all other tokens have none.

# %%
ROLES = ("none", "noun", "verb", "adjective", "preposition")


def roles_of(story):
    """The role of each token of a story, as a number."""
    ends = tokenizer(story.text, return_offsets_mapping=True)["offset_mapping"]
    role = {w.end: w.tags.get("role") for w in story.words}
    return [ROLES.index(role[e]) if role.get(e) in ROLES and e > s else 0 for s, e in ends]


tags = {"role": Tag([roles_of(story) for story in stories], labels=ROLES)}

# %% [markdown]
# ## What will it take?
#
# A plan is measured on a few batches, before anything is written. `of_dense` is what a site takes,
# over all its values written out.

# %%
middle = model.config.num_hidden_layers // 2
RESID = f"layers.{middle}.hook_resid_post"
config = DumpConfig(
    sites=("layers.*.mlp.hook_post", RESID), batch_size=32, packed=True, shard_tokens=2048
)
plan = al.dump.plan(model, tokenizer, texts, config, tags=tags)
print(f"{plan.n_tokens:,} tokens, {plan.n_shards} shards, {plan.dense_bytes / 1e6:.0f} MB dense")
plan.frame().round(2)

# %% [markdown]
# ## Write it
#
# All sites are read in one forward; conversion and files follow in another thread. The same call on
# the same folder continues where an interrupted run stopped, and ends with the same bytes.

# %%
folder = Path(tempfile.mkdtemp()) / "acts"
store = al.dump.write(model, tokenizer, texts, folder, config, tags=tags)
store.sites().round(3)

# %% [markdown]
# Neurons are stored as relu(u), exactly; their squares are bit-identical to the model's own in
# the batch in which they were computed. Here is how much smaller that is, layer by layer.

# %%
from arcee_lab.views.figures.figure import new, style
from arcee_lab.views.scale import CATEGORIES, SEQUENTIAL

neurons = store.sites()[store.sites()["layout"] == "neuron"]
with style():
    figure, (axes,) = new(2.6)
    layers = np.arange(len(neurons))
    axes.bar(layers, neurons["of_dense"], width=0.7, color=SEQUENTIAL[2])
    axes.axhline(1, color=CATEGORIES[1], linestyle="--")
    axes.text(len(neurons) - 0.5, 0.93, "every value written out", ha="right", va="top")
    for layer, share in enumerate(neurons["of_dense"][:16]):
        axes.text(layer, share + 0.02, f"{share:.0%}", ha="center")
    axes.set_xticks(layers[:: max(1, len(layers) // 12)])
    axes.set(xlabel="layer", ylabel="bytes over dense", ylim=(0, 1.05))
    axes.set_title("Neurons on disk, nothing lost")
figure

# %% [markdown]
# ## When does a neuron fire?
#
# A question about one neuron reads that neuron's bytes alone. Let us find, for each role, the
# neuron whose firing predicts it best: the highest F1 over one half of the documents, and the same
# neuron on the other half.

# %%
known = store.token_data()
role = known.tags["role"]
searched = (known.documents % 2 == 0) & ~known.first
confirmed = (known.documents % 2 == 1) & ~known.first


def f1(fires, truth, where):
    """F1 of each neuron firing at all: [neuron]."""
    hits = (fires & truth[:, None])[where].sum(0)
    return 2 * hits / (fires[where].sum(0) + truth[where].sum()).clamp(min=1)


rows = []
for number, name in enumerate(ROLES[1:], start=1):
    truth = role == number
    best = (-1.0, 0, 0)
    for layer in store.layers:
        scores = f1(store.tokens(slice(None), layer) > 0, truth, searched)
        best = max(best, (float(scores.max()), layer, int(scores.argmax())))
    score, layer, unit = best
    fires = store.neuron(layer, unit).dense() > 0
    rows.append((name, layer, unit, score, float(f1(fires, truth, confirmed))))
found = pd.DataFrame(rows, columns=["role", "layer", "neuron", "F1 searched", "F1 confirmed"])
print(f"N = {int(searched.sum()):,} tokens searched, {int(confirmed.sum()):,} confirmed")
found.round(2)

# %% [markdown]
# Where the best of them fires most, with the text around:

# %%
row = found.loc[found["F1 confirmed"].idxmax()]
print(f"neuron {row.neuron} of layer {row.layer}, best for {row.role!r}")
store.topk(int(row.layer), int(row.neuron), 4)

# %% [markdown]
# ## The same statistics as a streamed run
#
# Firing rates are read off the files, without the model.

# %%
stats = store.stats()
busiest = stats.frame().sort_values("rate", ascending=False).groupby("layer").head(1)
print(stats)
busiest.sort_values("layer")[["layer", "unit", "rate", "n_tokens"]].round(3)

# %% [markdown]
# ## Train a probe
#
# `torch_dataset` gives shuffled batches together with the tags; only what is needed is read.

# %%
torch.manual_seed(0)
probe = torch.nn.Linear(model.config.hidden_size, len(ROLES))
optimizer = torch.optim.Adam(probe.parameters(), lr=0.01)
data = store.torch_dataset(RESID, batch_size=128, seed=0)
for epoch in range(6):
    data.epoch = epoch
    for batch in data:
        mine = batch["documents"] % 2 == 0
        x, y = batch[RESID][mine].float(), batch["tag.role"][mine].long()
        loss = torch.nn.functional.cross_entropy(probe(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
with torch.no_grad():
    guess = probe(store.tokens(slice(None), RESID).float()).argmax(-1)
right = (guess == role)[confirmed].float().mean()
usual = (role[confirmed] == 0).float().mean()
print(
    f"role from {RESID}: {right:.0%} of tokens right on other documents; 'none' alone {usual:.0%}"
)

# %% [markdown]
# ## Damage is found and repaired
#
# One bit of one file is flipped. `verify` names the file, `repair` computes just that shard again,
# and puts it in place only if it has the very bytes that were lost.

# %%
path = folder / "layers.0.mlp.hook_relu" / "00001.safetensors"
content = bytearray(path.read_bytes())
content[-10] ^= 1
path.write_bytes(content)
found_damage = al.dump.verify(folder)
found_damage.frame()[["shard", "site", "why"]]

# %%
mended = al.dump.repair(folder, model, tokenizer, texts, tags=tags, found=found_damage)
print("intact again:", mended.intact)
store = al.dump.open(folder, tokenizer=tokenizer)  # the open one still holds the damaged file

# %% [markdown]
# ## For other programs
#
# `parquet` has a row per nonzero, sorted by neuron; DuckDB, polars and pandas read it. `delphi`,
# `saelens` and `coo` are there too, and each export states what it loses.

# %%
export = store.export("parquet", folder.parent / "parquet", sites=[0])
print(f"{export.entries:,} nonzeros; lost: {dict(export.lost) or 'nothing'}")
nonzeros = pd.read_parquet(next(p for p in export.files if "layers.0" in str(p)))
nonzeros.groupby("unit")["relu"].agg(["count", "max"]).nlargest(3, "count").round(3)

# %%
shutil.rmtree(folder.parent)

# %% [markdown]
# ## Next steps
#
# - The same from a shell: `arcee-lab dump demo --world all --max-tokens 20000 --out out/acts`
# - AFM-4.5B on one GPU and on eight: [docs/how-to/dumps.md](../docs/how-to/dumps.md)
# - The format, with a reader in 40 lines: [docs/reference/formats.md](../docs/reference/formats.md)
