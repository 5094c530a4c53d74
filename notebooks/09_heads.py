# %% [markdown]
# # Heads: what a classification head reads
#
# **The demo is a toy model.** It was trained on a little generated world whose truth is known, so
# what we find can be checked. Its numbers show the tool; they are not AFM-4.5B's.
#
# A classification head says "person". What in the model does it say so from? We take the demo's
# token head, which labels names in news, and ask in four ways: in which layer its answer can be
# read, which neurons fire where it gives it, which direction carries it, and whether that direction
# decides it. It takes about a minute on one CPU core.

# %%
import os

import torch

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.heads.targets import target_of

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N = 80

model, tokenizer = al.load(MODEL, head="token", device=DEVICE)
labels = list(model.config.id2label.values())
print(*labels)

# %% [markdown]
# ## What is meant by a label: a target
#
# Whatever explains an answer needs a number to explain. `target=` names it: a tag of a token head,
# a class of a sequence head, the start or the end of a span, or an answer of the vocabulary. Such
# a logit is a product of the final norm's output with a row of the head's weight, so a target is a
# direction too, and `versus=` makes it the difference of two rows.

# %%
person = target_of(model, "B-PER", versus="B-ORG")
batch = tokenizer(["Vukil resigned ."], return_tensors="pt").to(DEVICE)
last = torch.tensor([1], device=DEVICE)  # the column of the name
with torch.no_grad(), al.capture(model, ["hook_logits", "norm.hook_normalized"]) as acts:
    model(**batch)
value = person.value(acts["hook_logits"], last)
product = acts["norm.hook_normalized"][0, 1] @ person.direction(model) + person.offset(model)
print(f"{person.name}: {value.item():.3f} from the logits, {product.item():.3f} from the direction")

# %% [markdown]
# ## Which parts add up to it?
#
# With the final norm's scale held, the difference of the two logits is a sum of what the embedding,
# each attention and each MLP write. These are the parts at that name, the largest first.

# %%
parts = al.lens.attribute(
    model, tokenizer, "Vukil resigned .", "B-PER", versus="B-ORG", positions=1
)
table = parts.frame()
whole = table[table["head"].isna()]
bias = person.offset(model).item()
print(f"they add up to {whole['logit'].sum():.3f}, the head's bias adds {bias:.3f}")
whole.sort_values("logit", key=abs, ascending=False)[["label", "logit"]].head(6)

# %% [markdown]
# ## What it predicts, as labels
#
# `predicted_labels` turns the head's answers into labels of tokens, which every search here takes.
# They are what the head says, right or wrong.

# %%
texts = [document.text for document in documents("news", n=N, split="validation")]
others = [document.text for document in documents("news", n=N, split="test")]
said = al.directions.predicted_labels(model, tokenizer, texts)
said_of_others = al.directions.predicted_labels(model, tokenizer, others)
said.frame()

# %% [markdown]
# ## Which neurons fire where it says "person"?
#
# The search chooses neurons on one half of the texts and confirms them on the other. Two controls
# go through the same search: shuffled labels, and an untrained copy of the model.

# %%
found = al.neurons.find(
    model,
    tokenizer,
    said,
    names=["B-PER", "B-LOC", "B-ORG"],
    confirm=said_of_others,
    batch_size=32,
    progress=False,
)
found.frame()

# %% [markdown]
# ## In which layer can it be read?
#
# A direction is fitted at every layer. Most names can be told from other words by the word alone;
# what the later layers add is what the left context says.

# %%
read = al.directions.detect(
    model,
    tokenizer,
    said,
    "B-PER",
    method="ridge",
    confirm=said_of_others,
    batch_size=32,
    progress=False,
)
print(read.headline)
read.figure()

# %% [markdown]
# ## Does it decide?
#
# A direction that can be read need not be used. Among names alone we take the difference of means
# between those that the head calls persons and those that it calls organisations, and add it where
# it says organisation. Success is a larger logit of "B-PER" than of "B-ORG". Replacing the whole
# activation by that of a person's name is the most that one can hope for, and a random direction of
# the same length the least.


# %%
def names(found):
    """Of each text, the spans of first words of names, and of those that are persons."""
    rows = zip(found.texts, found.spans["B-PER"], found.spans["B-ORG"], strict=True)
    kept = [(text, per, org) for text, per, org in rows if per or org]
    return al.neurons.labels.spans(
        [text for text, _, _ in kept],
        {"person": [per for _, per, _ in kept]},
        asked={"person": [sorted([*per, *org]) for _, per, org in kept]},
    )


site = "layers.2.hook_resid_post"
direction = al.directions.mean_difference(
    model,
    tokenizer,
    names(said),
    "person",
    site=site,
    confirm=names(said_of_others),
    batch_size=32,
    progress=False,
)
sides = [
    [
        text[:end]
        for text, spans in zip(others, said_of_others.spans[tag], strict=True)
        for _, end in spans[:1]
    ]
    for tag in ("B-ORG", "B-PER")
]
count = min(map(len, sides))
curve = al.directions.steer(
    model,
    tokenizer,
    direction,
    sides[0][:count],
    target="B-PER",
    versus="B-ORG",
    sources=sides[1][:count],
    batch_size=32,
    progress=False,
)
print(curve.headline)
curve.figure()

# %% [markdown]
# ## What to remember
#
# * A head's label is a row of its weight: exact, and the same for every tool through `target=`.
# * What the head says can be searched for like any other label. The search tells where the answer
#   is visible, the steering curve whether it is used, and the controls what both are worth.
# * `direction.save("person.safetensors")` keeps it, bound to this model; see `docs/directions.md`.

# %%
curve.frame().round(3)
