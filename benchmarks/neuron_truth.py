"""What `al.neurons.find` and ablation say of the demo, next to its known truth.

    python benchmarks/neuron_truth.py [--part find|ablate|random] [--skill S] [--out FILE]

`find`: the best neuron of each of the world's concepts, chosen on one split of documents and
confirmed on another, next to shuffled labels and an untrained model.
`ablate`: 20 neurons per skill, chosen by attribution on validation documents, taken out on test
documents: the change of every skill, with its paired interval over documents.
`random`: 100 sets of 20 other neurons of equal firing rate, on the same skill.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import RESULTS, write_section

import arcee_lab as al
from arcee_lab.bootstrap import ratio_interval
from arcee_lab.demo import KINDS, Document, documents
from arcee_lab.demo.concepts import CONCEPTS
from arcee_lab.demo.tokenizer import PAD_ID
from arcee_lab.training.batches import encode
from arcee_lab.training.export import read_heads
from arcee_lab.training.recipe import Recipe
from arcee_lab.training.skills import Tally, _ask_heads, _ask_lm, _see

POST = "layers.*.mlp.hook_post"
MOST = 20  # neurons of a set
SETS = 100  # random sets
CHOSEN_ON = 96  # validation documents of each kind
LEAST = 1000  # questions per skill
# concept -> the skill that needs it, and the kind of document that asks for it
CAUSAL = {"plural subject in scope": ("agreement", "story"), "deep bracket": ("closer", "brackets")}
TEST = {"story": 3100, "passage": 4200, "review": 1000, "table": 600, "copy": 300, "brackets": 400,
        "clause": 1000, "facts": 300, "news": 600}  # fmt: skip


def demo() -> tuple[Any, Any, Any]:
    """The demo's model, its other heads, its tokenizer."""
    import arcee_lab.demo

    model, tokenizer = al.load("demo")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, read_heads(Path(arcee_lab.demo.__file__).parent / "checkpoint"), tokenizer


def found_units(model: Any, tokenizer: Any, *, n: int = 200, kinds: Sequence[str] = ()) -> Any:
    """One row per concept, as `Found.frame` gives them; the control is the recipe's own start."""
    import pandas as pd

    start = untrained_demo(model, tokenizer)
    frames = []
    for kind in kinds or dict.fromkeys(concept.kind for concept in CONCEPTS.values()):
        parts = [al.neurons.labels.demo(kind, part=p, n=n) for p in ("search", "confirmation")]
        found = al.neurons.find(
            model, tokenizer, parts[0], confirm=parts[1], untrained=start, batch_size=32
        )
        frames.append(found.frame())
    return pd.concat(frames, ignore_index=True)


def untrained_demo(model: Any, tokenizer: Any) -> Any:
    """The weights from which the demo was trained."""
    from arcee_lab.training.initial_weights import untrained

    config = model.config
    shape = Recipe(
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
    )
    return untrained(shape, tokenizer).eval()


# ---------------------------------------------------------------- which neurons a skill needs


def group(skill: str) -> str:
    """Skills that are one with more or less difficulty."""
    return skill.split(" ")[0]


def attributions(model: Any, tokenizer: Any, *, n: int) -> dict[str, torch.Tensor]:
    """For each skill, what taking out each neuron would cost, as a share of the mean margin.

    The margin is the logit of the right token minus that of the best other one (of the wrong
    choice, where there are two); to first order a neuron's part of it is activation times gradient.
    """
    sums: dict[str, torch.Tensor] = {}
    margins: dict[str, float] = {}
    for kind in KINDS:
        for items in _pieces(documents(kind, n=n, seed=11, split="validation"), 32):
            leaf = al.interventions.Replace("hook_embed", _leaf)
            ids, mask = _padded(encode(tokenizer, items))
            with (
                torch.enable_grad(),
                al.intervene(model, [leaf]),
                al.capture(model, POST, grad=True) as acts,
            ):
                logits = model(input_ids=ids, attention_mask=mask).logits
                posts = [acts[name] for name in acts]
                for skill, found in _margins(tokenizer, items, logits).items():
                    total = torch.stack(found).sum()
                    slopes = torch.autograd.grad(total, posts, retain_graph=True)
                    parts = [
                        (x.detach() * g).sum((0, 1)) for x, g in zip(posts, slopes, strict=True)
                    ]
                    sums[skill] = sums.get(skill, 0) + torch.stack(parts)
                    margins[skill] = margins.get(skill, 0.0) + float(total.detach())
    return {skill: total / margins[skill] for skill, total in sums.items()}


def neurons_of(skill: str, costs: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    """The neurons that a skill needs and others do not: its cost minus the largest other one."""
    others = torch.stack([x.clamp(min=0) for name, x in costs.items() if name != skill]).amax(0)
    width = others.shape[1]
    best = (costs[skill] - others).flatten().topk(MOST).indices.tolist()
    return [(i // width, i % width) for i in best]


def _margins(
    tokenizer: Any, items: list[Document], logits: torch.Tensor
) -> dict[str, list[torch.Tensor]]:
    found: dict[str, list[torch.Tensor]] = {}
    for row, item in enumerate(encode(tokenizer, items)):
        for slot in item.document.slots:
            first, last = item.token_at(slot.start), item.token_at(slot.end - 1)
            for place in range(first, last + 1):
                at, right = logits[row, place - 1], item.ids[place]
                if slot.other is not None and place == first:
                    (wrong,) = tokenizer.encode(slot.other, add_special_tokens=False)
                    margin = at[right] - at[wrong]
                else:
                    margin = at[right] - at.index_fill(0, torch.tensor([right]), -torch.inf).max()
                found.setdefault(group(slot.skill), []).append(margin)
    return found


def _leaf(x: torch.Tensor) -> torch.Tensor:
    return x.detach().clone().requires_grad_()


def _padded(items: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(item.ids) for item in items)
    ids = torch.full((len(items), longest), PAD_ID)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        mask[row, : len(item.ids)] = 1
    return ids, mask


def _pieces(items: list[Document], size: int) -> Iterator[list[Document]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


# ---------------------------------------------------------------- what their ablation costs


def taken_out(neurons: Sequence[tuple[int, int]]) -> list[Any]:
    """Interventions that set neurons to 0."""
    layers: dict[int, list[int]] = {}
    for layer, unit in neurons:
        layers.setdefault(layer, []).append(unit)
    return [al.Ablate(f"layers.{layer}.mlp.hook_post", units=u) for layer, u in layers.items()]


def answers(
    model: Any, heads: Any, tokenizer: Any, found: list[Document], neurons: Sequence
) -> list[Tally]:
    """Right answers of each document, with neurons taken out."""
    tallies = []
    with al.intervene(model, taken_out(neurons)):
        for seen in _see(model, tokenizer, found):
            tally = Tally()
            _ask_lm(tally, tokenizer, seen)
            if heads is not None:
                _ask_heads(tally, heads, seen)
            tallies.append(tally)
    return tallies


def changes(before: list[Tally], after: list[Tally]) -> dict[str, tuple[float, float, float, int]]:
    """For each skill: mean change, its paired 95 % interval over documents, and questions."""
    table = {}
    skills = {name for tally in before for name in tally.n if not name.startswith("best")}
    for skill in sorted(skills):
        rows = [(a.right.get(skill, 0) - b.right.get(skill, 0), b.n[skill])
                for b, a in zip(before, after, strict=True) if skill in b.n]  # fmt: skip
        gap, n = np.array(rows).T
        low, high = ratio_interval(gap[:, None].astype(float), n)[:, 0]
        table[skill] = float(gap.sum() / n.sum()), float(low), float(high), int(n.sum())
    return table


def ablated(
    model: Any, heads: Any, tokenizer: Any, sets: dict[str, list[tuple[int, int]]], scale: float = 1
) -> dict[str, dict[str, tuple[float, float, float, int]]]:
    """The changes of all skills for each set, on test documents."""
    tables: dict[str, dict] = {name: {} for name in sets}
    for kind, n in TEST.items():
        found = documents(kind, n=max(20, int(scale * n)), seed=0, split="test")
        before = answers(model, heads, tokenizer, found, [])
        for name, neurons in sets.items():
            after = answers(model, heads, tokenizer, found, neurons)
            tables[name] |= changes(before, after)
    return tables


def firing_rates(model: Any, tokenizer: Any, *, n: int = 200) -> torch.Tensor:
    """Share of tokens at which each neuron fires, `[layer, neuron]`, over all kinds."""
    with al.capture(model, {POST: al.reducers.FiringRate()}) as stats, torch.no_grad():
        for items in _pieces(documents(None, n=n, seed=13, split="validation"), 32):
            ids, mask = _padded(encode(tokenizer, items))
            model.model(input_ids=ids, attention_mask=mask)
    return torch.stack([stats[site].rates for site in stats])


def random_sets(rates: torch.Tensor, neurons: list[tuple[int, int]], sets: int) -> Iterator[list]:
    """Sets of other neurons; each has one of the 25 nearest firing rates to one of these."""
    draw = random.Random(0)
    width, flat = rates.shape[1], rates.flatten()
    mine = {layer * width + unit for layer, unit in neurons}
    for _ in range(sets):
        chosen: list[int] = []
        for layer, unit in neurons:
            near = (flat - rates[layer, unit]).abs().argsort(stable=True).tolist()
            free = [i for i in near if i not in mine and i not in chosen][:25]
            chosen.append(draw.choice(free))
        yield [(i // width, i % width) for i in chosen]


def random_drops(
    model: Any, tokenizer: Any, skill: str, kind: str, neurons: list, *, sets: int = SETS
) -> tuple[float, list[float], int]:
    """The drop of a skill without these neurons, without each random set, and the questions."""
    found = documents(kind, n=300 if kind == "story" else 250, seed=1, split="test")

    def right(without: Sequence) -> tuple[int, int]:
        tallies = answers(model, None, tokenizer, found, without)
        names = {name for t in tallies for name in t.n if group(name) == skill}
        return (sum(t.right.get(n, 0) for t in tallies for n in names),
                sum(t.n.get(n, 0) for t in tallies for n in names))  # fmt: skip

    rates = firing_rates(model, tokenizer)
    base, n = right([])
    drops = [(base - right(s)[0]) / n for s in random_sets(rates, neurons, sets)]
    return (base - right(neurons)[0]) / n, drops, n


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the parts and prints them; writes the section where all are run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("find", "ablate", "random"))
    parser.add_argument("--skill", choices=[skill for skill, _ in CAUSAL.values()])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model, heads, tokenizer = demo()
    body = []
    if args.part in (None, "find"):
        table = found_units(model, tokenizer)
        kept = ["label", "unit", "F1", "F1 low", "AUPRC", "AUROC", "base rate", "p", "F1 shuffled",
                "AUPRC shuffled", "F1 untrained", "AUPRC untrained", "confirmed", "n"]  # fmt: skip
        body.append(f"### {int(table['confirmed'].sum())} of {len(table)} concepts have a neuron\n")
        body.append(markdown(table[kept].round(3)))
    if args.part != "find":
        costs = attributions(model, tokenizer, n=CHOSEN_ON)
        sets = {skill: neurons_of(skill, costs) for skill, _ in CAUSAL.values()}
    if args.part in (None, "ablate"):
        for skill, rows in ablated(model, heads, tokenizer, sets).items():
            names = " ".join(f"L{layer}/N{unit}" for layer, unit in sets[skill])
            body.append(f"### Without {MOST} neurons chosen for {skill}\n\n{names}\n")
            lines = ["| skill | change | low | high | n |", "|---|---:|---:|---:|---:|"]
            lines += [f"| {s} | {m:+.3f} | {lo:+.3f} | {hi:+.3f} | {n:,} |"
                      for s, (m, lo, hi, n) in rows.items()]  # fmt: skip
            body.append("\n".join(lines))
    if args.part in (None, "random"):
        for skill, kind in CAUSAL.values():
            if args.skill not in (None, skill):
                continue
            mine, drops, n = random_drops(model, tokenizer, skill, kind, sets[skill])
            less = sum(drop < mine for drop in drops)
            body.append(
                f"{skill}: without its {MOST} neurons {mine:+.3f} of {n:,} answers are lost; "
                f"{less} of {len(drops)} random sets of equal firing rate lose less, the worst "
                f"of them {max(drops):+.3f}, on average {sum(drops) / len(drops):+.3f}."
            )
    print("\n\n".join(body))
    if args.part is None:
        write_section(
            "Neurons of the demo, next to its truth",
            body,
            command="python3 run.py bench neuron_truth",
            method="Neurons are chosen on validation documents and measured on test documents; "
            "intervals are over documents.",
            path=args.out,
        )


def markdown(table: Any) -> str:
    """A table without an index."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(str(x) for x in row) + " |" for row in table.to_numpy()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
