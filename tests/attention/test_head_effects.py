"""Ablation and patching of heads against one plain run each, and what copying on the demo needs."""

from itertools import combinations, islice

import pytest
import torch
from tiny_calls import batch_of, reference_of

import arcee_lab as al
from arcee_lab.attention import Induction, Offset
from arcee_lab.demo import stream
from arcee_lab.patching import LogitDifference, Spot, ablate_sweep

METRIC = LogitDifference(7, 11)


def plain(model, batch, changes, at=-1):
    """The metric of transformers' model; changes are (layer, head, tokens, value of z there)."""
    reference = reference_of(model)
    d = model.config.head_dim
    handles = []
    for layer, head, tokens, value in changes:

        def change(module, args, head=head, tokens=tokens, value=value):
            z = args[0].clone()
            some = slice(head * d, (head + 1) * d)
            z[..., some] = torch.where(tokens[..., None], value, z[..., some])
            return (z,)

        block = reference.model.layers[layer].self_attn.o_proj
        handles.append(block.register_forward_pre_hook(change))
    with torch.no_grad():
        logits = reference(**batch, use_cache=False).logits
    for handle in handles:
        handle.remove()
    rows = torch.arange(len(logits))
    columns = torch.stack([m.nonzero()[at, 0] for m in batch["attention_mask"]])
    return METRIC(logits[rows, columns])


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("value", ["zero", "mean"])
def test_every_cell_is_a_run_of_transformers_model(tiny, padding, value):
    model, batch = tiny(attn="eager", initializer_range=0.3), batch_of(padding=padding)
    real = batch["attention_mask"].bool()
    base = plain(model, batch, [])
    with torch.no_grad(), al.capture(model, "*hook_z") as acts:
        model(**batch)
    new = {
        layer: torch.zeros(4, 8) if value == "zero" else x[real].mean(0)
        for layer, x in enumerate(acts.values())
    }
    found = al.attention.ablate_heads(model, batch, METRIC, value=value, batch_size=5)
    places = al.attention.ablate_heads(model, batch, METRIC, value=value, by_position=True)
    assert found.grid("effect").shape == (3, 4)
    assert places.grid("effect").shape == (3, 9, 4)
    torch.testing.assert_close(found.base, base, atol=1e-5, rtol=1e-5)
    everything = []
    for layer in range(3):
        for head in range(4):
            change = (layer, head, real, new[layer][head])
            everything.append(change)
            effect = plain(model, batch, [change]) - base
            got = found.effects.view(3, 4, 2)[layer, head]
            torch.testing.assert_close(got, effect, atol=2e-5, rtol=1e-4)
            for position in (0, 5, 8):
                rank = real.cumsum(1) - 1
                there = real & (rank == position)
                effect = plain(model, batch, [(layer, head, there, new[layer][head])]) - base
                effect[~there.any(1)] = torch.nan
                got = places.effects.view(3, 9, 4, 2)[layer, position, head]
                torch.testing.assert_close(got, effect, atol=2e-5, rtol=1e-4, equal_nan=True)
    torch.testing.assert_close(found.source, plain(model, batch, everything), atol=2e-5, rtol=1e-4)


def test_all_heads_ablated_is_the_model_of_biases(tiny):
    """o_proj without its weight: what attention adds is its bias."""
    model, batch = tiny(attention_bias=True, initializer_range=0.3), batch_of()
    found = al.attention.ablate_heads(model, batch, METRIC)
    bare = reference_of(model)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.bias.normal_(generator=torch.Generator().manual_seed(0))
        bare = reference_of(model)
        for layer in bare.model.layers:
            layer.self_attn.o_proj.weight.zero_()
        logits = bare(**batch, use_cache=False).logits[:, -1]
    found = al.attention.ablate_heads(model, batch, METRIC)
    torch.testing.assert_close(found.source, METRIC(logits), atol=1e-5, rtol=1e-5)


def test_patched_heads_are_those_of_the_other_run(tiny):
    model, base, source = tiny(), batch_of(), batch_of(seed=5)
    found = al.attention.patch_heads(model, base, source, METRIC, layers=[0, 2], heads=[1, 3])
    whole = al.patch_sweep(model, base, source, METRIC, "layers.*.self_attn.hook_z", over="heads")
    expected = whole.grid("effect")[[0, 2]][:, [1, 3]]
    torch.testing.assert_close(found.grid("effect"), expected, atol=1e-5, rtol=1e-4)
    places = al.attention.patch_heads(
        model, base, source, METRIC, layers="layers.1", by_position=True, positions=[-1, 3]
    )
    assert places.grid().shape == (1, 2, 4)
    assert len(places.frame()) == 8
    assert places.figure().axes


def test_sweeps_of_other_sites_and_lists_of_spots(tiny):
    """Neurons, and the spots that another result names; a site whole."""
    model, batch = tiny(), batch_of(padding="right")
    post = "layers.1.mlp.hook_post"
    units = ablate_sweep(model, batch, METRIC, post, over="units", units=[3, 60])
    one = ablate_sweep(model, batch, METRIC, [Spot(post, unit=60)])
    torch.testing.assert_close(one.effects[0], units.effects[1], atol=1e-6, rtol=1e-4)
    with torch.no_grad(), al.intervene(model, [al.Ablate(post, units=[60])]):
        logits = model(**batch).logits[torch.arange(2), [8, 5]]
    torch.testing.assert_close(units.effects[1], METRIC(logits) - units.base, atol=1e-5, rtol=1e-4)
    whole = ablate_sweep(model, batch, METRIC, ["layers.0.hook_attn_out", "layers.2.hook_mlp_out"])
    assert whole.grid("effect").shape == (2,)
    assert "ablation" in whole.headline
    assert "all" in whole.headline
    torch.testing.assert_close(one.recovered, torch.ones(1), atol=1e-4, rtol=0)


BAD = {
    "batch size": ({"batch_size": 0}, "at least 1"),
    "head": ({"heads": 4}, "out of range"),
    "layer": ({"layers": 9}, "matches no hook point"),
    "position": ({"positions": 40, "by_position": True}, "out of range"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(tiny, case):
    settings, match = BAD[case]
    with pytest.raises(al.errors.ArceeLabError, match=match) as error:
        al.attention.ablate_heads(tiny(), batch_of(), METRIC, **settings)
    assert str(error.value).endswith(".")


# ------------------------------------------------------------------------------ the demo's truth


def copies(n, seed):
    """Documents in which a string of different syllables is said twice."""

    def plain(document):
        said = [word.text for word in document.words if word.tags.get("role") == "syllable"]
        return len(said) >= 6 and len(set(said)) == len(said) // 2

    return list(islice(filter(plain, stream("copy", seed=seed, split="test")), n))


class Copying:
    """How often the model names the second syllables, of all documents in one forward."""

    def __init__(self, model, tokenizer, found):
        self.model = model
        texts = [document.text for document in found]
        self.batch = tokenizer(
            texts, return_tensors="pt", padding=True, return_offsets_mapping=True
        )
        offsets = self.batch.pop("offset_mapping").tolist()
        self.asked = torch.zeros(self.batch["input_ids"].shape, dtype=torch.bool)
        for row, document in enumerate(found):
            for slot in document.slots:
                for column, (start, end) in enumerate(offsets[row]):
                    if slot.skill == "copy" and start < slot.end and end > max(start, slot.start):
                        self.asked[row, column] = True

    def without(self, heads=()):
        """The share that is right with some heads off."""
        edits = [al.Ablate(f"layers.{layer}.self_attn.hook_z", heads=[h]) for layer, h in heads]
        with torch.no_grad(), al.intervene(self.model, edits):
            said = self.model(**self.batch).logits.argmax(-1)
        right = said[:, :-1] == self.batch["input_ids"][:, 1:]
        return float(right[self.asked[:, 1:]].float().mean())


def test_the_induction_detector_marks_what_copying_needs(demo):
    """The four heads with the largest score carry copying; no other four after layer 0 do.

    Heads are chosen on 60 documents and ablated on 40 others. The controls are every fifth of the
    70 groups of four of the eight heads after them. Layer 0 is no control: its heads that look one
    and two tokens back feed the induction heads, and copying needs the first one too.
    """
    model, tokenizer = demo
    texts = [document.text for document in copies(60, 0)]
    detectors = [Induction(), Offset(1), Offset(2)]
    found = al.attention.detect(model, tokenizer, texts, repeats=0, detectors=detectors)
    marked = found.top("induction", 4)
    scores = found.scores("induction").flatten().sort(descending=True).values
    assert scores[3] > 2 * scores[4]  # the four are well above the rest
    assert {layer for layer, _ in marked} == {1}
    copying = Copying(model, tokenizer, copies(40, 1))
    assert int(copying.asked.sum()) >= 200
    others = [(layer, head) for layer in (2, 3) for head in range(4)]
    groups = list(combinations(others, 4))[::5]
    controls = [copying.without(group) for group in groups]
    assert len(controls) == 14
    whole, off = copying.without(), copying.without(marked)
    shown = f"n={int(copying.asked.sum())}, all heads {whole}, without the marked {off}, "
    shown += f"controls {min(controls)} to {max(controls)}"
    assert whole > 0.95, shown
    assert off < 0.2, shown
    assert min(controls) > 0.8, shown
    (previous,) = found.top("offset_1")
    assert previous[0] == 0
    assert copying.without([previous]) < 0.5, shown
