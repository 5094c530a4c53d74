# %% [markdown]
# # Interventions: which parts of a model carry an answer
#
# **The demo is a toy model.** It was trained on a little generated world whose truth is known, so
# what we find can be checked. Its numbers show what the tool does; they say nothing about AFM-4.5B.
#
# Reading shows what a model computes; only changing it shows what it uses. This notebook changes
# activations in four ways: it patches those of one run into another, ablates neurons, steers, and
# does the same in nnsight. The question is always the same one: how does the model know whether
# its verb is singular or plural? It takes about 20 seconds on one CPU core.

# %%
import os
import random

import pandas as pd
import torch

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.demo.stories import INTRANSITIVE, NOUNS, PREPOSITIONS, TRANSITIVE, form

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAIRS = 24

model, tokenizer = al.load(MODEL, device=DEVICE)
config = model.config

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
batch = tokenizer("The dogs near the door", return_tensors="pt").to(DEVICE)
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
# Sentences about a subject and another noun behind it. Two of a pair differ in the number of the
# subject alone; the other noun is singular in half of the pairs and plural in the others, so it
# says nothing. We measure how much the model leans to a plural verb: the log odds of all plural
# forms against all singular ones.

# %%
rng = random.Random(0)
length = len(tokenizer("The dogs near the door").input_ids)
pairs = []
for _ in range(20 * PAIRS):
    subject, other = rng.sample(NOUNS, 2)
    rest = f"{rng.choice(PREPOSITIONS)} the {form(other, ['singular', 'plural'][len(pairs) % 2])}"
    pair = [f"The {form(subject, number)} {rest}" for number in ("plural", "singular")]
    one, two = tokenizer(pair).input_ids
    if len(one) == len(two) == length and sum(map(int.__ne__, one, two)) == 1:
        pairs.append(pair)
pairs = pairs[:PAIRS]


def read(texts):
    return tokenizer(texts, return_tensors="pt", return_token_type_ids=False).to(DEVICE)


clean = read([plural for plural, _ in pairs])
corrupt = read([singular for _, singular in pairs])
at_subject = int((clean["input_ids"] != corrupt["input_ids"])[0].int().argmax())
words = [tokenizer.decode([token]).strip() for token in clean["input_ids"][0].tolist()]


def first_token(word):
    return tokenizer.encode(f" {word}", add_special_tokens=False)[0]


plural_verbs = [first_token(verb) for verb in INTRANSITIVE + TRANSITIVE]
singular_verbs = [first_token(f"{verb}s") for verb in INTRANSITIVE + TRANSITIVE]


def plural_odds(logits):
    """Log odds of a plural verb, one number per pair."""
    return logits[:, plural_verbs].logsumexp(-1) - logits[:, singular_verbs].logsumexp(-1)


print("plural:  ", pairs[0][0], "...")
print("singular:", pairs[0][1], "...")

# %% [markdown]
# ## Where is the number, and when?
#
# The model reads the singular sentence, but one position of its residual stream is taken from the
# run on the plural one. 0 means that nothing changes, 1 that the answer is fully that of the other
# sentence. Read from top to bottom: first the number is carried at the subject, later at the last
# word, where the verb has to be said. (The words below are those of the first pair.)

# %%
run = (model, corrupt, clean, plural_odds)
stream = al.patch_sweep(*run, "layers.*.hook_resid_post", over="positions")
print(stream)
stream.figure(labels=words, title="Where the subject's number is stored, layer by layer")

# %% [markdown]
# ## Which heads move it?
#
# The same with single attention heads, over all positions at once. Heads that restore a part move
# the number, or write it where others read it.

# %%
heads = al.patch_sweep(*run, "layers.*.self_attn.hook_z", over="heads")
heads.figure(title="What each head restores")

# %% [markdown]
# At which word do the strongest heads act? At the subject they mark it, at the last word they
# fetch it.

# %%
strongest = [(spot.site, spot.head) for spot in heads.top(6)]
rows = [
    (site, head, position, effect)
    for site, head in strongest
    for position, effect in enumerate(
        al.patch_sweep(*run, site, over="positions", heads=head).recovered.tolist()
    )
]
columns = ["site", "head", "position", "recovered"]
table = pd.DataFrame(rows, columns=columns).pivot_table(
    index=["site", "head"], columns="position", values="recovered", sort=False
)
table.columns = [f"{i} {word}" for i, word in enumerate(words)]
table.round(2) + 0.0

# %% [markdown]
# ## Which neurons?
#
# There are too many neurons to patch one by one in a large model. Attribution patching estimates
# all of them from one gradient: the difference between the two runs, times the derivative of the
# answer. At `hook_post`, because before the activation a neuron that is off has the derivative 0.
# We patch those it ranks highest, and as many drawn at random, to see whether to trust it.

# %%
estimate = al.patch_attribution(*run, "layers.*.mlp.hook_post", over="units")
rest = estimate.top(len(estimate.spots))[100:]
chosen = estimate.top(100) + random.Random(1).sample(rest, 100)
measured = al.patch_sweep(*run, chosen, batch_size=480)
measured.figure_against(estimate)

# %% [markdown]
# What do the strongest of them look at? The share of sentences in which each fires, at the subject
# and at the last word, with a plural and with a singular subject.

# %%
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
        f"{(acts[spot.site][:, position, spot.unit] > 0).float().mean():.2f}"
        for position in (at_subject, -1)
        for acts in (in_plural, in_singular)
    ]
    rows.append((spot.site, spot.unit, numbers.loc[(spot.site, spot.unit), "recovered"], *fires))
columns = ["site", "neuron", "recovered", "at plural subject", "at singular subject",
           "last word, plural", "last word, singular"]  # fmt: skip
pd.DataFrame(rows, columns=columns).round(2)

# %% [markdown]
# ## Are they needed?
#
# Patching shows what is enough to change an answer. Now we switch neurons off while the model
# reads whole stories that it was not trained on, and ask at each verb whether the right form is
# still likelier than the wrong one. The control ablates as many other neurons: each one is
# replaced by a neighbour of the same layer that fires about as often in these stories.

# %%
stories = documents("story", n=24, seed=0, split="test")
asked = []  # ids of a story, columns before its verbs, ids of the right and of the wrong forms
for story in stories:
    batch = tokenizer(story.text, return_tensors="pt", return_offsets_mapping=True)
    column = {end: i for i, (_, end) in enumerate(batch["offset_mapping"][0].tolist())}
    rights = [first_token(story.text[slot.start : slot.end]) for slot in story.slots]
    wrongs = [first_token(slot.other) for slot in story.slots]
    ids = batch["input_ids"].to(DEVICE)
    before = [column[slot.start - 1] for slot in story.slots]
    asked.append((ids, before, rights, wrongs))


def margins(edits):
    """Logit of the right form minus the wrong one, at every verb of the stories."""
    found = []
    with torch.no_grad(), al.intervene(model, edits):
        for ids, before, rights, wrongs in asked:
            logits = model(ids).logits[0, before].float()
            rows = torch.arange(len(before))
            found.append(logits[rows, rights] - logits[rows, wrongs])
    return torch.cat(found).cpu()


def switched_off(spots):
    units = pd.DataFrame(spots).groupby("site")["unit"].apply(list)
    return [al.Ablate(site, units=chosen) for site, chosen in units.items()]


names = estimate.spots.names
fired = {name: torch.zeros(config.intermediate_size, device=DEVICE) for name in names}
with torch.no_grad():
    for ids, *_ in asked:
        with al.capture(model, list(names)) as acts:
            model(ids)
        for name in names:
            fired[name] += (acts[name][0] > 0).sum(0)
by_rate = {name: counts.argsort(stable=True).tolist() for name, counts in fired.items()}


def neighbours(spots, rng):
    """For each neuron another one of its layer, not ranked, that fires about as often."""
    taken, found = set(ranked), []
    for spot in spots:
        order = by_rate[spot.site]
        place = order.index(spot.unit)
        near = sorted(range(len(order)), key=lambda i: abs(i - place))
        free = [spot._replace(unit=order[i]) for i in near]
        found.append(rng.choice([s for s in free if s not in taken][:20]))
        taken.add(found[-1])
    return found


def control(count, seed):
    return margins(switched_off(neighbours(ranked[:count], random.Random(seed))))


counts = [1, 4, 16, 64, 256]
ranked = estimate.top(max(counts))
untouched = margins([])
by_rank = torch.stack([margins(switched_off(ranked[:count])) for count in counts])
controls = torch.stack(  # [count, draw, verb]
    [torch.stack([control(count, seed) for seed in range(3)]) for count in counts]
)
print(f"{len(untouched)} verbs in {len(stories)} stories")
pd.DataFrame(
    {
        "neurons off": [0, *counts],
        "right verbs": [(m > 0).float().mean().item() for m in (untouched, *by_rank)],
        "right verbs, control": [(m > 0).float().mean().item() for m in (untouched, *controls)],
        "mean margin": [m.mean().item() for m in (untouched, *by_rank)],
        "mean margin, control": [m.mean().item() for m in (untouched, *controls)],
    }
).round(3)

# %%
import numpy as np

from arcee_lab.views.figures.curves import Line, lines

draws, x = controls.mean(-1), np.array(counts)  # [count, draw]
full = np.full(len(counts), float(untouched.mean()))
lines(
    [
        Line("ranked by attribution", x, by_rank.mean(-1).numpy()),
        Line(
            "others, mean ± SD of 3", x, draws.mean(-1).numpy(), ci_half_width=draws.std(-1).numpy()
        ),
        Line("none off", x, full, dashed=True, of=1),
    ],
    x="neurons switched off",
    y="logit of the right verb − wrong verb",
    title="Neurons that carry the number, and others, switched off",
    log_x=True,
)

# %% [markdown]
# ## Steer
#
# The difference between the two runs at the subject is a direction. Added to the singular
# sentence, at the subject alone, it should make the model say a plural verb; taken away from the
# plural one, a singular verb. A random direction of the same length is the control.

# %%
layer = int(stream.grid()[:, at_subject].argmax())
site = f"layers.{layer}.hook_resid_post"
with torch.no_grad(), al.capture(model, site, positions=at_subject) as in_plural:
    model(**clean)
with torch.no_grad(), al.capture(model, site, positions=at_subject) as in_singular:
    model(**corrupt)
direction = (in_plural[site] - in_singular[site])[:, 0].mean(0)
noise = torch.randn(len(direction), generator=torch.Generator().manual_seed(0)).to(direction)
noise *= direction.norm() / noise.norm()


def chance_of_plural(inputs, vector, alpha):
    edit = al.Add(site, vector, alpha, positions=at_subject)
    with torch.no_grad(), al.intervene(model, edit):
        logits = model(**inputs, logits_to_keep=1).logits[:, 0]
    return float(plural_odds(logits.float()).sigmoid().mean())


alphas = torch.linspace(-2, 2, 17)
curves = [
    (f"{name}, {kind}", torch.tensor([chance_of_plural(inputs, v, float(a)) for a in alphas]), of)
    for place, (name, inputs) in enumerate({"plural": clean, "singular": corrupt}.items())
    for kind, v, of in (("direction", direction, None), ("random", noise, 2 * place))
]
lines(
    [Line(name, alphas.numpy(), y.numpy(), dashed=of is not None, of=of) for name, y, of in curves],
    x=f"alpha, added at the subject in {site}",
    y="chance of a plural verb",
    title="Steering the number of the subject",
)

# %% [markdown]
# It holds in `generate` too: the edit acts on the prompt's subject, once, and the rest of the text
# follows from it.

# %%
prompt = tokenizer(pairs[0][1], return_tensors="pt").to(DEVICE)
settings = {"max_new_tokens": 8, "do_sample": False}
plain = model.generate(**prompt, **settings)
with al.intervene(model, al.Add(site, direction, 1.5, positions=at_subject)):
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
lm = al.to_nnsight(model, tokenizer)

with torch.no_grad(), lm.trace(**clean):
    patch = lm.layers[layer].hook_resid_post.output[:, at_subject].save()
with torch.no_grad(), lm.trace(**corrupt):
    lm.layers[layer].hook_resid_post.output[:, at_subject] = patch
    logits = lm.output.logits.save()
by_trace = plural_odds(logits[:, -1].float()).cpu()

place = layer * length + at_subject
by_sweep = stream.base + stream.effects[place]
print(stream.spots[place])
print(f"largest difference between the two: {(by_trace - by_sweep).abs().max():.0e}")

# %%
units = [spot.unit for spot in ranked[:64] if spot.site == ranked[0].site]
with torch.no_grad(), al.intervene(model, al.Ablate(ranked[0].site, units=units)):
    ours = model(**clean).logits
number = int(ranked[0].site.split(".")[1])
with torch.no_grad(), lm.trace(**clean):
    lm.layers[number].mlp.hook_post.output[..., units] = 0
    theirs = lm.output.logits.save()
print(f"{len(units)} neurons of layer {number} ablated, equal logits:", torch.equal(ours, theirs))

# %% [markdown]
# ## Next steps
#
# - Every kind of intervention and every condition: `docs/how-to/interventions.md`
# - Traces, batches of prompts, the stock model's names: `docs/how-to/nnsight.md`
# - This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
