# %% [markdown]
# # Exercises: six questions about a model whose truth is known
#
# Each task has a cell for your answer and a check that knows the truth, which it measures on texts
# that you have not used. A solution is in the folded cell below each check: press the blue bar at
# its left. Answering takes as long as you like; running everything takes about 30 seconds on one
# CPU core.
#
# The questions are about **the demo, a toy model** of a small generated world. They can be put to
# another model too: write it into the next cell; nothing else has to be changed. Then the truth is
# only what the check measures, and may be that a model has no such neuron or head.

# %% tags=["parameters"]
import os

MODEL = os.environ.get("ARCEE_LAB_MODEL", "demo")  # a folder or a Hub id works too
DEVICE = None  # such as "cuda"; None takes the GPU if there is one
DTYPE = None  # such as "bfloat16"; None takes the checkpoint's own
TEXTS = None  # yours: a text, a list of texts, or {"kind": [texts]}; None takes the lesson's

# %%
import torch

import arcee_lab as al

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
model, tokenizer = al.load(MODEL, dtype=DTYPE, device=device)
lesson = al.lesson.build(model, tokenizer, texts=TEXTS)
LAYERS, HEADS = model.config.num_hidden_layers, model.config.num_attention_heads
PROMPT = "Kresto likes" if lesson.source == "demo" else lesson.prompt
lesson

# %% [markdown]
# The checks are in the next cell, which is folded. They measure, so they tell how far off an answer
# is; reading them gives nothing away.


# %% jupyter={"source_hidden": true}
def next_token(edits=()):
    """The probabilities of the token after PROMPT."""
    with torch.no_grad(), al.intervene(model, list(edits)):
        return model(**lesson.batch(PROMPT)).logits[0, -1].float().softmax(-1).cpu()


def off(name):
    """What switches a neuron or a head off, by its name."""
    layer, index = name.split("/")
    if index[0] == "H":
        return al.Ablate(f"layers.{layer[1:]}.self_attn.hook_z", heads=[int(index[1:])])
    return al.Ablate(f"layers.{layer[1:]}.mlp.hook_post", units=[int(index[1:])])


def copied_right(heads, texts):
    """The share of repeated words that the model gets right without some heads."""
    batch = texts.batch(device=device)
    with torch.no_grad(), al.intervene(model, [off(name) for name in heads]):
        said = model(**batch).logits.argmax(-1).cpu()
    rows, columns = texts.asked.nonzero(as_tuple=True)
    truth = texts.input_ids[rows, texts.answer[rows, columns]]
    return float((said[rows, columns] == truth).float().mean())


def check_plural(answer):
    layer = answer.split("/")[0][1:]
    others = lesson.labels("confirmation", n=80)
    found = al.neurons.find(
        model, tokenizer, others, names=["plural noun"], top=20, shuffles=0, untrained=False,
        sites=f"layers.{layer}.mlp.hook_post", batch_size=32,
    )  # fmt: skip
    scores = {unit.name: unit.f1 for unit in found["plural noun"].units}
    f1 = scores.get(answer, 0.0)
    return f1 >= 0.75, f"F1 {f1:.2f} on other texts" if f1 else "not among the best of its layer"


def check_silent(answer):
    run = al.neurons.exemplars(model, tokenizer, lesson.texts, layers=0, top=1, batch_size=32)
    return answer == int((run.fired(0) == 0).sum()), f"N = {run.n_tokens:,} tokens"


def check_fact(answer):
    before = next_token()
    best = int(before.argmax())
    lost = float(before[best] - next_token([off(answer)])[best])
    word = tokenizer.decode([best]).strip()
    told = f"it takes {lost:.1%} off “{word}” ({before[best]:.1%})"
    return before[best] > 0.05 and lost >= 0.5 * float(before[best]), told


def check_previous(answer):
    looks = al.attention.detect(model, tokenizer, lesson.pieces[:80], repeats=0)
    scores, even = looks.scores("offset_1", "texts"), looks.found["texts"]["offset_1"].even
    layer, head = (int(part[1:]) for part in answer.split("/"))
    score, most = float(scores[layer, head]), float(scores.nan_to_num().max())
    told = f"mean weight {score:.2f} one token back, where even attention is {even:.2f}"
    return score >= 0.8 * most and score > 2 * even, told


def check_depth(answer):
    lens = al.lens.logit_lens(
        model, tokenizer, PROMPT, answers=int(next_token().argmax()), positions=-1
    )
    first = lens.labels[int(lens.first_site()[0, 0, 0])]
    return answer == first, f"the ranks are {lens.ranks[:, 0, 0, 0].tolist()}"


def check_copy(answer):
    texts = lesson.copies(40, seed=7)
    whole, without = copied_right([], texts), copied_right(answer, texts)
    few = 1 <= len(answer) <= 4
    return (
        few and whole > 0.1 and without <= whole / 2,
        f"{whole:.0%} right with them, {without:.0%} without",
    )


def check(task, answer):
    """Says whether an answer is right, in one line."""
    if answer is None:
        print("No answer yet: write one into the cell above, or unfold the solution below.")
        return
    with lesson.part(task.__name__):
        right, why = task(answer)
        print(f"{'Right' if right else 'Not yet'}: {why}.")


# %% [markdown]
# The explorer is open for all tasks, with a run over the lesson's texts.

# %%
run = al.neurons.exemplars(model, tokenizer, lesson.texts, batch_size=32)
explorer = al.explore(model, tokenizer, run, text=PROMPT)
explorer

# %% [markdown]
# ## 1. Which neuron marks plural nouns?
#
# A neuron that fires on "dogs", and not on "dog" or "sleep". Search the table for nouns in the
# plural, or use `al.neurons.find` with `lesson.labels("search")`.

# %%
plural = None  # such as "L1/N32"
check(check_plural, plural)

# %% jupyter={"source_hidden": true} tags=["solution"]
with lesson.part("labels of plural nouns"):
    found = al.neurons.find(
        model, tokenizer, lesson.labels("search", n=80), names=["plural noun"], shuffles=0,
        untrained=False, batch_size=32,
    )  # fmt: skip
    print(found["plural noun"].best.name)
    check(check_plural, found["plural noun"].best.name)

# %% [markdown]
# ## 2. How many neurons of layer 0 never fire on these texts?
#
# Not "seldom": never. Sort the table by rate, or count with `run.fired`.

# %%
silent = None  # a number
check(check_silent, silent)

# %% jupyter={"source_hidden": true} tags=["solution"]
silent = int((run.fired(0) == 0).sum())
print(silent, "of", run.d_mlp)
check(check_silent, silent)

# %% [markdown]
# ## 3. Which neuron holds a fact?
#
# Type the prompt of the explorer's text field. One single neuron takes more than half of the
# probability off the model's next token when it is switched off. Which one? The tab *Text* lists
# the neurons that write most; *Switch off* tells what each does.

# %%
fact = None  # such as "L1/N32"
check(check_fact, fact)

# %% jupyter={"source_hidden": true} tags=["solution"]
with lesson.part("the fact"):
    best = int(next_token().argmax())
    made = al.lens.attribute(model, tokenizer, PROMPT, best, by="neuron")
    made = made.top_neurons(min(30, model.config.num_hidden_layers * run.d_mlp))
    lost = {
        name: float(next_token()[best] - next_token([off(name)])[best]) for name in made["label"]
    }
    fact = max(lost, key=lost.get)
    print(fact)
    check(check_fact, fact)

# %% [markdown]
# ## 4. Which head looks one token back?
#
# Open *Attention*: such a head is a line just below the diagonal. `al.attention.detect` scores all
# heads.

# %%
previous = None  # such as "L1/H3"
check(check_previous, previous)

# %% jupyter={"source_hidden": true} tags=["solution"]
with lesson.part("the head before"):
    looks = al.attention.detect(model, tokenizer, lesson.pieces[:40], repeats=0)
    layer, head = looks.top("offset_1", 1, source="texts")[0]
    print(f"L{layer}/H{head}")
    check(check_previous, f"L{layer}/H{head}")

# %% [markdown]
# ## 5. After which layer is the answer there?
#
# The first place in the residual stream from which on the model's own next token is the strongest,
# as the tab *Lens* names it: "L1/mid" is after the attention of layer 1, "L1/post" after its MLP.

# %%
depth = None  # such as "L1/post"
check(check_depth, depth)

# %% jupyter={"source_hidden": true} tags=["solution"]
best = int(next_token().argmax())
lens = al.lens.logit_lens(model, tokenizer, PROMPT, answers=best, positions=-1)
depth = lens.labels[int(lens.first_site()[0, 0, 0])]
print(depth)
check(check_depth, depth)

# %% [markdown]
# ## 6. Which heads copy?
#
# `lesson.copies()` are texts that say a string twice: the second time, the model can look the next
# word up. Find at most four heads without which it gets fewer than half as many right. Each one
# alone may be dispensable, because others do the same work.

# %%
copying = None  # such as ["L0/H0", "L3/H2"]
check(check_copy, copying)

# %% jupyter={"source_hidden": true} tags=["solution"]
with lesson.part("copying"):
    texts = lesson.copies(40)
    looks = al.attention.detect(model, tokenizer, list(texts.texts), repeats=0)
    heads = min(4, model.config.num_hidden_layers * model.config.num_attention_heads)
    top = looks.top("induction", heads, source="texts")
    copying = [f"L{layer}/H{head}" for layer, head in top]
    print(copying)
    print({name: round(copied_right([name], texts), 2) for name in copying}, "right without one")
    check(check_copy, copying)

# %% [markdown]
# Next steps: put the same questions to another model, by changing `MODEL`; and see
# [attention and lenses](08_attention_and_lenses.ipynb) for the whole story of copying.
