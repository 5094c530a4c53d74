# %% [markdown]
# # Hooks: read any activation, reduce it, and watch the heads
#
# This notebook takes the tour of the sites: what can be read, in which calls, how to keep only what
# you need, gradients, statistics that are reduced on the device, and attention, from one pattern to
# numbers over many texts. It takes about 20 seconds on one CPU core.
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
import pandas as pd
import torch
from IPython.display import display

import arcee_lab as al

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
model, tokenizer = al.load(MODEL, dtype=DTYPE, device=device)
lesson = al.lesson.build(model, tokenizer, texts=TEXTS)
config = model.config
last = config.num_hidden_layers - 1
lesson

# %% [markdown]
# ## The sites
#
# A site is the output of a module that does nothing: torch hooks, nnsight and `al.capture` see it
# under one name. `al.plan` shows shapes and bytes before anything runs. Here is one layer, in the
# order of the forward pass. Scores and pattern are computed only when they are spelled out. (0
# bytes: the same tensor as another site.)

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
batch = lesson.batch(lesson.prompt)
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
    ids = model.generate(
        **batch,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
with al.capture(model, f"layers.{last}.mlp.hook_post") as whole, torch.no_grad():
    model(ids)
(site,) = steps
joined = torch.cat(steps[site], dim=1).float()  # the last token is never read
expected = whole[site][:, :-1].float()
difference = (joined - expected).abs().max()
print("steps:", [list(step.shape) for step in steps[site]])
print("as in one forward:", bool(difference <= 0.05 * expected.max()))

# %% [markdown]
# ## Keep only what you need
#
# Cuts are made inside the hook. `positions` count attended tokens, so -1 is each sequence's last
# real token under padding on either side; `stop_at` ends the forward where nothing more is needed.

# %%
padded = lesson.batch([lesson.prompt, lesson.prompt[: len(lesson.prompt) // 2]])
units = [0, config.intermediate_size // 3, config.intermediate_size // 2]
cuts = {"positions": [0, -1], "units": units, "dtype": torch.float32}
with al.capture(model, "layers.0:2.mlp.hook_post", stop_at=True, **cuts) as acts, torch.no_grad():
    model(**padded)  # ends after layer 1
for site in acts:
    print(site, list(acts[site].shape), "batch, positions, units")

# %% [markdown]
# ## Gradients
#
# With `grad=True` each site keeps its gradient. The question: which neurons favour a plural verb
# after a plural subject? Gradient times activation estimates, for all neurons at once, how much the
# log odds of a plural verb would fall without each. The strongest are checked by switching them
# off.

# %%
with lesson.part("gradients"):
    pairs = lesson.pairs("agreement")
    print(f"{pairs.headline}, as in {pairs.clean[0]!r}")
    with torch.no_grad():
        known = pairs.told_apart(
            *(
                pairs.metric(model(**pairs.batch(side, device=device)).logits[:, -1].float())
                for side in ("clean", "corrupt")
            )
        )
    prompts = pairs.batch("clean", device=device)

    def score():
        return pairs.metric(model(**prompts).logits[:, -1].float()).mean()

    sites = ["layers.*.mlp.hook_pre", "layers.*.mlp.hook_post"]
    with al.capture(model, sites, grad=True) as acts:
        full = score()
        full.backward()
    model.zero_grad()
    share = torch.stack(
        [
            (acts.grad(site) * acts[site].detach()).float().sum((0, 1))
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
        rows.append((f"L{layer}/N{unit}", share[layer, unit].item(), fall))
    display(pd.DataFrame(rows, columns=["neuron", "estimated fall", "measured fall"]).round(2))
    print(
        lesson.caption(
            f"With all neurons the log odds of a plural verb are {full.item():.2f}; switching off "
            f"{rows[0][0]} alone changes them by {-rows[0][2]:.2f} nats"
            if known
            else "This model does not tell plural from singular subjects: these numbers, in nats, "
            "are about nothing",
            n=len(pairs),
            of="prompt",
        )
    )

# %% [markdown]
# relu(u)² is homogeneous of degree two, so gradient times input at `hook_pre` is exactly twice what
# it is at `hook_post`. Attribute at `hook_post`.

# %%
with lesson.part("two sites of one neuron"):
    lesson.needs("gradients")
    for layer in range(min(config.num_hidden_layers, 4)):
        pre, post = (f"layers.{layer}.mlp.hook_{name}" for name in ("pre", "post"))
        at_pre, at_post = (
            (acts.grad(site) * acts[site].detach()).float().abs().sum() for site in (pre, post)
        )
        print(f"layer {layer}: at hook_pre / at hook_post = {at_pre / at_post:.2f}")

# %% [markdown]
# ## Statistics instead of activations
#
# A reducer in place of a tensor: it counts on the device, in the pass, and padding never counts.
# Nothing of the size of the texts is kept. Sites may have several.

# %%
texts = lesson.pieces[:96]
reducers = (al.reducers.FiringRate(), al.reducers.Histogram(), al.reducers.TopK(3))
with lesson.part("statistics"):
    with al.capture(model, {"layers.*.mlp.hook_post": reducers}) as stats, torch.no_grad():
        for start in range(0, len(texts), 16):
            model(**lesson.batch(texts[start : start + 16]))
    display(stats)

# %% [markdown]
# The histogram has bins from a power of two to the next, so the share of activations above *any*
# threshold can be asked afterwards. A line that is flat on the left says that a small threshold
# changes nothing: zeros are exact, and hardly anything is small. The line is the median of the
# layers, the band reaches from the lowest to the highest.

# %%
import numpy as np

from arcee_lab.views.figures.bands import Axis, Band, bands

with lesson.part("thresholds"):
    lesson.needs("statistics")
    histograms = [stats[f"layers.{layer}.mlp.hook_post"][1] for layer in range(last + 1)]
    edges = histograms[0].edges
    edges = edges[(edges >= 2.0**-16) & (edges <= 2.0**10)]
    kept = np.array(  # [layer, threshold]
        [[float(one.at_least(float(edge)).most.mean()) for edge in edges] for one in histograms]
    )
    middle_line = np.median(kept, axis=0)
    above_zero = np.median([float(one.positive.mean()) for one in histograms])
    small = int((edges <= 0.02).sum()) - 1
    display(
        bands(
            [Band("median", np.asarray(edges), middle_line, kept.min(0), kept.max(0), dots=False)],
            x=Axis("threshold", scale="log"),
            y=Axis("share at or above it", percent=True, limits=(0, None)),
            title=f"{above_zero:.1%} of activations are above 0, {middle_line[small]:.1%} "
            f"at least {float(edges[small]):.2g} (median of {last + 1} layers; band: lowest to "
            f"highest; N = {histograms[0].tokens:,} tokens)",
        )
    )

# %% [markdown]
# `TopK` knows where each neuron fires most: the texts to look at first. Here is a rare neuron of
# the middle layer, with its three strongest tokens in brackets.

# %%
middle = config.num_hidden_layers // 2
rates, _, largest = stats[f"layers.{middle}.mlp.hook_post"]
unit = int((rates.rates - 0.01).abs().argmin())
print(f"L{middle}/N{unit} fires on {float(rates.rates[unit]):.1%} of {rates.tokens:,} tokens")
for value, row, position in zip(
    largest.values[unit], largest.rows[unit], largest.positions[unit], strict=True
):
    if float(value) > 0:
        ids = lesson.batch(texts[int(row)])["input_ids"][0]
        at = int(position)
        before, here = (tokenizer.decode(part) for part in (ids[max(0, at - 6) : at], ids[[at]]))
        print(f"{float(value):7.2f}   ...{before} [{here.strip()}]".replace("\n", " "))

# %% [markdown]
# ## What a head looks at
#
# The lesson has texts that say a string of words twice; at each word of the second time, the next
# one can be looked up in the first.

# %%
copies = lesson.copies(96)
print(f"{copies.headline}, such as: {copies.texts[0]}")

# %% [markdown]
# `al.attention.heads` reads numbers in place of patterns: a few queries at a time, next to the fast
# kernel, so that no `[head, pos, pos]` tensor ever exists. A statistic of your own is a few lines.
# This one asks how much each word of the second time looks at the token that came next the first
# time, which is the answer; a head that does so is called an *induction head*.

# %%
from dataclasses import dataclass

from arcee_lab.attention import Entropy, FirstMass, Offset, Reading, Statistic


@dataclass(frozen=True, eq=False)
class Answer(Statistic):
    """Attention to the token that followed the same word's first time."""

    target: torch.Tensor  # [batch, pos]: column of the answer, or -1

    name, label, unit = "answer", "attention to the answer", "share of attention"

    def read(self, rows):
        column = self.target[:, None, rows.place]
        mass = rows.mass(column.clamp_min(0))
        return Reading(torch.where(column >= 0, mass, torch.nan), counts=column >= 0)


target = copies.answer.to(device)
asked = [Offset(1), FirstMass(), Answer(target), Entropy()]
with al.attention.heads(model, asked) as heads, torch.no_grad():
    model(**copies.batch(device=device))
heads.figure()


# %%
def ranked(values):
    """Heads as (layer, head), the one with the largest value first."""
    order = values.nan_to_num(0).flatten().argsort(descending=True)
    return [divmod(index, config.num_attention_heads) for index in order.tolist()]


finders, backs = ranked(heads["answer"].mean), ranked(heads["offset_1"].mean)
best, share = heads["answer"].strongest
print(
    lesson.caption(
        f"The head that looks most at the answer is {best}, with {share:.1%} of its attention, "
        f"where even attention gives {heads['answer'].even:.1%}"
        + ("" if share > 0.5 else ": no induction head"),
        n=int(copies.asked.sum()),
        of="word",
    )
)

# %% [markdown]
# The patterns of the strongest of each kind, on one short text: the head that looks most one token
# back, and the one that looks most at the answer. The shares are those over all texts. The rows to
# read are those of the second time.

# %%
from arcee_lab.views.figures.patterns import patterns

shown = int(copies.attention_mask.sum(1).argmin())
one = lesson.batch(copies.texts[shown])
chosen = {"offset_1": backs[0], "answer": finders[0]}
with al.capture(model, "*pattern") as acts, torch.no_grad():
    model(**one)
pair = [acts[f"layers.{layer}.self_attn.hook_pattern"][0, head] for layer, head in chosen.values()]
goals = {"offset_1": "to the token before", "answer": "to the answer"}
names, told = [], []
for name, goal in goals.items():
    (best, share), even, n = heads[name].strongest, heads[name].even, int(heads[name].n.max())
    names.append(f"{best}: {share:.0%} {goal}")
    told.append(f"{best} gives {share:.0%} {goal} (even attention {even:.0%}, N = {n:,} tokens)")
patterns(
    torch.stack(pair).float().cpu().numpy(),
    lesson.tokens(copies.texts[shown]),
    names,
    title=", ".join(told),
)

# %% [markdown]
# ## Does it matter where they look?
#
# A pattern alone proves nothing. Here heads are switched off and the loss is taken at the answers
# alone. The control is as many heads that do neither, in the same layers as the first or later.


# %%
def loss_without(group):
    off = [al.Ablate(f"layers.{layer}.self_attn.hook_z", heads=[head]) for layer, head in group]
    inputs = copies.batch(device=device)
    with al.intervene(model, off), torch.no_grad():
        logits = model(**inputs).logits.float()
    query = target >= 0
    answer = inputs["input_ids"].gather(1, target.clamp_min(0))[query]
    return torch.nn.functional.cross_entropy(logits[query], answer).item()


with lesson.part("heads switched off"):
    neither = ranked(-heads["answer"].mean - heads["offset_1"].mean)
    looking = finders[:4]
    # Of the same layers or later ones, and none of those that are looked into.
    others = [head for head in neither if head[0] >= finders[0][0]]
    others = [head for head in others if head not in (*looking, backs[0])]
    n = min(len(looking), len(others))
    if not n:
        raise al.errors.SettingError("the model has no other heads to compare with.")
    groups = {
        "nothing": [],
        "looks most at the answer": looking[:1],
        f"the {n} that look most at it": looking[:n],
        "looks most one token back": backs[:1],
        f"{n} that do neither": others[:n],
    }
    rows = [
        (what, " ".join(f"L{layer}/H{head}" for layer, head in group), loss_without(group))
        for what, group in groups.items()
    ]
    matters = rows[2][2] - rows[0][2] > 0.1 and rows[2][2] - rows[4][2] > 0.1
    start = "Without" if matters else "These heads matter no more than others: without"
    print(
        lesson.caption(
            f"{start} the {n} that look most at the answer the loss there is {rows[2][2]:.2f} "
            f"nats, without {n} others {rows[4][2]:.2f}, with all heads {rows[0][2]:.2f}",
            n=int(copies.asked.sum()),
            of="answer",
        )
    )
    display(pd.DataFrame(rows, columns=["switched off", "heads", "loss (nats)"]).round(2))

# %% [markdown]
# ## Next steps
#
# - Change activations instead of reading them: `03_interventions`.
# - All sites and spellings: `docs/reference/sites.md`; head statistics: `docs/how-to/attention.md`.
# - This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
