"""Neurons at AFM-4.5B's full shape: effects, search, ablation and its estimate, pages."""

import copy
import random
from functools import partial
from typing import Any

import torch

import arcee_lab as al
from arcee_lab.neurons.pages.values import read_values, spots_of
from benchmarks.gpu.cost import Large
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Found, Row

_LETTERS = "abcdefghijklmnopqrstuvwxyz "


def letters() -> Any:
    """One token per letter; the models here have random weights and no tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: number for number, letter in enumerate(_LETTERS)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    )


def letter_texts(n: int, length: int) -> list[str]:
    """Random letters, each text with a vowel at its end."""
    draw = random.Random(0)
    return ["".join(draw.choice(_LETTERS) for _ in range(length)) + "a" for _ in range(n)]


def _timed(place: Place, found: Found, work: Any) -> None:
    found.measured |= {"s": place.seconds(work, repeats=1), "peak bytes": place.peak(work)}


def _effects(place: Place, found: Found, *, large: Large) -> None:
    """One layer, all its neurons."""
    found.aim = "finite moments"
    model = large.model

    def work() -> Any:
        return al.neurons.effects(model, layers=-1)

    effects = work()
    assert bool(effects.kurtosis.isfinite().all()), "moments are not finite"
    found.measured["neurons"] = len(effects.units)
    _timed(place, found, work)


def _find(place: Place, found: Found, *, large: Large) -> None:
    """All neurons of all layers against one label, with shuffled labels."""
    found.aim = "a unit of the label, from counts of all units"
    n, length = (8, 20) if place.dry else (32, 255)
    labels = al.neurons.labels.regex(letter_texts(n, length), {"vowel": "[aeiou]"})
    settings = {"untrained": False, "progress": False}

    def work() -> Any:
        return al.neurons.find(large.model, letters(), labels, **settings)

    result = work()
    assert 0 < result["vowel"].best.f1 <= 1
    found.measured |= {"units": result.searched, "tokens": result.search_tokens}
    _timed(place, found, work)


def _ablate(place: Place, found: Found, *, large: Large) -> None:
    """As many neurons as rows of a forward; one of them next to `al.intervene`."""
    found.aim = "<= 2^-6 nats per token from one neuron alone"
    model, tokenizer = large.model, letters()
    texts = letter_texts(2, 20 if place.dry else 127)
    units = [(0, unit) for unit in range(4 if place.dry else 32)]

    def work() -> Any:
        return al.neurons.ablate(model, tokenizer, units, texts, progress=False)

    result = work()
    with al.intervene(model, [al.Ablate("layers.0.mlp.hook_post", units=[3])]):
        alone = al.neurons.ablate(model, tokenizer, [(1, 3)], texts, progress=False)
    # The same texts in batches of other shapes: bf16 logits round by 2^-9 of themselves, and the
    # mean of many such errors is far below one of them.
    gap = abs(float(result.nll[3].sum() - alone.base.sum())) / float(result.tokens.sum())
    found.measured["NLL apart, nats per token"] = gap
    assert gap <= 2**-6, "ablated in a batch, a neuron has another effect than alone"
    found.measured["neurons"] = len(units)
    _timed(place, found, work)


def _estimate(place: Place, found: Found, *, large: Large) -> None:
    """Every neuron's ablation to first order: a forward and a backward."""
    found.aim = "finite estimates"
    texts = letter_texts(2, 20 if place.dry else 255)

    def work() -> Any:
        return al.neurons.ablation_estimate(large.model, letters(), texts, progress=False)

    with torch.enable_grad():
        result = work()
    assert bool(result.change.isfinite().all()), "estimates are not finite"
    found.measured["neurons"] = result.change.numel()
    _timed(place, found, work)


def _transplant(place: Place, found: Found, *, large: Large) -> None:
    """Neurons of a layer exchanged with those of a copy that has one other MLP, and put back."""
    found.aim = "logits of the copy, bit for bit, and the base as before"
    model = large.model
    mlp = model.model.layers[-1].mlp
    width = mlp.down_proj.weight.shape[1]
    other = copy.copy(model)  # shares all weights but those of one MLP
    other._modules = dict(model._modules)
    other.model = _with_last_mlp(model.model, copy.deepcopy(mlp))
    with torch.no_grad():
        other.model.layers[-1].mlp.down_proj.weight.mul_(-1)
    ids = torch.arange(8, device=model.device)[None]
    neurons = [(len(model.model.layers) - 1, unit) for unit in range(width)]
    before = model(input_ids=ids).logits

    def work() -> Any:
        with al.neurons.transplant(model, other, neurons):
            return model(input_ids=ids).logits

    assert torch.equal(work(), other(input_ids=ids).logits), "the transplant is not the copy"
    assert torch.equal(model(input_ids=ids).logits, before), "the base was not put back"
    found.measured["neurons"] = width
    _timed(place, found, work)


def _with_last_mlp(backbone: Any, mlp: Any) -> Any:
    """The backbone with another MLP in its last layer; everything else is shared."""
    last = copy.copy(backbone.layers[-1])
    last._modules = dict(last._modules) | {"mlp": mlp}
    twin = copy.copy(backbone)
    twin._modules = dict(backbone._modules)
    twin.layers = torch.nn.ModuleList([*backbone.layers[:-1], last])
    return twin


def _values(place: Place, found: Found, *, large: Large) -> None:
    """Values per token of exemplars, as pages show them: next to a capture of the same windows."""
    found.aim = "<= 2^-4 of a neuron's largest relu(u), in batches of other shapes"
    model, tokenizer = large.model, letters()
    texts = letter_texts(4, 20 if place.dry else 255)
    run = al.neurons.exemplars(model, tokenizer, texts, layers=0, progress=False)
    units = [(0, unit) for unit in range(4 if place.dry else 256)]
    pages = [al.neurons.page(run, *unit, tokenizer=tokenizer) for unit in units]
    shown = [(page, x) for page in pages for x in page.top]
    spots = spots_of([(page.layer, page.unit) for page, _ in shown], [x for _, x in shown])

    def work() -> Any:
        return read_values(run, model, spots)

    values = work()
    gap = max(
        abs(float(row[x.peak]) ** 0.5 - x.value**0.5) / page.maximum**0.5
        for row, (page, x) in zip(values, shown, strict=True)
    )
    found.measured |= {"neurons": len(units), "gap": gap}
    # relu(u) in bf16 has steps of 2^-8, and a sum in another order moves it by a few of them.
    assert gap <= 2**-4, "a value differs from the one that the run kept"
    _timed(place, found, work)


def rows(large: Large) -> list[Row]:
    """None is core: they add no kernel of their own."""
    works = {"effects of a layer": _effects, "find": _find, "ablate": _ablate,
             "ablation_estimate": _estimate, "values per token": _values,
             "transplant of a layer": _transplant}  # fmt: skip
    return [
        Row(f"neurons: {name}", partial(work, large=large), packages=("pandas", "tokenizers"))
        for name, work in works.items()
    ]
