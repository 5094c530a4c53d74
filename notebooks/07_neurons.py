# %% [markdown]
# # Neurons: find one, read what it fires on, and switch it off
#
# A ReLU² neuron is exactly zero wherever it takes no part, so it can be counted, read and switched
# off one by one. This notebook reads some text once and keeps where every neuron fires; finds the
# neuron of a concept; shows what it writes; measures what the model loses without it; and opens the
# explorer, in which all of this is a click. It takes about 30 seconds on one CPU core.
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
import torch
from IPython.display import display

import arcee_lab as al

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
model, tokenizer = al.load(MODEL, dtype=DTYPE, device=device)
lesson = al.lesson.build(model, tokenizer, texts=TEXTS)
lesson

# %% [markdown]
# ## One pass over the text
#
# Of every neuron of every layer: the places of its largest values, places drawn at random from
# smaller ones, places where it never fires, its rate, and a histogram. The size of what is kept
# does not depend on the text.

# %%
run = al.neurons.exemplars(model, tokenizer, lesson.texts, batch_size=32)
print(run.headline)
rates = torch.cat([run.rates(layer) for layer in run.layers])
told = "No neuron fires"
if bool((rates > 0).any()):
    told = (
        f"Half of the neurons that fire do so on at most {rates[rates > 0].median():.2%} of tokens"
    )
print(lesson.caption(told, n=run.n_tokens))

# %% [markdown]
# ## Which neuron carries a concept?
#
# Every neuron is scored against every label on one half of the labelled texts; what wins is scored
# again on the other half, next to searches for shuffled labels and to the same search on an
# untrained copy of the model.

# %%
found = None
with lesson.part("labels"):
    labels, others = lesson.labels("search", n=60), lesson.labels("confirmation", n=60)
    found = al.neurons.find(model, tokenizer, labels, confirm=others, batch_size=32, shuffles=19)
    display(found.figure())
    confirmed = len(found.confirmed)
    print(
        lesson.caption(
            f"{confirmed} of {len(found.labels)} labels have a neuron that beats every control",
            n=found.confirm_tokens,
        )
    )

# %% [markdown]
# The label with the best neuron, and what that neuron fires on. If the labels could not be used, it
# is the neuron that fires most strongly.

# %%
if found is not None:
    of = max(found.labels, key=lambda one: one.best.f1)
    layer, unit = of.best.layer, of.best.unit
    print(f"{of.label}: {of.best.name}, F1 {of.best.f1:.2f} on the other texts")
else:
    layer = max(run.layers, key=lambda number: float(run.maxima(number).max()))
    unit = int(run.maxima(layer).argmax())
page = al.neurons.page(
    run, layer, unit, tokenizer=tokenizer, model=model, found=found, before=12, after=4
)
print(page.headline)
print()
for one in page.top[:6]:
    before, peak = "".join(one.tokens[: one.peak]), one.tokens[one.peak]
    print(f"{one.value:8.3g}  {before.strip()} [{peak.strip()}]")

# %% [markdown]
# ## What does it write?
#
# What a neuron adds to the logits is in the weights: its column of `down_proj`, read by the
# unembedding. The nearest embeddings tell what it reads.

# %%
effects = al.neurons.effects(model, tokenizer, layers=layer, top=6)
row = effects.row(layer, unit)
for title, ids in (
    ("raises", effects.promoted),
    ("lowers", effects.suppressed),
    ("reads", effects.read),
):
    print(f"{title:7}", " ".join(token.strip() or "␣" for token in effects.tokens(ids[row])))
print(f"class: {effects.classes[row] or 'none'}, kurtosis {float(effects.kurtosis[row]):.1f}")

# %% [markdown]
# ## Does the model need it?
#
# A neuron may carry a concept and still be dispensable. Here it is switched off, next to three
# neurons of its layer that fire about as often, and the loss on the text is measured.

# %%
fired = run.fired(layer)
distance = (fired - fired[unit]).abs()
similar = [i for i in distance.argsort(stable=True).tolist() if i != unit and fired[i] > 0][:3]
units = [(layer, unit), *((layer, other) for other in similar)]
ablated = al.neurons.ablate(model, tokenizer, units, lesson.texts[:80])
table = ablated.frame()
change = table["NLL change"]
told = f"Without L{layer}/N{unit} the loss changes by {change.iloc[0]:+.4f} nats per token"
if similar:
    told += f"; without similar neurons by {change.iloc[1:].mean():+.4f}"
print(lesson.caption(told, n=int(table["tokens"].iloc[0])))
table.map(lambda value: f"{value:.2g}" if isinstance(value, float) else value)

# %% [markdown]
# ## The explorer
#
# All of this with the mouse or with the keyboard. The tabs:
#
# * **Neurons**: every neuron in a table; sort it, search for a token or a label, press one.
# * **Text**: type; the values of what is selected follow, and the neurons that write most.
# * **Switch off**: the next token with the selection switched off, or scaled.
# * **Attention**: all heads, one of them large; point at a token.
# * **Lens**: how early the next token is there, and what made it; press a token.
#
# On the demo, try this: type `Kresto likes`, open *Text*, select `L3/N354`, and open *Switch off*.

# %%
text = "Kresto likes" if lesson.source == "demo" else lesson.prompt[:200]
explorer = al.explore(model, tokenizer, run, found=found, text=text, selection=[(layer, unit)])
explorer

# %% [markdown]
# The selection can be read here, and set: run this cell again after a click.

# %%
print(explorer.selection)
if MODEL == "demo":
    explorer.selection = ["L3/N354", *explorer.selection]

# %% [markdown]
# Whatever the explorer shows is a call of the package. The table of *Switch off*, for the first
# neuron of the selection:

# %%
name = explorer.selection[0]
layer, unit = (int(number[1:]) for number in name.split("/"))
batch = lesson.batch(explorer.text)
with torch.no_grad():
    before = model(**batch).logits[0, -1].float().softmax(-1)
    with al.intervene(model, al.Ablate(f"layers.{layer}.mlp.hook_post", units=[unit])):
        after = model(**batch).logits[0, -1].float().softmax(-1)
best = [int(p.argmax()) for p in (before, after)]
words = [tokenizer.decode([i]).strip() for i in best]
print(
    f"“{explorer.text}” continues with “{words[0]}” ({before[best[0]]:.0%}); without {name} with "
    f"“{words[1]}” ({after[best[1]]:.0%})."
)

# %% [markdown]
# Next steps: [the explorer](../docs/how-to/explore.md),
# [find the neurons of a label](../docs/how-to/find_the_neurons_of_a_label.md),
# [read what neurons fire on](../docs/how-to/read_what_neurons_fire_on.md), and the
# [exercises](10_exercises.ipynb), in which you find a neuron, a fact and the heads that copy.
