# %% [markdown]
# # Attention and lenses: which heads do it, and where the answer comes from
#
# A model that has read a string once can repeat it. This notebook finds the heads that look like
# they do that, tests whether they are needed, shows what they read and write, and follows an answer
# through the layers. It takes about 30 seconds on one CPU core.
#
# As it is, it reads **the demo, a toy model** of a small generated world whose truth is known: its
# numbers show what the tools do, and nothing about AFM-4.5B. Write another model into the next
# cell; nothing else has to be changed.

# %% tags=["parameters"]
import os

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = None  # such as "cuda"; None takes the GPU if there is one
DTYPE = None  # such as "bfloat16"; None takes the checkpoint's own
TEXTS = None  # yours: a text, a list of texts, or {"kind": [texts]}; None takes the lesson's

# %%
import random

import pandas as pd
import torch
from IPython.display import display

import arcee_lab as al

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
model, tokenizer = al.load(MODEL, dtype=DTYPE, device=device)
lesson = al.lesson.build(model, tokenizer, texts=TEXTS)
config = model.config
search, held_out = lesson.copies(60, seed=0), lesson.copies(40, seed=1)
print(search.texts[0])
lesson

# %% [markdown]
# ## Where heads look
#
# A detector marks for each token some of those before it; a head's score is its mean attention on
# what is marked. `detect` runs several over texts that say a string twice, and over random tokens
# that are said twice.

# %%
period = min(25, config.max_position_embeddings // 2 - 1)
with lesson.part("detectors"):
    looks = al.attention.detect(model, tokenizer, search.texts, period=period)
    print(f"{looks.headline}.")
    display(looks.figure())

# %% [markdown]
# A head that repeats only what its model has learnt to repeat scores high on texts and low on
# random tokens. The strongest induction heads, on both:

# %%
with lesson.part("induction heads"):
    lesson.needs("detectors")
    K = min(4, config.num_attention_heads)
    marked = looks.top("induction", K)
    scores = {name: looks.scores("induction", name) for name in ("texts", "random repeated")}
    rows = {name: [float(table[at]) for at in marked] for name, table in scores.items()}
    named = [f"L{layer}/H{head}" for layer, head in marked]
    display(pd.DataFrame(rows, index=named).round(2))

# %% [markdown]
# ## What copying needs
#
# Where a head looks is no proof that it matters. Heads are ablated on other texts, and the share of
# repeated words that the model still names is counted. The controls are groups of as many other
# heads, drawn at random from the same layers and later ones.

# %%
inputs, target = held_out.batch(device=device), held_out.answer.to(device)
answer = inputs["input_ids"].gather(1, target.clamp_min(0))[target >= 0]


def right_without(heads):
    off = [al.Ablate(f"layers.{layer}.self_attn.hook_z", heads=[head]) for layer, head in heads]
    with torch.no_grad(), al.intervene(model, off):
        said = model(**inputs).logits.argmax(-1)[target >= 0]
    return (said == answer).float().cpu()


with lesson.part("copying"):
    lesson.needs("induction heads")
    every = [
        divmod(at, config.num_attention_heads)
        for at in range(config.num_hidden_layers * config.num_attention_heads)
    ]
    before = looks.top("offset_1", 1)
    rest = [at for at in every if at >= (min(marked)[0], 0) and at not in {*marked, *before}]
    if not rest:
        raise al.errors.SettingError("the model has no other heads to compare with.")
    marked = marked[: min(K, len(rest))]
    K = len(marked)
    draws = [random.Random(seed).sample(rest, K) for seed in range(12)]
    controls = [float(right_without(group).mean()) for group in draws]
    whole, without = right_without([]), right_without(marked)
    rows = {
        "all heads": float(whole.mean()),
        f"without the {K} induction heads": float(without.mean()),
        "without each of them alone, the least": min(
            float(right_without([h]).mean()) for h in marked
        ),
        f"without {K} other heads, mean of {len(draws)} draws": sum(controls) / len(draws),
        f"without {K} other heads, the least": min(controls),
        "without the head that looks one token back": float(right_without(before).mean()),
    }
    print(
        lesson.caption(
            f"Without the {K} induction heads the share of right words changes by {{}}",
            values=without - whole,
            of="word",
            percent=True,
        )
    )
    display(pd.DataFrame({"share right": rows}).round(3))

# %% [markdown]
# An ablation of one head at a time misses heads whose work another one does as well: compare the
# second row with the third. Which heads' output do the keys of the strongest induction head behind
# the first layer read? The weights say so without any text: its K-composition with every earlier
# head, next to chance.

# %%
with lesson.part("composition"):
    lesson.needs("induction heads")
    strength = looks.scores("induction").nan_to_num()
    later = [(i, j) for i in range(1, len(strength)) for j in range(config.num_attention_heads)]
    if not later:
        raise al.errors.SettingError("the model has one layer, and no head before another.")
    reader_layer, reader_head = max(later, key=lambda at: float(strength[at]))
    name = f"L{reader_layer}/H{reader_head}"
    keys = al.attention.composition(model, "k")
    table = keys.frame()
    table = table[(table["reader_layer"] == reader_layer) & (table["reader_head"] == reader_head)]
    print(f"K-composition of {name} with earlier heads; chance {keys.chance:.3f}")
    heads = ["writer_layer", "writer_head", "score"]
    display(table[heads].head(8).round(3).reset_index(drop=True))

# %% [markdown]
# ## What a head writes
#
# A head's OV circuit says what it writes for what it reads. Its product with the embedding and the
# unembedding is a matrix of tokens by tokens; only its thin factors exist. Where its eigenvalues
# are positive, a token that is read is made more probable: the head copies. Their sum over the sum
# of their sizes says how much: 1 for a head that only copies, -1 for one that only suppresses.

# %%
copying = {
    f"L{layer}/H{head}": al.attention.ov(model, layer, head, tokens=True).positive_share()
    for layer, head in [*marked, *before]
}
print(al.attention.ov(model, *marked[0], tokens=True))
pd.DataFrame({"copying score, -1 to 1": copying}).round(2)

# %% [markdown]
# ## Where the answer appears
#
# The logit lens applies the head to the residual stream after each site. At the last site these are
# the model's own logits.

# %%
with lesson.part("the logit lens"):
    text = min(held_out.texts, key=lambda text: len(lesson.tokens(text)))
    seen = al.lens.logit_lens(model, tokenizer, text, top=3)
    print(f"{seen.headline}.")
    display(seen.figure())

# %% [markdown]
# Early streams are not written in the head's language. A tuned lens has a map per site, fitted on
# texts; the plain lens is the baseline on documents that the fit did not read.

# %%
with lesson.part("the tuned lens"):
    tuned = al.lens.tune(model, tokenizer, lesson.pieces[:150], steps=40, batch_size=16)
    print(f"{tuned.headline}.")
    display(tuned.figure())

# %% [markdown]
# ## What makes a logit
#
# With the final norm's scale held at what it is, a logit is a sum over the embedding, every head
# and every neuron. Here it is the difference between a plural verb and a singular one, after a
# plural subject.

# %%
with lesson.part("attribution"):
    pairs = lesson.pairs("agreement")
    right, wrong = pairs.answer_ids
    parts = al.lens.attribute(
        model, tokenizer, pairs.batch("clean", device=device), right, versus=wrong, by="neuron"
    )
    print(f"{parts.headline}.")
    off = float((parts.remainder.abs() / parts.logit.abs().max()).max())
    print("the parts add up to the logit:", off < (1e-3 if model.dtype == torch.float32 else 0.1))
    display(parts.figure())
    display(parts.top_neurons(6).round(3))

# %% [markdown]
# What a part does through later parts is not in this sum: a head may add little directly, and the
# verb may depend on it all the same. Ablation measures that, head by head.

# %%
with lesson.part("heads for the verb"):
    lesson.needs("attribution")
    effects = al.attention.ablate_heads(
        model, pairs.batch("clean", device=device), al.patching.LogitDifference(right, wrong)
    )
    best = effects.top(1)[0]
    print(f"{effects.headline}; the strongest is L{best.site.split('.')[1]}/H{best.head}.")
    display(effects.figure(what="effect"))

# %% [markdown]
# ## Next steps
#
# - [Which head does this](../docs/how-to/which_head_does_this.md) does the same for a behaviour of
#   yours, and [lenses](../docs/how-to/lenses.md) lists every call.
# - This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
