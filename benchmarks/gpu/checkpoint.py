"""A checkpoint that the user names: self-check, parity, sparsity and one chat prompt."""

from functools import cached_property, partial
from typing import Any

import torch

import arcee_lab as al
from arcee_lab.model.checks.selfcheck import require_self_check
from arcee_lab.model.loading import find_checkpoint
from benchmarks.gpu import shapes
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Found, Row, Skipped

_PROMPT = "Name three uses of a lighthouse, one sentence each."


class Named:
    """The checkpoint, loaded once."""

    def __init__(self, name: str, place: Place):
        self.name, self.place = name, place

    @cached_property
    def both(self) -> tuple[Any, Any]:
        """The model and its tokenizer."""
        model, tokenizer = al.load(self.name)
        return model.to(self.place.device), tokenizer

    def forget(self) -> None:
        """Gives the memory back."""
        self.__dict__.pop("both", None)


def _self_check(place: Place, found: Found, *, named: Named) -> None:
    found.aim = "the arithmetic of its weights, within rounding"
    checked = require_self_check(named.both[0])
    found.measured |= {"checked": str(checked), "dtype": str(named.both[0].dtype)}


@torch.no_grad()
def _parity(place: Place, found: Found, *, named: Named) -> None:
    from transformers.models.arcee.modeling_arcee import ArceeForCausalLM

    ours, tokenizer = named.both
    folder = find_checkpoint(named.name)
    theirs = ArceeForCausalLM.from_pretrained(folder, dtype=ours.dtype).to(place.device).eval()
    theirs.set_attn_implementation(ours.config._attn_implementation)
    inputs = tokenizer(_PROMPT, return_tensors="pt").to(place.device)
    mine, other = ours(**inputs).logits, theirs(**inputs).logits
    found.aim = "torch.equal"
    found.measured["logits differ"] = float((mine - other).abs().max())
    found.measured["relative"] = shapes.away(mine, other)
    assert torch.equal(mine, other), "logits differ"


def _sparsity(place: Place, found: Found, *, named: Named) -> None:
    from itertools import islice

    from arcee_lab.demo import stream

    texts = [document.text for document in islice(stream(None, seed=0, split="test"), 200)]
    limit = 256 if place.dry else 8192
    report = al.sparsity.measure(*named.both, texts, analyses=["core"], max_tokens=limit)
    found.measured["headline"] = str(report.headline)


def _chat(place: Place, found: Found, *, named: Named) -> None:
    model, tokenizer = named.both
    if not tokenizer.chat_template:
        raise Skipped("its tokenizer has no chat template")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": _PROMPT}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).to(place.device)
    ids = model.generate(**inputs, max_new_tokens=8 if place.dry else 96, do_sample=False)
    found.measured["answer"] = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])


def rows(named: Named) -> list[Row]:
    """The user asked for them, so each of them counts but for the chat prompt."""
    return [
        Row("checkpoint: self-check", partial(_self_check, named=named), core=True),
        Row("checkpoint: parity", partial(_parity, named=named), core=True),
        Row("checkpoint: sparsity", partial(_sparsity, named=named), packages=("pandas",)),
        Row("checkpoint: chat", partial(_chat, named=named), newer=True),
    ]
