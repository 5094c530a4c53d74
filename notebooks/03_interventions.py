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


def two(value):
    """A number with two digits, as tables and titles here show it, and without a minus zero."""
    return f"{round(float(value), 2) + 0.0:.2f}".replace("-", "−")


pd.options.display.float_format = two


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
post = f"layers.{model.config.num_hidden_layers // 2}.mlp.hook_post"
units = [0, model.config.intermediate_size // 2]
edits = [
    al.Ablate(post, units=units),
    al.Scale("layers.0.self_attn.hook_z", 0.5, heads=[0], positions=-1),
]
batch = lesson.batch(lesson.prompt)
seen = al.capture(model, post)
with torch.no_grad(), al.intervene(model, edits), seen as acts:
    changed = model(**batch).logits
with torch.no_grad():
    plain = model(**batch).logits
    again = model(**batch).logits

print(*edits, sep="\n")
print("equal after JSON: ", al.interventions.from_json(al.interventions.to_json(edits)) == edits)
print("neurons are off:  ", bool((acts[post][..., units] == 0).all()))
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
    known = pairs.told_apart(*odds)
    # Shares of a difference mean nothing where there is none.
    what = "recovered" if known else "effect"
    nothing = "This model does not tell the two prompts apart: these numbers are about nothing"

    def said(finding, *, n=None, of="pair", values=None):
        """A finding with its N; of a model that does not know the answer, that there is none."""
        if not known:
            finding, n, values = nothing, n or len(values), None
        return lesson.caption(finding, n=n, of=of, values=values)

    print(
        "Effects are shown as shares of that difference."
        if known
        else f"{nothing}. They are shown in nats and not as shares."
    )

# %% [markdown]
# ## Where is the number, and when?
#
# The model reads the singular prompt, but one position of its residual stream is taken from the
# run on the plural one. A share of 0 means that nothing changes, 1 that the answer is fully that of
# the other prompt, and more than 1 that it goes beyond. Read from top to bottom: at which word does
# the difference sit in each layer? (The words are those of the first pair.)

# %%
with lesson.part("the residual stream"):
    lesson.needs("pairs")
    run = (model, corrupt, clean, pairs.metric)
    stream = al.patch_sweep(*run, "layers.*.hook_resid_post", over="positions")
    moved = stream.grid("effect").abs()
    layer = int((moved[:, -1] > moved[:, pairs.at[0]]).int().argmax())
    title = said(
        f"From layer {layer} on, the last word carries more of the difference than the subject"
        if moved[layer, -1] > moved[layer, pairs.at[0]]
        else "In none of the layers the last word carries more of the difference than the subject",
        n=len(pairs),
    )
    display(stream.figure(what=what, labels=pairs.words, title=title.rstrip(".")))

# %% [markdown]
# ## Which heads move it?
#
# The same with single attention heads, over all positions at once. A head with a large value moves
# the number, or writes it where others read it.

# %%
with lesson.part("heads"):
    lesson.needs("pairs")
    heads = al.patch_sweep(*run, "layers.*.self_attn.hook_z", over="heads")
    print(f"{heads.headline}; the largest effect in size is that of {named(heads.top(1)[0])}.")
    # Known answers leave the title to the result, which says how sure its largest effect is.
    untold = None if known else said(nothing, n=len(pairs)).rstrip(".")
    display(heads.figure(what=what, title=untold))

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
    verdict_known = reviews.told_apart(verdict.source, verdict.base)
    print(
        lesson.caption(
            f"The two questions share {len(both)} of their four strongest heads; the effects of "
            f"all heads correlate with {two(verdict.correlation(heads))}"
            if known and verdict_known
            else "This model does not answer both questions, so there is nothing to compare",
            n=len(verdict.spots),
            of="head",
        )
    )
    untold = lesson.caption(nothing, n=len(reviews), of="pair").rstrip(".")
    display(verdict.figure(what="effect", title=None if verdict_known else untold))

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
    table.columns = [f"{i} {word.strip()}" for i, word in enumerate(pairs.words)]
    unit = "share of the difference that is restored" if known else "effect in nats"
    told = f"One head patched at one word: {unit}, mean over pairs"
    print(lesson.caption(told, n=len(pairs), of="pair"))
    display(table.reset_index())

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
    every = estimate.top(len(estimate.spots))
    few = min(60, len(every) // 2)
    drawn = random.Random(1).sample(every[few:], min(60, len(every) - few))
    chosen = every[:few] + drawn
    measured = al.patch_sweep(*run, chosen, batch_size=480)
    spots = f"the {few} neurons of largest estimate and {len(drawn)} drawn from the others"
    display(measured.figure_against(estimate, spots=spots))

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
    columns = ["neuron", "effect (nats)", "plural subject", "singular subject",
               "last word, plural", "last word, singular"]  # fmt: skip
    said_of = f"{rows[0][0]}, the largest, changes the log odds by {two(rows[0][1])} nats"
    print(said(f"{said_of}; the other columns are shares of prompts", n=len(pairs)))
    display(pd.DataFrame(rows, columns=columns))

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
    print(
        lesson.caption(
            "right verb: the share of prompts in which it is the more probable one; log odds: in "
            "its favour, in nats",
            n=len(untouched),
            of="prompt",
        )
    )
    display(table)

# %% [markdown]
# The table as a picture: how the log odds of the right verb fall with the neurons that attribution
# ranks highest, and with others that fire as often. The band is one standard deviation over three
# draws of the others. The title is about the point at which the ranked neurons change most.

# %%
import numpy as np

from arcee_lab.views.figures.curves import Line, lines

with lesson.part("ablation, drawn"):
    lesson.needs("ablation")
    most = int((by_rank.mean(-1) - untouched.mean()).abs().argmax())
    off, other = by_rank[most], controls[most].mean(0)
    fall = other - off  # of the same prompts, beyond what other neurons do
    clear = known and abs(float(fall.mean())) > 2 * float(fall.std()) / len(fall) ** 0.5
    start = "Without " if clear else "Ranked neurons matter no more than others: without "
    print(
        said(
            f"Without {counts[most]} ranked neurons the log odds of the right verb are lower by "
            "{} than without as many others",
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
                Line("none off", x, full, dashed=True),
            ],
            x="neurons switched off",
            y="log odds of the right verb",
            title=f"{start}{counts[most]} ranked neurons the log odds go from {two(full[0])} to "
            f"{two(off.mean())}, without as many others to {two(other.mean())} "
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

    def chance_of_plural(inputs, vector, times):
        edit = al.Add(site, vector, times, positions=at)
        with torch.no_grad(), al.intervene(model, edit):
            logits = model(**inputs, logits_to_keep=1).logits[:, 0]
        return pairs.metric(logits.float()).sigmoid().cpu()  # of each prompt

    all_times = torch.linspace(-2, 2, 17)
    curves = []
    for place, (name, inputs) in enumerate({"plural": clean, "singular": corrupt}.items()):
        for kind, vector in (("direction", direction), ("random", noise)):
            y = [chance_of_plural(inputs, vector, float(t)).mean().item() for t in all_times]
            of = 2 * place if kind == "random" else None
            line = Line(
                f"{name}, {kind}", all_times.numpy(), np.array(y), dashed=of is not None, of=of
            )
            curves.append(line)
    before, after, random_one = (
        chance_of_plural(corrupt, vector, times)
        for vector, times in ((direction, 0.0), (direction, 1.0), (noise, 1.0))
    )
    moved = after - random_one  # beyond what any vector of this length does
    clear = known and abs(float(moved.mean())) > 2 * float(moved.std()) / len(moved) ** 0.5
    print(
        said(
            "Added once to the singular prompts, the direction makes a plural verb more probable "
            "by {} than a random one",
            values=moved,
            of="prompt",
        )
    )
    display(
        lines(
            curves,
            x=f"times the direction, added at the subject in layer {layer}",
            y="chance of a plural verb",
            shares="y",
            title=f"{'Steering works' if clear else 'Steering has no effect'}: after singular "
            f"subjects the chance of a plural verb is {two(before.mean())}, with the direction "
            f"{two(after.mean())}, with a random one {two(random_one.mean())} "
            f"(N = {len(pairs)} prompts)",
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
