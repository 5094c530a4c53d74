# %% [markdown]
# # How sparse is it? ReLU² activations, counted to the last zero
#
# An Arcee layer's MLP is `down_proj(relu(up_proj(x))²)`, without a gate. A neuron that does not
# take part is therefore *exactly* zero, so sparsity can be counted, where in a gated model it has
# to be defined by a threshold. This notebook counts it, asks how much further it can be cut and at
# which loss, and what that would save. It takes about 40 seconds on one CPU core.
#
# As it is, it reads **the demo, a toy model** of a small generated world: its numbers show what the
# tools do, and nothing about AFM-4.5B. Write another model, and your own texts, into the next cell;
# nothing else has to be changed.

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

TOKENS = 1024  # of the analyses that run the model again and again; 4096 on a GPU
LAYER = None  # of the analyses of one layer; None takes the middle
OTHER = None  # a second model of this shape to compare; None: this one, rounded to 4 bits

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
model, tokenizer = al.load(MODEL, dtype=DTYPE, device=device)
lesson = al.lesson.build(model, tokenizer, texts=TEXTS)
texts = lesson.texts  # the kinds in turn
layer = model.config.num_hidden_layers // 2 if LAYER is None else LAYER
TOKENS = max(8, min(TOKENS, lesson.n_tokens // 4))
lesson

# %% [markdown]
# ## Exact zeros
#
# One pass counts every neuron at every token. Padding is not counted, and first positions, which
# models treat unlike any other, are counted separately; every number is shown with its N.

# %%
with lesson.part("the zeros"):
    report = al.sparsity.measure(model, tokenizer, texts, batch_size=32, sample_every=1)
    display(report)


def draw(name):
    """A figure of the report."""
    with lesson.part(name):
        lesson.needs("the zeros")
        display(report.figures[name])


# %% [markdown]
# **By layer.** A bar is the share of neurons that fire, all others being exactly zero; the line on
# it spans from sparse tokens to dense ones. Of weights that have learnt nothing about one half
# fires, so in ReLU² only what is below that is a property of the model.

# %%
draw("layers")

# %% [markdown]
# **By token.** Each column is a token of running text, each row is a layer, and the scale says
# how many neurons fire. Sparsity is no constant of a layer but a decision at each token, which a
# ReLU² model takes without any router.

# %%
draw("tokens")

# %% [markdown]
# **By neuron.** Each neuron is counted once, at the share of tokens on which it fires; the axis
# is logarithmic. Neurons on the far left are specialists, and since their zeros are exact, "it
# never fired" is a fact about N tokens (the rate is below 3/N with 95 % confidence), not about a
# threshold.

# %%
draw("rates")

# %% [markdown]
# **Coverage.** The curve shows which share of the neurons, the busiest first, does which share of
# all firing; equal use would be a straight line. A steep start means a hot set that could stay in
# fast memory; in ReLU² a neuron outside of it costs exactly nothing whenever it is off.

# %%
draw("coverage")

# %% [markdown]
# **Sizes.** Each line is a layer and starts, on the left, at its exact zeros; further right it
# shows how many activations a threshold would drop. A flat line says that hardly anything is
# between zero and the threshold, and ReLU² stretches this axis: halving u quarters the activation.

# %%
draw("thresholds")

# %% [markdown]
# **Concentration.** At each token, `n_eff` is how many neurons would hold its contributions at
# equal shares, `k90` how many of its neurons hold 90 % of them, largest first; Hoyer goes from 0,
# all alike, to 1, one neuron. The table has means over tokens with half of their interval; the
# whole frame has quantiles too. They are far below the number that fires: the square makes large
# ones larger.

# %%
draw("concentration")

# %%
with lesson.part("concentration in numbers"):
    lesson.needs("the zeros")
    display(report.frames["concentration"].filter(regex="^(?!.*_p[0-9])").round(2))

# %% [markdown]
# **Spikes.** The height is the length of the strongest neuron's contribution over that of the
# whole output; above 1, others cancel part of it. ReLU² squares whatever is large, so one neuron
# can hold a token's output, and half precision ends at relu(u) = 255.9: see `overflow_tokens`.

# %%
draw("spikes")

# %%
with lesson.part("spikes in numbers"):
    lesson.needs("the zeros")
    display(report.frames["spikes"].round(3))

# %% [markdown]
# **Over training.** Each line is a layer, on held-out text, from the log of the model's training,
# where there is one in its folder. Random signs give about one half. The last stage of the demo's
# training put a price on activity (see its model card), so its final rise is what was paid for, and
# not what next-token prediction alone would give.

# %%
with lesson.part("the history of training"):
    history = al.sparsity.history(MODEL)
    print(f"{history.headline}.")
    display(history.figure())

# %% [markdown]
# ## What else can be dropped
#
# Exact zeros are free. Beyond them the question is what a dropped neuron costs. **CETT** is the
# error that dropping a layer's smallest contributions `‖a_i w_i‖` makes in the MLP's output, as a
# share of its length. Without a gate the cut is one comparison with a threshold per neuron,
# `relu(u_i) < sqrt(ε/‖w_i‖)`.
#
# **Bars in bars.** One bar is all neurons that fire, the others are what is left at a larger
# error. The gap between them is the long tail of small activations: the square makes it
# long, since what is small before it is tiny after.

# %%
with lesson.part("CETT"):
    cett = al.sparsity.cett(model, tokenizer, texts, sample_tokens=2 * TOKENS, batch_size=32)
    print(f"{cett.headline}.")
    display(cett.figure_layers())

# %% [markdown]
# **The whole curve.** Each line is a layer; going right, the error grows and fewer neurons are
# left. A flat stretch on the left is what can be dropped cheaply: neurons that fire, and hardly
# move the output.

# %%
with lesson.part("the curve of CETT"):
    lesson.needs("CETT")
    display(cett.figure_curves())

# %% [markdown]
# **At a stated price.** CETT-PPL-p % cuts all layers at once, at the largest error that keeps
# perplexity within p %. The bars compare what fires with what is needed; the cut is a value that
# `al.intervene` and the evaluations take.

# %%
with lesson.part("a stated price"):
    allowed = al.sparsity.cett_ppl(model, tokenizer, texts, sample_tokens=TOKENS, batch_size=32)
    print(f"{allowed.headline}.")
    display(allowed.figure())

# %% [markdown]
# **Every rule.** Each point is a run of the model in which a rule keeps some neurons; the band is
# a 95 % interval over documents. Read from the right: a line stays at zero while only the tail is
# cut, and leaves it at its critical point. In ReLU² the curves start at the exact zeros, not at
# 100 %: the first cut is free, and keeping everything gives the clean loss bit for bit.

# %%
with lesson.part("every rule"):
    curves = al.sparsity.truncation(model, tokenizer, texts, sample_tokens=TOKENS, batch_size=32)
    print(f"{curves.headline}.")
    display(curves.figure())

# %% [markdown]
# **Critical sparsity**: the most zeros with which the geometric mean probability of the next
# token is still 99 % of the model's own. It is a measured level; `fails_at` is the next, which
# was too sparse.

# %%
with lesson.part("critical sparsity"):
    lesson.needs("every rule")
    display(curves.critical().round(4))

# %% [markdown]
# ## Structure in time
#
# **Overlap.** The curve is how much the active sets of two tokens have in common, by their
# distance; dashed is chance, for neurons that fire independently at their rates. Overlap above
# chance could be reused from token to token, and exact zeros make the set itself well defined.

# %%
draw("overlap")

# %% [markdown]
# **Union.** Neurons that at least one of B tokens needs; below it two baselines, neurons that fire
# independently at their measured rates, and neurons that are all alike. Skipping rows pays for one
# sequence; for a batch it pays only while this curve stays low; exact zeros do not change that
# limit.

# %%
draw("unions")

# %% [markdown]
# **Position.** The share of neurons that fire, by place in the window. A slope says that context
# makes the model sparser or denser; first positions are left out, since models treat them unlike
# any other, and an exact zero there would count as one here.

# %%
draw("positions")

# %% [markdown]
# **Frequency.** Token ids are grouped by how often they occur; a point is the mean share of
# neurons that fire on them. A slope says that rare tokens have more to be looked up, and with
# exact zeros that is a count, not a norm.

# %%
draw("ids")

# %% [markdown]
# **Loss.** Tokens are grouped by how hard the next one is to tell; a point is the mean share of
# neurons that fire at them. A fixed top-k would draw flat lines, ReLU² lets a layer use as many
# neurons as a token asks for.

# %%
draw("losses")

# %% [markdown]
# **Layers.** A cell is the correlation of two layers' active neurons over the tokens: near 1 both
# use many neurons at the same tokens, at 0 their counts are unrelated. It is a correlation of plain
# counts, which need exact zeros.

# %%
draw("neighbours")

# %% [markdown]
# ## Predicting which neurons fire
#
# `down_proj` can skip neurons that are off as soon as `up_proj` has run. To skip `up_proj` too, one
# has to guess them. **Without training:** recall against how many neurons are guessed, as a
# multiple of those that fire. A miss near zero costs little in ReLU², where a small u is squared.

# %%
draw("predictors")

# %% [markdown]
# **With training:** a low-rank probe of one layer, scored on documents it has not seen, next to
# the SVD of the same rank and the neurons that fire most. The distance to the SVD is what labels
# add, and ReLU² gives these labels for free: a sign.

# %%
with lesson.part("the probe"):
    probe = al.sparsity.probe(
        model, tokenizer, texts, layer, sample_tokens=4 * TOKENS, batch_size=32
    )
    print(f"{probe.headline}.")
    display(probe.figure())

# %% [markdown]
# **Together.** Above, the correlation of firing, ordered so that neurons that fire together are
# next to each other; below, how many of 16 such groups hold a token's active neurons.
# Blocks on the diagonal are experts that nobody trained: exact zeros make a ReLU² layer a mixture
# without a router.

# %%
with lesson.part("firing together"):
    together = al.sparsity.coactivation(
        model, tokenizer, texts, layer, sample_tokens=4 * TOKENS, batch_size=32
    )
    print(f"{together.headline}.")
    display(together.figure())

# %% [markdown]
# ## Across domains
#
# The same model on each kind of text separately: the share of exact zeros, by kind and layer.
# Neurons that fire in one kind only can be named, because elsewhere they are not small but zero.

# %%
with lesson.part("domains"):
    by_domain = {
        name: al.sparsity.measure(model, tokenizer, part, batch_size=32, analyses=["core"])
        for name, part in lesson.domains.items()
    }
    domains = al.sparsity.domains(by_domain)
    own = domains.frame().groupby("domain")["selective"].sum()
    most = f", most of them in {own.idxmax()!r}" if own.sum() else ""
    print(
        lesson.caption(
            f"{own.sum():,} neurons have over four fifths of their firing in one kind{most}",
            n=sum(domains.tokens),
        )
    )
    display(domains.figure())

# %% [markdown]
# ## Against another model
#
# A Base model against its fine-tune, a checkpoint against a later one, or weights against their
# rounding, neuron by neuron on the same text. **Agreement** is the overlap of what fires at the
# same token, over all tokens that both reports kept (`same_tokens`), with an interval over windows;
# dashed is what two such models would share by chance. With exact zeros both are sets, so rounding
# can be evaluated by which neurons it turns on or off, before any loss is taken.

# %%
with lesson.part("against another model"):
    lesson.needs("the zeros")
    other, _ = al.load(OTHER or MODEL, dtype=DTYPE, device=device)
    if OTHER is None:
        for mlp in al.sparsity.mlps(other):
            scale = mlp.up.weight.data.abs().amax(1, keepdim=True) / 7
            mlp.up.weight.data.div_(scale).round_().mul_(scale)
    second = al.sparsity.measure(
        other, tokenizer, texts, batch_size=32, sample_every=1, analyses=["core"],
        label=OTHER or "up_proj rounded to 4 bits",
    )  # fmt: skip
    comparison = report.compare(second)
    del other
    print(f"{comparison.headline}.")
    display(comparison.figure())

# %%
with lesson.part("against another model, in numbers"):
    lesson.needs("against another model")
    display(comparison.frame().filter(regex="layer|js_bits|agreement|same_tokens").round(3))

# %% [markdown]
# ## What it would save
#
# **Blocks.** Each line is a layer: the share of blocks of neighbouring neurons in which none
# fires, by their size, against the dashed line of zeros placed at random. Kernels skip blocks,
# and ReLU² has its zeros wherever training put them; groups of four, of which hardware skips two,
# ask for less (`two_four`, and `lost`, what that drops of the output's square).

# %%
draw("blocks")

# %%
with lesson.part("blocks in numbers"):
    lesson.needs("the zeros")
    names = ["layer", "two_four", "lost", "zero_16", "tile", "fullest_tile"]
    display(report.frames["blocks"][names].round(4))

# %% [markdown]
# **Bytes.** How many times fewer a decoding step has to read, if silent rows of `down_proj` are
# left alone, and if those of `up_proj` could be guessed as well. This is arithmetic from the zeros
# above; it is exact for the first, because in ReLU² skipping a zero changes nothing.

# %%
draw("saving")

# %% [markdown]
# On a CPU in fp32 the first is real: inside this block `down_proj` reads active rows only, and
# greedy ids are the same. On a model as small as the demo it saves no time (benchmarks/RESULTS.md
# has AFM-4.5B's shape).

# %%
with lesson.part("sparse decoding"):
    prompt = lesson.batch(lesson.prompt)
    settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    with al.sparse_decode(model) as block:
        sparse = model.generate(**prompt, **settings)
    dense = model.generate(**prompt, **settings)
    print("same ids:", torch.equal(dense, sparse))
    print(block.frame().round(3).to_string(index=False))

# %% [markdown]
# ## Next steps
#
# - As files, with a report to send around: `arcee-lab sparsity demo --world all --out out/zeros`
# - Two models, checkpoints or quantisations on the same text: `report.compare(other)`
# - A cut as an intervention: `with al.intervene(model, allowed.interventions(0.01)): ...`
# - Every row with its formula and source: docs/explanation/sparsity.md
