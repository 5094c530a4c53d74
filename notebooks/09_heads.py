# %% [markdown]
# # Heads: what a classification head reads
#
# A classification head says "person". What in the model does it say so from? This notebook takes a
# token head and asks in four ways: which parts add up to its answer, which neurons fire where it
# gives it, in which layer it can be read, and whether the direction that carries it decides it. It
# takes about a minute on one CPU core.
#
# As it is, it reads **the demo, a toy model**, whose token head labels names in news of a small
# generated world: its numbers show what the tools do, and nothing about AFM-4.5B. Write another
# model, and if you like your own texts, into the next cell; nothing else has to be changed. A model
# without a token head gets one with random weights, and a warning that its answers mean nothing:
# `arcee-lab train-head` trains one.

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
from arcee_lab.heads.targets import target_of

device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
model, tokenizer = al.load(MODEL, head="token", dtype=DTYPE, device=device)
lesson = al.lesson.build(model, tokenizer, texts=TEXTS)
labels = list(model.config.id2label.values())
print(*labels)
lesson

# %% [markdown]
# ## What the head predicts, as labels
#
# `predicted_labels` turns the head's answers into labels of tokens, which every search here takes.
# They are what the head says, right or wrong. Two of its labels are compared from here on: the one
# that begins a person's name and the one that begins an organisation's, or in another head the two
# that it predicts most often, apart from "O".

# %%
N = 80
if lesson.source == "demo":
    texts, others = (
        [document.text for document in al.demo.documents("news", n=N, split=split)]
        for split in ("validation", "test")
    )
else:
    texts, others = lesson.pieces[0 : 2 * N : 2], lesson.pieces[1 : 2 * N : 2]
with lesson.part("predictions"):
    said = al.directions.predicted_labels(model, tokenizer, texts)
    said_of_others = al.directions.predicted_labels(model, tokenizer, others)
    display(said.frame())
    often = said.frame().sort_values("spans", ascending=False)["label"].tolist()
    names = [name for name in often if name != "O" and name in said_of_others.names]
    names = sorted(names, key=lambda name: name not in ("B-PER", "B-ORG"))
    if len(names) < 2:
        raise al.errors.SettingError("this head predicts fewer than two labels on these texts.")
    one, other = sorted(names[:2], reverse=True)
    print(f"compared from here on: {one} and {other}")

# %% [markdown]
# ## What is meant by a label: a target
#
# Whatever explains an answer needs a number to explain. `target=` names it: a tag of a token head,
# a class of a sequence head, the start or the end of a span, or an answer of the vocabulary. Such
# a logit is a product of the final norm's output with a row of the head's weight, so a target is a
# direction too, and `versus=` makes it the difference of two rows.

# %%
with lesson.part("a target"):
    lesson.needs("predictions")
    # The first text in which the head says the first of the two labels, and the token where.
    number = next(i for i, spans in enumerate(said.spans[one]) if spans)
    column = int(said.tokens(tokenizer, one)[number].argmax())
    text, token = texts[number], lesson.tokens(texts[number])[column]
    person = target_of(model, one, versus=other)
    with torch.no_grad(), al.capture(model, ["hook_logits", "norm.hook_normalized"]) as acts:
        model(**lesson.batch(text))
    value = person.value(acts["hook_logits"], torch.tensor([column], device=device)).float()
    product = acts["norm.hook_normalized"][0, column] @ person.direction(model).to(model.dtype)
    product = product.float() + float(person.offset(model))
    print(f"{person.name} at {token!r}: {value.item():.2f} from the logits, "
          f"{product.item():.2f} from the direction")  # fmt: skip

# %% [markdown]
# ## Which parts add up to it?
#
# With the final norm's scale held, the difference of the two logits is a sum of what the embedding,
# each attention and each MLP write. These are the parts at that token, the largest first.

# %%
with lesson.part("parts"):
    lesson.needs("a target")
    parts = al.lens.attribute(model, tokenizer, text, one, versus=other, positions=column)
    table = parts.frame()
    whole = table[table["head"].isna()]
    bias = float(person.offset(model))
    print(f"they add up to {whole['logit'].sum():.2f}, the head's bias adds {bias:.2f}")
    display(whole.sort_values("logit", key=abs, ascending=False)[["label", "logit"]].head(6))

# %% [markdown]
# ## Which neurons fire where it gives a label?
#
# The search chooses neurons on one half of the texts and confirms them on the other. Two controls
# go through the same search: shuffled labels, and an untrained copy of the model.

# %%
with lesson.part("neurons"):
    lesson.needs("predictions")
    found = al.neurons.find(
        model,
        tokenizer,
        said,
        names=names[:3],
        confirm=said_of_others,
        shuffles=19,
        batch_size=32,
        progress=False,
    )
    print(f"{found.headline}.")
    display(found.figure())

# %% [markdown]
# ## In which layer can it be read?
#
# A direction is fitted at every layer. Where a label depends on the word alone, the first layers
# read it as well as the last; what later layers add is what the left context says.

# %%
with lesson.part("layers"):
    lesson.needs("predictions")
    read = al.directions.detect(
        model,
        tokenizer,
        said,
        one,
        method="ridge",
        confirm=said_of_others,
        batch_size=32,
        progress=False,
    )
    print(f"{read.headline}.")
    display(read.figure())

# %% [markdown]
# ## Does it decide?
#
# A direction that can be read need not be used. Among the tokens with one of the two labels alone,
# the direction is the difference of their means. It is added where the head says the other label,
# and success is a larger logit of the first. To replace the whole activation by that of a token
# with the first label is the most that can be reached, and a random direction of the same length
# the least.


# %%
def between(found):
    """Of each text, the spans with one of the two labels, and those with the first."""
    rows = zip(found.texts, found.spans[one], found.spans[other], strict=True)
    kept = [(text, first, second) for text, first, second in rows if first or second]
    return al.neurons.labels.spans(
        [text for text, _, _ in kept],
        {one: [first for _, first, _ in kept]},
        asked={one: [sorted([*first, *second]) for _, first, second in kept]},
    )


with lesson.part("steering"):
    lesson.needs("predictions")
    site = f"layers.{model.config.num_hidden_layers // 2}.hook_resid_post"
    direction = al.directions.mean_difference(
        model,
        tokenizer,
        between(said),
        one,
        site=site,
        confirm=between(said_of_others),
        batch_size=32,
        progress=False,
    )
    sides = [
        [
            text[:end]
            for text, spans in zip(others, said_of_others.spans[tag], strict=True)
            for _, end in spans[:1]
        ]
        for tag in (other, one)
    ]
    count = min(map(len, sides))
    curve = al.directions.steer(
        model,
        tokenizer,
        direction,
        sides[0][:count],
        target=one,
        versus=other,
        sources=sides[1][:count],
        batch_size=32,
        progress=False,
    )
    print(f"{curve.headline}.")
    display(curve.figure())
    display(curve.frame().round(3))

# %% [markdown]
# ## What to remember
#
# * A head's label is a row of its weight: exact, and the same for every tool through `target=`.
# * What the head says can be searched for like any other label. The search tells where the answer
#   is visible, the steering curve whether it is used, and the controls what both are worth.
# * `direction.save("person.safetensors")` keeps it, bound to this model; see
#   `docs/how-to/directions.md`.
# * This notebook on another model: `ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab`
