"""The demo with one fact of its cast changed by a short fine-tune of its MLPs, and what it knows.

The planted change: FACT is OLD in the demo's world and NEW after the fine-tune. The fine-tune is
plain: gradient steps on prompts of training documents that end before the value, next to documents
of every kind on which the model should stay as it is (a KL divergence). Selection and confirmation
use prompts of other splits of the world, which share no document.
"""

import copy
from itertools import islice

import torch
from torch.nn.functional import cross_entropy

from arcee_lab.demo import stream
from arcee_lab.demo.facts import FACTS, VALUES

SUBJECT, RELATION = "Jezo", "works as a"
FACT = f"{SUBJECT} {RELATION}"
OLD, NEW = "baker", "farmer"
assert FACTS[SUBJECT, RELATION] == OLD
assert NEW in VALUES[RELATION]


def fact_prompts(n: int, *, split: str, fact: str = FACT) -> list[str]:
    """Documents up to where they state the fact."""
    texts = (document.text for document in stream("facts", seed=1, split=split))
    found = (text[: text.index(fact) + len(fact)] for text in texts if f"{fact} " in text)
    return list(islice(found, n))


def batch_of_prompts(tokenizer, texts: list[str]) -> dict[str, torch.Tensor]:
    """Prompts as one padded batch."""
    encoded = tokenizer(texts, return_tensors="pt", padding=True)
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def ids_of(tokenizer, *words: str) -> list[int]:
    """The token of each word as it follows another."""
    return [tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in words]


def last_logits(model, batch):
    """Logits at the last token of each row, in plain torch."""
    logits = model(**batch).logits
    last = [int(row.nonzero().max()) for row in batch["attention_mask"]]
    return logits[torch.arange(len(last)), last]


def fine_tuned(
    model, tokenizer, *, steps: int, rate: float, keep: float = 5.0, optimizer: str = "sgd"
):
    """A copy of the model, its MLPs trained until the fact is NEW; everything else is frozen."""
    tuned = copy.deepcopy(model)
    tuned.requires_grad_(False)
    mlps = [p for name, p in tuned.named_parameters() if ".mlp." in name]
    for weight in mlps:
        weight.requires_grad_(True)
    if optimizer == "sgd":
        steppers = torch.optim.SGD(mlps, lr=rate, momentum=0.9)
    else:
        steppers = torch.optim.Adam(mlps, lr=rate)
    prompts = fact_prompts(64, split="train")
    facts = (d.text for d in stream("facts", seed=11, split="train") if FACT not in d.text)
    mixed = (d.text for d in stream(None, seed=11, split="train") if FACT not in d.text)
    source = torch.Generator().manual_seed(0)
    (new,) = ids_of(tokenizer, NEW)
    for _ in range(steps):
        picks = torch.randint(len(prompts), (8,), generator=source).tolist()
        batch = batch_of_prompts(tokenizer, [prompts[i] for i in picks])
        loss = cross_entropy(last_logits(tuned, batch), torch.full((8,), new))
        others = batch_of_prompts(tokenizer, [*islice(facts, 12), *islice(mixed, 4)])
        real = others["attention_mask"].bool()
        with torch.no_grad():
            before = model(**others).logits[real].log_softmax(-1)
        after = tuned(**others).logits[real].log_softmax(-1)
        (loss + keep * (before.exp() * (before - after)).sum(-1).mean()).backward()
        steppers.step()
        steppers.zero_grad()
    return tuned.requires_grad_(False)
