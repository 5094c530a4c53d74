# %% [markdown]
# # A first look: which ReLU² neurons fire where
#
# **The demo is a toy model.** It was trained on a little generated world whose truth is known, so
# what we find can be checked. Its numbers show what the tool does; they say nothing about AFM-4.5B.
#
# An Arcee layer's MLP is `down_proj(relu(up_proj(x))²)`, without a gate. So a neuron that does not
# take part is exactly zero, and "does it fire?" needs no threshold. This notebook loads a model,
# reads its activations, counts the zeros, finds neurons by what they mean, and looks at attention.
# It takes about 20 seconds on one CPU core.

# %%
import os

import torch

import arcee_lab as al
from arcee_lab.demo import documents

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DOCUMENTS = 120  # for each search; all neurons are kept at all words, so take 20 for AFM-4.5B

model, tokenizer = al.load(MODEL, device=DEVICE)
config = model.config
print(
    f"{config.num_hidden_layers} layers, d_model {config.hidden_size}, "
    f"{config.intermediate_size} neurons per layer, {config.num_attention_heads} heads over "
    f"{config.num_key_value_heads} kv heads, {model.num_parameters():,} parameters"
)

# %% [markdown]
# ## Read any activation
#
# Every activation has a name, a *site*. `al.plan` lists what a filter asks for and what it would
# cost, before anything runs.

# %%
al.plan(model, ["hook_embed", "layers.0.*"], batch=1, length=16)

# %% [markdown]
# `al.capture` reads sites while the model runs. Here: the neurons of all layers, and what one MLP
# in the middle adds to the residual stream.

# %%
text = "The lamp above the doors finds the red king. The horses behind the old boat sleep."
batch = tokenizer(text, return_tensors="pt").to(DEVICE)
middle = config.num_hidden_layers // 2
sites = ["layers.*.mlp.hook_post", f"layers.{middle}.hook_mlp_out"]
with al.capture(model, sites) as acts, torch.no_grad():
    model(**batch)

for layer in range(min(config.num_hidden_layers, 8)):
    post = acts[f"layers.{layer}.mlp.hook_post"]
    print(f"layer {layer}: {list(post.shape)}  exact zeros {(post == 0).float().mean():.1%}")

# %% [markdown]
# Zeros can be left out without any loss: the few neurons that fire at a token *are* the MLP's
# output there.

# %%
position = 5  # the word "doors"
post = acts[f"layers.{middle}.mlp.hook_post"][0, position]
firing = post.nonzero().flatten()
down = model.base_model.layers[middle].mlp.down_proj.weight
from_few = down[:, firing] @ post[firing]
mlp_out = acts[f"layers.{middle}.hook_mlp_out"][0, position]
word = tokenizer.decode(batch.input_ids[0, position])
print(f"{len(firing)} of {len(post)} neurons of layer {middle} fire at {word!r}")
print("they alone give the MLP's output:", torch.allclose(from_few, mlp_out, rtol=1e-3, atol=1e-4))

# %% [markdown]
# ## How sparse is it?
#
# One pass over documents that the demo has not been trained on. Padding is not counted, first
# positions are counted separately, and every number is shown with its N.

# %%
texts = [document.text for document in documents(n=3 * DOCUMENTS, seed=1, split="test")]
report = al.sparsity.measure(model, tokenizer, texts, batch_size=32)
report

# %% [markdown]
# An untrained ReLU² layer is half zeros, the dashed line. What is above it was learnt.

# %%
report.figures["layers"]

# %% [markdown]
# A neuron that fires on one token in a hundred is a specialist. The axis is logarithmic.

# %%
report.figures["rates"]

# %% [markdown]
# ## What do they fire on?
#
# Each row is a neuron, each column is a token, blank is zero. Of each layer we see rare neurons
# that write most to the residual stream here. Look for rows that pick one kind of word.

# %%
passage = al.sparsity.read_passage(model, tokenizer, text, report)
passage.figure()

# %% [markdown]
# ## Compare a neuron with the known labels
#
# Every word of the little world carries tags: its role, its number, the number of the subject that
# has not met its verb yet. `al.neurons.find` scores every neuron against each of these concepts on
# one set of documents. A best of thousands is inflated by selection, so it is scored again on
# *other* documents, and the same search runs with shuffled labels and on an untrained copy.

# %%
labels = al.neurons.labels.demo("story", n=DOCUMENTS)
others = al.neurons.labels.demo("story", n=DOCUMENTS, part="confirmation")
found = al.neurons.find(model, tokenizer, labels, confirm=others, batch_size=32)
found

# %% [markdown]
# `p` counts how many neurons were searched: the share of searches for shuffled labels in which the
# best of all neurons does as well. More about it, and labels of your own, is in
# [Find the neurons of a label](../docs/how-to/find_the_neurons_of_a_label.md).

# %% [markdown]
# The same neurons on documents they were not chosen on. The words' colours are the known labels; a
# cell is filled where the neuron is above its level. On the right, F1 on all the documents kept
# back.

# %% tags=["readme"]
from arcee_lab.demo.concepts import CONCEPTS
from arcee_lab.views.figures.raster import raster


def read_story(story, sites):
    """A capture of one story, and for each of its words the place of the word's last token."""
    batch = tokenizer(story.text, return_tensors="pt", return_offsets_mapping=True)
    at_end = {end: i for i, (_, end) in enumerate(batch.pop("offset_mapping")[0].tolist())}
    with al.capture(model, sites) as acts, torch.no_grad():
        model(**batch.to(DEVICE))
    return acts, [at_end[word.end] for word in story.words]


confirm = documents("story", n=DOCUMENTS, seed=0, split="test")
shown = next(story for story in confirm if 20 <= len(story.words) <= 27)
acts, places = read_story(shown, "layers.*.mlp.hook_post")
units = [one.best for one in found.labels]
values = torch.stack([acts[unit.site][0, places, unit.unit].float().cpu() for unit in units])
above = values > torch.tensor([unit.threshold for unit in units])[:, None]
kinds = [name for name in found.confirmed if name != "plural subject in scope"]  # kinds of word
marks = [next((n for n in kinds if CONCEPTS[n].label(word)), None) for word in shown.words]
raster(
    (values * above).numpy(),
    [word.text for word in shown.words],
    [f"{unit.label}  {unit.name}" for unit in units],
    notes=[f"F1 {unit.f1:.2f}" for unit in units],
    marks=marks,
    title="One neuron per concept, on text it was not chosen on",
)

# %% [markdown]
# One neuron on running text, with its number at every token (hover in Jupyter):

# %%
from IPython.display import HTML

from arcee_lab.views.html import token_strip

plural = found["plural noun"].best
acts, places = read_story(confirm[0], plural.site)
strip = acts[plural.site][0, places, plural.unit].cpu()
HTML(token_strip([f" {word.text}" for word in confirm[0].words], strip))

# %% [markdown]
# ## Where does a head look?
#
# Before the verb, the model has to know its subject. `hook_pattern` is computed in addition to the
# fast attention kernel, so reading it leaves the logits bit-identical. We ask each head how much it
# looks from the token before the verb back to the subject's noun, over sentences with other nouns
# in between.

# %%
import pandas as pd

looks = torch.zeros(config.num_hidden_layers, config.num_attention_heads)
count = 0
for story in confirm[:40]:
    acts, places = read_story(story, "layers.*.self_attn.hook_pattern")
    for number, word in enumerate(story.words):
        if word.tags.get("part") == "subject" and word.tags["role"] == "noun":
            subject = number
        its_verb = word.tags["role"] == "verb" and "subject" not in word.tags
        if its_verb and number - 1 > subject:
            query, key = places[number - 1], places[subject]
            looks += torch.stack([acts[site][0, :, query, key].float().cpu() for site in acts])
            count += 1
frame = pd.DataFrame(looks / count).rename_axis(index="layer", columns="head")
print(f"mean attention from before the verb to its subject, {count} verbs")
frame.round(2)

# %% [markdown]
# The three heads of the best layer that look at subjects most. The rows to read are those from the
# subject, "lamp", to the verb, "finds".

# %%
from arcee_lab.views.figures.patterns import patterns

layer = int(looks.argmax()) // config.num_attention_heads
heads = sorted(looks[layer].topk(min(3, config.num_attention_heads)).indices.tolist())
sentence = "The lamp above the doors near the horses finds the red king."
batch = tokenizer(sentence, return_tensors="pt").to(DEVICE)
with al.capture(model, f"layers.{layer}.self_attn.hook_pattern") as acts, torch.no_grad():
    model(**batch)
patterns(
    acts[f"layers.{layer}.self_attn.hook_pattern"][0, heads].float().cpu().numpy(),
    [tokenizer.decode([token]) for token in batch.input_ids[0].tolist()],
    [f"{layer}.{number}" for number in heads],
    title="Each row shows where its token looks",
)

# %% [markdown]
# ## Next steps
#
# - The same numbers as files, with a report to send around:
#   `arcee-lab sparsity demo --world all --max-tokens 20000 --out out/zeros`
# - On your own text: `arcee-lab sparsity demo --text FILE --out out/mine`
# - This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
