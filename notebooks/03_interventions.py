# %% [markdown]
# # Interventions: which parts of a model carry an answer
#
# Reading shows what a model computes; only changing it shows what it uses. This notebook changes
# activations in four ways: it patches those of one run into another, ablates neurons, steers, and
# does the same in nnsight. The question is nearly always the same one: how does the model know
# whether its verb is singular or plural? It takes about 20 seconds on one CPU core.
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


def named(spot):
    """A head or a neuron as people read it."""
    layer = spot.site.split(".")[1]
    return f"L{layer}/H{spot.head}" if spot.unit is None else f"L{layer}/N{spot.unit}"


lesson

# %% [markdown]
# ## An intervention is a value
#
# It says where, what and on which tokens. It can be printed, compared and written as JSON, and a
# list of them acts while the model runs inside the block. A capture records the edited value.

# %%
edits = [
    al.Ablate("layers.1.mlp.hook_post", units=[3, 17]),
    al.Scale("layers.0.self_attn.hook_z", 0.5, heads=[0], positions=-1),
]
batch = lesson.batch(lesson.prompt)
seen = al.capture(model, "layers.1.mlp.hook_post")
with torch.no_grad(), al.intervene(model, edits), seen as acts:
    changed = model(**batch).logits
with torch.no_grad():
    plain = model(**batch).logits
    again = model(**batch).logits

print(*edits, sep="\n")
print("equal after JSON: ", al.interventions.from_json(al.interventions.to_json(edits)) == edits)
print("neurons are off:  ", bool((acts["layers.1.mlp.hook_post"][..., [3, 17]] == 0).all()))
print("logits changed:   ", not torch.equal(changed, plain))
print("nothing is left:  ", torch.equal(plain, again))

# %% [markdown]
# ## Pairs that differ in one word
#
# Prompts about a subject and another noun behind it. Two of a pair differ in the number of the
# subject alone; the other noun is singular in half of the pairs and plural in the others, so it
# says nothing. The measure is how much the model leans to a plural verb: the log odds of plural
# forms against singular ones.

# %%
with lesson.part("pairs"):
    pairs = lesson.pairs("agreement")
    clean, corrupt = (pairs.batch(side, device=device) for side in ("clean", "corrupt"))
    with torch.no_grad():
        odds = [pairs.metric(model(**side).logits[:, -1].float()) for side in (clean, corrupt)]
    gap = odds[0] - odds[1]
    print(f"{pairs.headline}.")
    print("plural:  ", pairs.clean[0], "...")
    print("singular:", pairs.corrupt[0], "...")
    print(lesson.caption("The two log odds of a pair differ by {} nats", values=gap, of="pair"))
    # Shares of a difference mean nothing where there is none.
    what = "recovered" if abs(float(gap.mean())) > 0.2 else "effect"
    print(
        "Effects are shown as shares of that difference."
        if what == "recovered"
        else "The model hardly tells them apart, so effects are shown in nats and not as shares."
    )

# %% [markdown]
# ## Where is the number, and when?
#
# The model reads the singular prompt, but one position of its residual stream is taken from the
# run on the plural one. A share of 0 means that nothing changes, 1 that the answer is fully that of
# the other prompt. Read from top to bottom: at which word does the difference sit in each layer?
# (The words are those of the first pair.)

# %%
with lesson.part("the residual stream"):
    lesson.needs("pairs")
    run = (model, corrupt, clean, pairs.metric)
    stream = al.patch_sweep(*run, "layers.*.hook_resid_post", over="positions")
    moved = stream.grid("effect").abs()
    layer = int((moved[:, -1] > moved[:, pairs.at[0]]).int().argmax())
    said = lesson.caption(
        f"From layer {layer} on, the last word carries more of the difference than the subject"
        if moved[layer, -1] > moved[layer, pairs.at[0]]
        else "In none of the layers the last word carries more of the difference than the subject",
        n=len(pairs),
        of="pair",
    )
    display(stream.figure(what=what, labels=pairs.words, title=said))

# %% [markdown]
# ## Which heads move it?
#
# The same with single attention heads, over all positions at once. A head with a large value moves
# the number, or writes it where others read it.

# %%
with lesson.part("heads"):
    lesson.needs("pairs")
    heads = al.patch_sweep(*run, "layers.*.self_attn.hook_z", over="heads")
    strongest = heads.top(1)[0]
    print(f"{heads.headline}; the strongest is {named(strongest)}.")
    display(heads.figure(what=what))

# %% [markdown]
# Are these heads for verbs alone? The same sweep over pairs that ask another question: a review of
# something good or bad, and the word after it. A head that matters for both does something more
# general.

# %%
with lesson.part("another question"):
    lesson.needs("heads")
    reviews = lesson.pairs("verdict")
    sides = [reviews.batch(side, device=device) for side in ("corrupt", "clean")]
    verdict = al.patch_sweep(
        model, *sides, reviews.metric, "layers.*.self_attn.hook_z", over="heads"
    )
    print(f"{reviews.headline}, as in {reviews.clean[0]!r}")
    both = set(map(named, heads.top(4))) & set(map(named, verdict.top(4)))
    print(
        lesson.caption(
            f"Of the four strongest heads of each question, {len(both)} are the same; the effects "
            f"of all heads correlate with {verdict.correlation(heads):.2f}",
            n=len(verdict.spots),
            of="head",
        )
    )
    display(verdict.figure(what="effect"))

# %% [markdown]
# At which word do the strongest heads act? A head that acts at the subject marks it; one that acts
# at the last word fetches it.

# %%
with lesson.part("heads by word"):
    lesson.needs("heads")
    rows = [
        (named(spot), position, value)
        for spot in heads.top(6)
        for position, value in enumerate(
            al.patch_sweep(*run, spot.site, over="positions", heads=spot.head)
            .grid(what)
            .flatten()
            .tolist()
        )
    ]
    table = pd.DataFrame(rows, columns=["head", "position", what]).pivot_table(
        index="head", columns="position", values=what, sort=False
    )
    table.columns = [f"{i} {word}" for i, word in enumerate(pairs.words)]
    display(table.round(2) + 0.0)

# %% [markdown]
# ## Which neurons?
#
# There are too many neurons to patch one by one in a large model. Attribution patching estimates
# all of them from one gradient: the difference between the two runs, times the derivative of the
# answer. At `hook_post`, because before the activation a neuron that is off has the derivative 0.
# Those it ranks highest are then patched for real, and as many drawn at random, to see whether to
# trust it: dots on the diagonal are right estimates.

# %%
with lesson.part("neurons"):
    lesson.needs("pairs")
    estimate = al.patch_attribution(*run, "layers.*.mlp.hook_post", over="units")
    rest = estimate.top(len(estimate.spots))[60:]
    chosen = estimate.top(60) + random.Random(1).sample(rest, 60)
    measured = al.patch_sweep(*run, chosen, batch_size=480)
    print(
        lesson.caption(
            f"Estimated and measured effects of {len(chosen)} neurons correlate with "
            f"{measured.correlation(estimate):.3f}",
            n=len(pairs),
            of="pair",
        )
    )
    display(measured.figure_against(estimate))

# %% [markdown]
# What do the strongest of them look at? The share of prompts in which each fires, at the subject
# and at the last word, with a plural and with a singular subject.

# %%
with lesson.part("what they look at"):
    lesson.needs("neurons")
    best = measured.top(8)
    sites = sorted({spot.site for spot in best})
    with torch.no_grad(), al.capture(model, sites) as in_plural:
        model(**clean)
    with torch.no_grad(), al.capture(model, sites) as in_singular:
        model(**corrupt)
    numbers = measured.frame().set_index(["site", "unit"])
    rows = []
    for spot in best:
        fires = [
            float((acts[spot.site][:, position, spot.unit] > 0).float().mean())
            for position in (pairs.at[-1], -1)
            for acts in (in_plural, in_singular)
        ]
        effect = numbers.loc[(spot.site, spot.unit), "effect"]
        rows.append((named(spot), effect, *fires))
    columns = ["neuron", "effect", "plural subject", "singular subject",
               "last word, plural", "last word, singular"]  # fmt: skip
    display(pd.DataFrame(rows, columns=columns).round(2))

# %% [markdown]
# ## Are they needed?
#
# Patching shows what is enough to change an answer. Now neurons are switched off while the model
# reads *other* prompts, and the question is how far it still leans to the right verb: the log odds
# of the verb that fits the subject, on both sides of each pair. The controls ablate as many other
# neurons, each one a neighbour of the same layer that fires about as often in these prompts.

# %%
with lesson.part("ablation"):
    lesson.needs("neurons")
    tests = lesson.pairs("agreement", part="confirmation")
    asked = [(tests.batch("clean", device=device), 1), (tests.batch("corrupt", device=device), -1)]

    def margins(spots):
        """Log odds of the right verb with some neurons off, for every prompt."""
        units = pd.DataFrame(spots, columns=["site", "unit"]).groupby("site")["unit"].apply(list)
        off = [al.Ablate(site, units=chosen) for site, chosen in units.items()]
        with torch.no_grad(), al.intervene(model, off):
            found = [sign * tests.metric(model(**x).logits[:, -1].float()) for x, sign in asked]
        return torch.cat(found).cpu()

    names = list(estimate.spots.names)
    with (
        torch.no_grad(),
        al.capture(model, {name: al.reducers.FiringRate() for name in names}) as fired,
    ):
        for inputs, _ in asked:
            model(**inputs)
    by_rate = {name: fired[name].rates.argsort(stable=True).tolist() for name in names}
    counts = [k for k in (1, 4, 16, 64, 256) if 4 * k <= len(estimate.spots)]
    ranked = [(spot.site, spot.unit) for spot in estimate.top(max(counts))]

    def neighbours(count, seed):
        """For each of the first neurons another of its layer, not ranked, that fires as often."""
        draws, taken, found = random.Random(seed), set(ranked), []
        for site, unit in ranked[:count]:
            order = by_rate[site]
            place = order.index(unit)
            near = sorted(range(len(order)), key=lambda i: abs(i - place))
            free = [(site, order[i]) for i in near if (site, order[i]) not in taken]
            if free:
                found.append(draws.choice(free[:20]))
                taken.add(found[-1])
        return found

    untouched = margins([])
    by_rank = torch.stack([margins(ranked[:count]) for count in counts])
    controls = torch.stack(  # [count, draw, prompt]
        [torch.stack([margins(neighbours(count, seed)) for seed in range(3)]) for count in counts]
    )
    table = pd.DataFrame(
        {
            "neurons off": [0, *counts],
            "right verb": [(m > 0).float().mean().item() for m in (untouched, *by_rank)],
            "right verb, control": [(m > 0).float().mean().item() for m in (untouched, *controls)],
            "log odds": [m.mean().item() for m in (untouched, *by_rank)],
            "log odds, control": [m.mean().item() for m in (untouched, *controls)],
        }
    )
    display(table.round(2))

# %% [markdown]
# The table as a picture: how the log odds of the right verb fall with the neurons that attribution
# ranks highest, and with others that fire as often. The band is one standard deviation over three
# draws of the others.

# %%
import numpy as np

from arcee_lab.views.figures.curves import Line, lines

with lesson.part("ablation, drawn"):
    lesson.needs("ablation")
    fall = untouched - by_rank[-1]
    print(
        lesson.caption(
            f"Without the {counts[-1]} ranked neurons the log odds of the right verb fall by {{}}",
            values=fall,
            of="prompt",
        )
    )
    draws, x = controls.mean(-1), np.array(counts)  # [count, draw]
    full = np.full(len(counts), float(untouched.mean()))
    spread = draws.std(-1).numpy()
    display(
        lines(
            [
                Line("ranked by attribution", x, by_rank.mean(-1).numpy()),
                Line("others, ± SD of 3", x, draws.mean(-1).numpy(), ci_half_width=spread),
                Line("none off", x, full, dashed=True, of=1),
            ],
            x="neurons switched off",
            y="log odds of the right verb",
            title=f"Without {counts[-1]} ranked neurons the log odds go from {full[0]:.2f} to "
            f"{by_rank[-1].mean():.2f}, without as many others to {draws[-1].mean():.2f} "
            f"(N = {len(untouched)} prompts)",
            log_x=True,
        )
    )
# %% [markdown]
# ## Steer
#
# The difference between the two runs at the subject is a direction. Added to the singular prompt,
# at the subject alone, it should make a plural verb more probable; taken away from the plural one,
# a singular verb. A random direction of the same length is the control.

# %%
with lesson.part("steering"):
    lesson.needs("the residual stream")
    at = pairs.at[-1]
    layer = int(stream.grid("effect")[:, at].abs().argmax())
    site = f"layers.{layer}.hook_resid_post"
    with torch.no_grad(), al.capture(model, site, positions=at) as in_plural:
        model(**clean)
    with torch.no_grad(), al.capture(model, site, positions=at) as in_singular:
        model(**corrupt)
    direction = (in_plural[site] - in_singular[site])[:, 0].mean(0)
    noise = torch.randn(len(direction), generator=torch.Generator().manual_seed(0)).to(direction)
    noise *= direction.norm() / noise.norm()

    def chance_of_plural(inputs, vector, alpha):
        edit = al.Add(site, vector, alpha, positions=at)
        with torch.no_grad(), al.intervene(model, edit):
            logits = model(**inputs, logits_to_keep=1).logits[:, 0]
        return float(pairs.metric(logits.float()).sigmoid().mean())

    alphas = torch.linspace(-2, 2, 17)
    curves = []
    for place, (name, inputs) in enumerate({"plural": clean, "singular": corrupt}.items()):
        for kind, vector in (("direction", direction), ("random", noise)):
            y = np.array([chance_of_plural(inputs, vector, float(alpha)) for alpha in alphas])
            of = 2 * place if kind == "random" else None
            curves.append(Line(f"{name}, {kind}", alphas.numpy(), y, dashed=of is not None, of=of))
    steered = curves[2]
    print(
        lesson.caption(
            "Added to the singular prompts, the direction moves the chance of a plural verb from "
            f"{steered.y[8]:.2f} to {steered.y[12]:.2f} at alpha 1; a random one moves it to "
            f"{curves[3].y[12]:.2f}",
            n=len(pairs),
            of="prompt",
        )
    )
    display(
        lines(
            curves,
            x=f"alpha, added at the subject in {site}",
            y="chance of a plural verb",
            title=f"At alpha 1 a plural verb has a chance of {steered.y[12]:.2f} after singular "
            f"subjects, without {steered.y[8]:.2f}; a random direction gives {curves[3].y[12]:.2f} "
            f"(N = {len(pairs)} pairs)",
        )
    )
# %% [markdown]
# It holds in `generate` too: the edit acts on the prompt's subject, once, and the rest of the text
# follows from it.

# %%
with lesson.part("a steered text"):
    lesson.needs("steering")
    prompt = {name: rows[:1] for name, rows in corrupt.items()}
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    plain = model.generate(**prompt, **settings)
    with al.intervene(model, al.Add(site, direction, 1.5, positions=at)):
        steered = model.generate(**prompt, **settings)
    for name, ids in {"plain": plain, "steered": steered}.items():
        print(f"{name:8}", tokenizer.decode(ids[0], skip_special_tokens=True))
# %% [markdown]
# ## The same in nnsight
#
# `al.to_nnsight` wraps the same module, and every site keeps its name. One patch of the heat map
# and one of the ablations above, written as a trace, give the same numbers. (To import nnsight
# replaces `torch.Tensor.backward` in the process, by one that behaves the same outside of traces;
# that is why this section is the last.)

# %%
with lesson.part("nnsight"):
    lesson.needs("steering", "ablation")
    lm = al.to_nnsight(model, tokenizer)

    with torch.no_grad(), lm.trace(**clean):
        patch = lm.layers[layer].hook_resid_post.output[:, at].save()
    with torch.no_grad(), lm.trace(**corrupt):
        lm.layers[layer].hook_resid_post.output[:, at] = patch
        logits = lm.output.logits.save()
    by_trace = pairs.metric(logits[:, -1].float()).cpu()

    place = layer * len(pairs.words) + at
    by_sweep = stream.base + stream.effects[place]
    close = bool(
        (by_trace - by_sweep).abs().max() < (1e-3 if model.dtype == torch.float32 else 0.1)
    )
    print(f"{site} at {pairs.words[at]!r}: the trace and the sweep agree:", close)

# %%
with lesson.part("an ablation in nnsight"):
    lesson.needs("nnsight")
    units = [unit for name, unit in ranked[:64] if name == ranked[0][0]]
    with torch.no_grad(), al.intervene(model, al.Ablate(ranked[0][0], units=units)):
        ours = model(**clean).logits
    number = int(ranked[0][0].split(".")[1])
    with torch.no_grad(), lm.trace(**clean):
        lm.layers[number].mlp.hook_post.output[..., units] = 0
        theirs = lm.output.logits.save()
    print(
        f"{len(units)} neurons of layer {number} ablated, equal logits:", torch.equal(ours, theirs)
    )
# %% [markdown]
# ## Next steps
#
# - Every kind of intervention and every condition: `docs/how-to/interventions.md`
# - Traces, batches of prompts, the stock model's names: `docs/how-to/nnsight.md`
# - This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
