# %% [markdown]
# # Hooks: read any activation, reduce it, and watch the heads
#
# **The demo is a toy model.** It was trained on a little generated world whose truth is known, so
# what we find can be checked. Its numbers show what the tool does; they say nothing about AFM-4.5B.
#
# This notebook takes the tour of the sites: what can be read, in which calls, how to keep only what
# you need, gradients, statistics that are reduced on the device, and attention, from one pattern to
# numbers over many texts. It takes about 20 seconds on one CPU core.

# %%
import os

import torch

import arcee_lab as al
from arcee_lab.demo import documents

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DOCUMENTS = 96  # for statistics; take fewer for a large model on a slow machine

model, tokenizer = al.load(MODEL, device=DEVICE)
config = model.config
last = config.num_hidden_layers - 1

# %% [markdown]
# ## The sites
#
# A site is the output of a module that does nothing: torch hooks, nnsight and `al.capture` see it
# under one name. `al.plan` shows shapes and bytes before anything runs. Here is one layer, in the
# order of the forward pass. Scores and pattern are computed only when they are spelled out.

# %%
al.plan(
    model,
    ["hook_embed", "layers.0.*", "layers.0.*scores", "layers.0.*pattern", "hook_logits"],
    batch=1,
    length=16,
)

# %% [markdown]
# Globs, layer ranges and TransformerLens's spellings all work, and reading leaves the logits
# bit-identical.

# %%
text = "The lamp above the doors near the horses finds the red king."
batch = tokenizer(text, return_tensors="pt").to(DEVICE)
with torch.no_grad():
    expected = model(**batch).logits
    with al.capture(model, ["layers.-1.*resid*", "blocks.0.attn.hook_q", "*pattern"]) as acts:
        logits = model(**batch).logits
print("the same logits, bit for bit:", torch.equal(logits, expected))
for site in list(acts)[:4]:
    print(site, list(acts[site].shape))

# %% [markdown]
# ## Any call
#
# A block may hold any call. Several forwards give a list per site; `generate` does too, with one
# tensor per step. What cached decoding computes is what the whole text gives.

# %%
with al.capture(model, f"layers.{last}.mlp.hook_post") as steps, torch.no_grad():
    ids = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)
with al.capture(model, f"layers.{last}.mlp.hook_post") as whole, torch.no_grad():
    model(ids)
(site,) = steps
joined = torch.cat(steps[site], dim=1)  # the last token is never read
difference = (joined - whole[site][:, :-1]).abs().max() / whole[site].max()
print("steps:", [list(step.shape) for step in steps[site]])
print("as in one forward:", bool(difference < 1e-2))

# %% [markdown]
# ## Keep only what you need
#
# Cuts are made inside the hook. `positions` count attended tokens, so -1 is each sequence's last
# real token under padding on either side; `stop_at` ends the forward where nothing more is needed.

# %%
texts = [text, "The horses sleep."]
padded = tokenizer(texts, return_tensors="pt", padding=True).to(DEVICE)
cuts = {"positions": [0, -1], "units": [3, 17, 40], "dtype": torch.float32}
with al.capture(model, "layers.0:2.mlp.hook_post", stop_at=True, **cuts) as acts, torch.no_grad():
    model(**padded)  # ends after layer 1
for site in acts:
    print(site, list(acts[site].shape), "batch, positions, units")

# %% [markdown]
# ## Gradients
#
# With `grad=True` each site keeps its gradient. Which neurons favour the singular verb? Gradient
# times activation estimates, for all neurons at once, how much the score of " finds" over " find"
# would fall without each. We check the strongest by switching the neuron off.

# %%
import pandas as pd

before = "The lamp above the doors near the horses"
batch = tokenizer(before, return_tensors="pt").to(DEVICE)
# The demo's tokenizer adds the space before a word itself.
space = "" if tokenizer(" a").input_ids == tokenizer("a").input_ids else " "
finds, find = (
    tokenizer(space + word, add_special_tokens=False).input_ids[0] for word in ("finds", "find")
)


def score():
    logits = model(**batch).logits[0, -1]
    return logits[finds] - logits[find]


sites = ["layers.*.mlp.hook_pre", "layers.*.mlp.hook_post"]
with al.capture(model, sites, grad=True) as acts:
    full = score()
    full.backward()
model.zero_grad()
share = torch.stack(
    [
        (acts.grad(site) * acts[site].detach())[0].sum(0).float()
        for site in acts
        if site.endswith("post")
    ]
)
rows = []
for index in share.abs().flatten().topk(6).indices.tolist():
    layer, unit = divmod(index, config.intermediate_size)
    off = al.Ablate(f"layers.{layer}.mlp.hook_post", units=[unit])
    with al.intervene(model, off), torch.no_grad():
        fall = full.item() - score().item()
    rows.append((f"{layer}.{unit}", share[layer, unit].item(), fall))
print(f"score with everything on: {full.item():.2f}")
pd.DataFrame(rows, columns=["neuron", "estimated", "switched off"]).round(2)

# %% [markdown]
# relu(u)² is homogeneous of degree two, so gradient times input at `hook_pre` is exactly twice what
# it is at `hook_post`. Attribute at `hook_post`.

# %%
for layer in range(min(config.num_hidden_layers, 4)):
    pre, post = (f"layers.{layer}.mlp.hook_{name}" for name in ("pre", "post"))
    at_pre, at_post = ((acts.grad(site) * acts[site].detach()).abs().sum() for site in (pre, post))
    print(f"layer {layer}: at hook_pre / at hook_post = {at_pre / at_post:.3f}")

# %% [markdown]
# ## Statistics instead of activations
#
# A reducer in place of a tensor: it counts on the device, in the pass, and padding never counts.
# Nothing of the size of the texts is kept. Sites may have several.

# %%
texts = [document.text for document in documents("story", n=DOCUMENTS, seed=0, split="test")]


def batches(texts, size=16):
    for start in range(0, len(texts), size):
        yield tokenizer(texts[start : start + size], return_tensors="pt", padding=True).to(DEVICE)


reducers = (al.reducers.FiringRate(), al.reducers.Histogram(), al.reducers.TopK(3))
with al.capture(model, {"layers.*.mlp.hook_post": reducers}) as stats, torch.no_grad():
    for batch in batches(texts):
        model(**batch)
stats

# %% [markdown]
# The histogram has bins from a power of two to the next, so the share of activations above *any*
# threshold can be asked afterwards. Left of the curve's fall a threshold changes nothing: zeros are
# exact, and hardly anything is small.

# %%
from arcee_lab.views.figures.figure import new, style

layers = range(min(config.num_hidden_layers, 6))
with style():
    figure, (axes,) = new(2.7)
    for layer in layers:
        _, histogram, _ = stats[f"layers.{layer}.mlp.hook_post"]
        shares = [float(histogram.at_least(float(edge)).most.mean()) for edge in histogram.edges]
        axes.plot(histogram.edges, shares, label=f"layer {layer}")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="threshold", ylabel="share at or above it", ylim=(0, None))
    axes.set_xlim(2.0**-16, 2.0**10)
    axes.legend()
    axes.set_title("How many activations a threshold would keep")
figure

# %% [markdown]
# `TopK` knows where each neuron fires most: the texts to look at first. Here is a rare neuron of
# the middle layer, with its three strongest tokens in brackets.

# %%
middle = config.num_hidden_layers // 2
rates, _, largest = stats[f"layers.{middle}.mlp.hook_post"]
unit = int((rates.rates - 0.01).abs().argmin())
print(f"neuron {middle}.{unit} fires on {float(rates.rates[unit]):.1%} of {rates.tokens:,} tokens")
for value, row, position in zip(
    largest.values[unit], largest.rows[unit], largest.positions[unit], strict=True
):
    ids = tokenizer(texts[int(row)]).input_ids
    at = int(position)
    words = [tokenizer.decode(ids[max(0, at - 6) : at]), tokenizer.decode(ids[at : at + 1])]
    print(f"{float(value):7.2f}   ...{words[0]} [{words[1].strip()}]")

# %% [markdown]
# ## What a head looks at
#
# The demo can repeat a string that it has read once. Its world has documents that say a string of
# syllables twice; at each syllable of the second time, the next one has to be found in the first.

# %%
copies = [
    document
    for document in documents("copy", n=4 * DOCUMENTS, seed=0, split="test")
    if len({word.text for word in document.words}) >= 9
][:DOCUMENTS]


def syllables(document):
    return [word for word in document.words if word.tags.get("role") == "syllable"]


# A short one to draw, in which no syllable comes twice within the string.
shown = min(
    (d for d in copies if len({word.text for word in syllables(d)}) == len(syllables(d)) / 2),
    key=lambda document: len(document.words),
)
print(len(copies), "documents like:", shown.text)

# %% [markdown]
# `al.attention.heads` reads numbers in place of patterns: a few queries at a time, next to the fast
# kernel, so that no `[head, pos, pos]` tensor ever exists. A statistic of your own is a few lines.
# This one asks how much each syllable of the second time looks at the token that came next the
# first time, which is the answer; a head that does so is called an *induction head*.

# %%
from dataclasses import dataclass

from arcee_lab.attention import Entropy, FirstMass, Offset, Reading, Statistic


@dataclass(frozen=True, eq=False)
class Answer(Statistic):
    """Attention to the token that follows the same syllable's first time."""

    target: torch.Tensor  # [batch, pos]: column of the answer, or -1

    name, label = "answer", "attention to the answer"

    def read(self, rows):
        column = self.target[:, None, rows.place]
        mass = rows.mass(column.clamp_min(0))
        return Reading(torch.where(column >= 0, mass, torch.nan), counts=column >= 0)


def answers(documents):
    """The batch, and for each token the column of its answer."""
    texts = [document.text for document in documents]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping").tolist()
    target = torch.full(batch.input_ids.shape, -1)
    for row, document in enumerate(documents):
        said = syllables(document)
        half = len(said) // 2
        for second, following in zip(said[half:-1], said[1:half], strict=True):
            # From the last token of a syllable to the first token of what followed it before.
            query = next(i for i, (_, end) in enumerate(offsets[row]) if end >= second.end)
            key = next(i for i, (_, end) in enumerate(offsets[row]) if end > following.start)
            target[row, query] = key
    return batch.to(DEVICE), target.to(DEVICE)


batch, target = answers(copies)
asked = [Offset(1), FirstMass(), Answer(target), Entropy()]
with al.attention.heads(model, asked) as heads, torch.no_grad():
    model(**batch)
heads.figure()

# %% [markdown]
# Some heads look one token back and some find the answer. The patterns of one of each, on one
# document, show how they work together: the first writes into most tokens what came before them, so
# that the second can look for "the token whose predecessor is the current token". The rows to read
# are those of the second time.

# %%
from arcee_lab.views.figures.patterns import patterns


def ranked(values):
    """Heads as (layer, head), the one with the largest value first."""
    order = values.nan_to_num(0).flatten().argsort(descending=True)
    return [divmod(index, config.num_attention_heads) for index in order.tolist()]


finders, backs = ranked(heads["answer"].mean), ranked(heads["offset_1"].mean)
chosen = {"previous token": backs[0], "answer": finders[0]}
one = tokenizer(shown.text, return_tensors="pt").to(DEVICE)
with al.capture(model, "*pattern") as acts, torch.no_grad():
    model(**one)
pair = [acts[f"layers.{layer}.self_attn.hook_pattern"][0, head] for layer, head in chosen.values()]
patterns(
    torch.stack(pair).float().cpu().numpy(),
    [tokenizer.decode([token]) for token in one.input_ids[0].tolist()],
    [f"{layer}.{head}: {what}" for what, (layer, head) in chosen.items()],
    title="Two heads while a string is said twice",
)

# %% [markdown]
# ## Does it matter where they look?
#
# A pattern alone proves nothing. We switch heads off and take the loss at the answers alone. The
# control is as many heads that do neither, in the same layers as the finders or later.


# %%
def loss_without(group):
    off = [al.Ablate(f"layers.{layer}.self_attn.hook_z", heads=[head]) for layer, head in group]
    with al.intervene(model, off), torch.no_grad():
        logits = model(**batch).logits.float()
    query = target >= 0
    answer = batch.input_ids.gather(1, target.clamp_min(0))[query]
    return torch.nn.functional.cross_entropy(logits[query], answer).item()


neither = ranked(-heads["answer"].mean - heads["offset_1"].mean)
groups = {
    "nothing": [],
    "the best finder": finders[:1],
    "the four best finders": finders[:4],
    "the head that looks one back": backs[:1],
    "four that do neither": [head for head in neither if head[0] >= finders[0][0]][:4],
}
rows = [
    (what, " ".join(f"{layer}.{head}" for layer, head in group), loss_without(group))
    for what, group in groups.items()
]
print(f"loss at {int((target >= 0).sum()):,} answers, in nats")
pd.DataFrame(rows, columns=["switched off", "heads", "loss"]).round(3)

# %% [markdown]
# ## Next steps
#
# - Change activations instead of reading them: `03_interventions`.
# - All sites and spellings: `docs/reference/sites.md`; head statistics: `docs/how-to/attention.md`.
# - This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
