# %% [markdown]
# # A first look: which ReLU² neurons fire where
#
# An Arcee layer's MLP is `down_proj(relu(up_proj(x))²)`, without a gate. A neuron that does not
# take part is exactly zero, so "does it fire?" needs no threshold. This notebook loads a model,
# reads its activations, counts the zeros, finds neurons by what they mean, and looks at attention.
# It takes about 20 seconds on one CPU core.
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
import numpy as np
import torch
from IPython.display import HTML, display

import arcee_lab as al

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
model, tokenizer = al.load(MODEL, dtype=DTYPE, device=device)
lesson = al.lesson.build(model, tokenizer, texts=TEXTS)
config = model.config
print(
    f"{config.num_hidden_layers} layers, d_model {config.hidden_size}, "
    f"{config.intermediate_size} neurons per layer, {config.num_attention_heads} heads over "
    f"{config.num_key_value_heads} kv heads, {model.num_parameters():,} parameters"
)
lesson

# %% [markdown]
# A lesson is what a notebook reads: texts, labels of their words, prompts that differ in one word.
# It is chosen once, from the model and from `TEXTS`.
#
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
batch = lesson.batch(lesson.prompt)
middle = config.num_hidden_layers // 2
sites = ["layers.*.mlp.hook_post", f"layers.{middle}.hook_mlp_out"]
with al.capture(model, sites) as acts, torch.no_grad():
    model(**batch)

print(lesson.prompt)
for layer in range(min(config.num_hidden_layers, 8)):
    post = acts[f"layers.{layer}.mlp.hook_post"]
    print(f"layer {layer}: {list(post.shape)}  exact zeros {(post == 0).float().mean():.1%}")

# %% [markdown]
# Zeros can be left out without any loss: the few neurons that fire at a token *are* the MLP's
# output there.

# %%
position = batch["input_ids"].shape[1] // 2
post = acts[f"layers.{middle}.mlp.hook_post"][0, position]
firing = post.nonzero().flatten()
down = model.base_model.layers[middle].mlp.down_proj
from_few = (down.weight[:, firing] @ post[firing]).detach().float()
if down.bias is not None:
    from_few += down.bias.detach().float()
mlp_out = acts[f"layers.{middle}.hook_mlp_out"][0, position].float()
error, largest = (float(x.abs().max()) for x in (from_few - mlp_out, mlp_out))
token = lesson.tokens(lesson.prompt)[position]
print(f"{len(firing)} of {len(post)} neurons of layer {middle} fire at {token!r}")
print(f"they alone give the MLP's output in {model.dtype}:", error <= 0.02 * largest)

# %% [markdown]
# ## How sparse is it?
#
# One pass over the texts of the lesson. Padding is not counted, first positions are counted
# separately, and every number is shown with its N.

# %%
with lesson.part("the zeros"):
    report = al.sparsity.measure(model, tokenizer, lesson.texts, batch_size=32)
    display(report)

# %% [markdown]
# Per layer, the share of neurons that fire at a token: all others are exactly zero. Weights that
# have learnt nothing fire about one half.

# %%
with lesson.part("the zeros by layer"):
    lesson.needs("the zeros")
    most, least = int(report.zeros.argmax()), int(report.zeros.argmin())
    told = f"Layer {most} has the most exact zeros, {float(report.zeros[most]):.1%}"
    told += f"; layer {least} the fewest, {float(report.zeros[least]):.1%}" if most != least else ""
    print(lesson.caption(told, n=report.n_tokens))
    display(report.figures["layers"])

# %% [markdown]
# Each neuron once, at the share of tokens on which it fires, on a logarithmic axis: neurons on the
# left are specialists.

# %%
with lesson.part("the rates of neurons"):
    lesson.needs("the zeros")
    rates = report.rates.flatten()
    print(
        lesson.caption(
            f"{int(((rates > 0) & (rates < 0.01)).sum()):,} of {len(rates):,} neurons fire on "
            f"fewer than one token in a hundred, and {int((rates == 0).sum()):,} never fired",
            n=report.n_tokens,
        )
    )
    display(report.figures["rates"])

# %% [markdown]
# ## What do they fire on?
#
# Each row is a neuron, each column is a token, blank is zero. Of each layer these are rare neurons
# that write most to the residual stream here. Look for rows that pick one kind of word.

# %%
with lesson.part("the passage"):
    lesson.needs("the zeros")
    passage = al.sparsity.read_passage(model, tokenizer, lesson.prompt, report)
    if not passage.neurons:
        raise al.errors.SettingError("no neuron that fires rarely over the texts fires here.")
    display(passage.figure())

# %% [markdown]
# ## Which neuron carries a concept?
#
# The lesson has labels of words, such as "plural noun". `al.neurons.find` scores every neuron
# against every label on one set of texts. A best of thousands is inflated by selection, so it is
# scored again on *other* texts, and the same search runs with shuffled labels and on an untrained
# copy of the model. `p` is the share of searches for shuffled labels in which the best of all
# neurons does as well.

# %%
with lesson.part("labels"):
    labels, others = lesson.labels("search"), lesson.labels("confirmation")
    found = al.neurons.find(model, tokenizer, labels, confirm=others, batch_size=32, shuffles=19)
    print(f"{found.headline}.")
    columns = ["label", "unit", "F1", "F1 low", "F1 high", "F1 shuffled", "F1 untrained", "p"]
    shown = found.frame()
    display(shown[[name for name in columns if name in shown]].round(2))
    print(
        lesson.caption(
            f"Its best neuron beats every control on other texts: {', '.join(found.confirmed)}"
            if found.confirmed
            else "No label has a neuron that beats its controls: those below are the luckiest of "
            f"{found.searched:,}",
            n=found.confirm_tokens,
        )
    )

# %% [markdown]
# The same neurons on a text they were not chosen on. A cell is filled where the neuron is above its
# level, the colours of the words are the labels (of a word that has two, the first), and F1 on all
# these texts is on the right.

# %%
from arcee_lab.views.figures.raster import raster

with lesson.part("one neuron per label"):
    lesson.needs("labels")
    lengths = [len(lesson.tokens(text)) for text in others.texts]
    number = min(range(len(lengths)), key=lambda i: abs(lengths[i] - 24))
    text, tokens = others.texts[number], lesson.tokens(others.texts[number])[:40]
    with al.capture(model, "layers.*.mlp.hook_post") as acts, torch.no_grad():
        model(**lesson.batch(text))
    units = [one.best for one in found.labels]
    values = torch.stack([acts[unit.site][0, :40, unit.unit].float().cpu() for unit in units])
    above = values > torch.tensor([unit.threshold for unit in units])[:, None]
    truth = {name: others.tokens(tokenizer, name)[number] for name in others.names}
    marks = [next((n for n in truth if truth[n][i]), None) for i in range(len(tokens))]
    rows = [unit.label for unit in units]
    # How often the same neurons fire where their label is not: a level that is always passed hits.
    hit, other = (
        [
            bool(above[row, i])
            for row, name in enumerate(rows)
            for i in range(len(tokens))
            if bool(truth[name][i]) is labelled
        ]
        for labelled in (True, False)
    )
    display(
        raster(
            (values * above).numpy(),
            tokens,
            [f"{unit.label}  {unit.name}" for unit in units],
            notes=[f"F1 {unit.f1:.2f}" for unit in units],
            marks=marks,
            blank="not above its level",
            title=f"At {sum(hit)} of {len(hit)} labels of tokens of another text the neuron of the "
            f"label fires above its level, without its label at {sum(other)} of {len(other)} "
            f"({np.mean(other):.0%})",
        )
    )

# %% [markdown]
# The neuron with the best F1 on that text, with its number at every token (hover in Jupyter):

# %%
from arcee_lab.views.html import token_strip

with lesson.part("one neuron"):
    lesson.needs("one neuron per label")
    best = max(units, key=lambda unit: unit.f1)
    strip = acts[best.site][0, :, best.unit].float().cpu()
    beaten = "" if best.label in found.confirmed else ", which beats not all of its controls"
    print(f"{best.name}, best for {best.label!r}{beaten}")
    display(HTML(token_strip(lesson.tokens(text), strip)))

# %% [markdown]
# ## Where does a head look?
#
# A detector marks for each token some of those before it; a head's score is its mean attention on
# what is marked, over the texts: the previous token, the same token before, what came after it
# (*induction*), the first token.

# %%
looks = al.attention.detect(model, tokenizer, lesson.texts[:60], repeats=0)
print(f"{looks.headline}.")
looks.figure()

# %% [markdown]
# The rows of the strongest heads of three kinds on the prompt, each with its share over the texts.
# Some head is always the strongest: one that gives more than half of its attention to the previous
# token may be called a previous-token head, and one near even attention may not. Each row shows
# where its token looks; reading a pattern leaves the logits bit-identical.

# %%
from arcee_lab.views.figures.patterns import patterns

with lesson.part("patterns"):
    wanted = {
        "offset_1": "the token before",
        "induction": "what came after the same token",
        "first_mass": "the first token",
    }
    with al.capture(model, "*pattern") as acts, torch.no_grad():
        model(**batch)
    maps, names, told = [], [], []
    for name, goal in wanted.items():
        one, (layer, head) = looks.found["texts"][name], looks.top(name)[0]
        (best, share), n = one.strongest, int(one.n.max())
        maps.append(acts[f"layers.{layer}.self_attn.hook_pattern"][0, head])
        names.append(f"{best}: {share:.0%} to {goal}")
        told.append(
            f"{best} gives {share:.0%} to {goal} (even attention {one.even:.0%}, N = {n:,})"
        )
    display(
        patterns(
            torch.stack(maps).float().cpu().numpy(),
            lesson.tokens(lesson.prompt),
            names,
            title="Over the texts, " + ", ".join(told),
        )
    )

# %% [markdown]
# ## Next steps
#
# - The same numbers as files, with a report to send around:
#   `arcee-lab sparsity demo --world all --max-tokens 20000 --out out/zeros`
# - On your own text: `arcee-lab sparsity MODEL --text FILE --out out/mine`
# - Labels of your own: [Find the neurons of a label](../docs/how-to/find_the_neurons_of_a_label.md)
# - This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
