# %% [markdown]
# # Attention and lenses: which heads do it, and where the answer comes from
#
# **The demo is a toy model.** It was trained on a little generated world whose truth is known, so
# what we find can be checked. Its numbers show the tool; they are not AFM-4.5B's.
#
# The demo can repeat a string that it was told once. This notebook finds the heads that it needs
# for that, shows what they read and write, and follows an answer through the layers. It takes
# about 30 seconds on one CPU core.

# %%
import os
from itertools import combinations, islice

import pandas as pd
import torch

import arcee_lab as al
from arcee_lab.demo import stream

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

model, tokenizer = al.load(MODEL, device=DEVICE)


def copies(n, seed):
    """Documents in which a string of different syllables is said twice."""

    def plain(document):
        said = [word.text for word in document.words if word.tags.get("role") == "syllable"]
        return len(said) >= 6 and len(set(said)) == len(said) // 2

    return list(islice(filter(plain, stream("copy", seed=seed, split="test")), n))


search, held_out = copies(60, seed=0), copies(40, seed=1)
print(search[0].text)

# %% [markdown]
# ## Where heads look
#
# A detector marks for each token some of those before it; a head's score is its mean weight on
# what is marked. `detect` runs several over texts, and over random tokens that are said twice.

# %%
looks = al.attention.detect(model, tokenizer, [document.text for document in search])
print(looks.headline)
looks.figure()

# %% [markdown]
# All four heads of layer 1 are induction heads on the demo's own texts. On random tokens they score
# little: this small model has learnt to repeat syllables, and not to repeat anything.

# %%
pd.DataFrame(
    {
        source: [float(x) for x in looks.scores("induction", source)[1]]
        for source in ("texts", "random repeated")
    },
    index=[f"L1/H{head}" for head in range(4)],
).round(2)

# %% [markdown]
# ## What copying needs
#
# Where a head looks is no proof that it matters. We ablate heads on other documents and count the
# repeated syllables that the model still names. The controls are groups of four heads behind the
# induction heads: every fifth of the 70 that there are.

# %%
batch = tokenizer(
    [document.text for document in held_out],
    return_tensors="pt",
    padding=True,
    return_offsets_mapping=True,
)
offsets = batch.pop("offset_mapping").tolist()
batch = batch.to(DEVICE)
asked = torch.zeros(batch.input_ids.shape, dtype=torch.bool, device=DEVICE)
for row, document in enumerate(held_out):
    for slot in document.slots:
        for column, (start, end) in enumerate(offsets[row]):
            if slot.skill == "copy" and start < slot.end and end > max(start, slot.start):
                asked[row, column] = True


def right_without(heads):
    off = [al.Ablate(f"layers.{layer}.self_attn.hook_z", heads=[head]) for layer, head in heads]
    with torch.no_grad(), al.intervene(model, off):
        said = model(**batch).logits.argmax(-1)
    right = said[:, :-1] == batch.input_ids[:, 1:]
    return float(right[asked[:, 1:]].float().mean())


marked = looks.top("induction", 4)
later = [(layer, head) for layer in (2, 3) for head in range(4)]
controls = [right_without(group) for group in list(combinations(later, 4))[::5]]
rows = {
    "all heads": right_without([]),
    "without the four induction heads": right_without(marked),
    "without each of them alone, the least": min(right_without([one]) for one in marked),
    "without any four later heads, the least": min(controls),
    "without the head that looks one token back": right_without(looks.top("offset_1", 1)),
}
print(f"N = {int(asked.sum())} syllables of {len(held_out)} documents, {len(controls)} controls")
pd.DataFrame({"share right": rows}).round(3)

# %% [markdown]
# Each induction head alone can be missed, because the others do the same work: an ablation of one
# head at a time would have found none of them. The head that looks one token back is in layer 0,
# and copying fails without it. The weights tell its part without any text: the keys of layer 1 read
# two heads of layer 0 far above chance, the two that look one and two tokens back.

# %%
keys = al.attention.composition(model, "k")
table = keys.frame()
table = table[table["reader_layer"] == 1].groupby(["writer_layer", "writer_head"])["score"].mean()
print(f"K-composition of layer 1 with each head of layer 0; chance is {keys.chance:.3f}")
table.round(3).to_frame()

# %% [markdown]
# ## What a head writes
#
# A head's OV circuit says what it writes for what it reads. Its product with the embedding and the
# unembedding is a matrix of tokens by tokens; only its thin factors exist. Where its eigenvalues
# are positive, a token that is read is made more probable: the head copies.

# %%
shares = torch.tensor(
    [
        [al.attention.ov(model, layer, head, tokens=True).positive_share() for head in range(4)]
        for layer in range(4)
    ]
)
print(al.attention.ov(model, 1, 0, tokens=True))
pd.DataFrame(shares.numpy(), index=[f"layer {i}" for i in range(4)]).round(2)

# %% [markdown]
# ## Where the answer appears
#
# The logit lens applies the head to the residual stream after each site. At the last site these are
# the model's own logits.

# %%
text = min((document.text for document in held_out), key=len)
seen = al.lens.logit_lens(model, tokenizer, text, top=3)
print(seen.headline)
seen.figure()

# %% [markdown]
# Early streams are not written in the head's language. A tuned lens has a map per site, fitted on
# texts; the plain lens is the baseline on documents that the fit did not read.

# %%
texts = [document.text for document in al.demo.documents(n=150, seed=0, split="train")]
tuned = al.lens.tune(model, tokenizer, texts, steps=60, batch_size=16)
print(tuned.headline)
tuned.figure()

# %% [markdown]
# ## What makes a logit
#
# With the final norm's scale held at what it is, a logit is a sum over the embedding, every head
# and every neuron. Here it is the difference between the verbs "sleep" and "sleeps".

# %%
parts = al.lens.attribute(
    model,
    tokenizer,
    ["The dogs near the door", "The kings behind the clock"],
    " sleep",
    versus=" sleeps",
    by="neuron",
)
print(parts.headline)
print(f"the parts miss the logit by {float(parts.remainder.abs().max()):.0e} at most")
parts.figure()

# %%
parts.top_neurons(6).round(3)

# %% [markdown]
# What a part does through later parts is not in this sum: the heads above add little directly, and
# the verb depends on them all the same. Ablation measures that.

# %%
prompts = tokenizer(
    ["The dogs near the door", "The kings behind the clock"], return_tensors="pt"
).to(DEVICE)
sleep, sleeps = al.lens.first_tokens(tokenizer, [" sleep", " sleeps"])
effects = al.attention.ablate_heads(model, prompts, al.patching.LogitDifference(sleep, sleeps))
effects.figure(what="effect")

# %% [markdown]
# Next steps: [which head does this](../docs/how-to/which_head_does_this.md) does the same for a
# behaviour of yours, and [lenses](../docs/how-to/lenses.md) lists every call.
