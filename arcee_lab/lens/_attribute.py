"""Direct logit attribution: a logit as a sum over what was added to the residual stream."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from arcee_lab.data.token_words import TokenWords
from arcee_lab.errors import SettingError
from arcee_lab.heads.targets import Given as Answer
from arcee_lab.heads.targets import Target, target_of
from arcee_lab.hooks.selection import Choice
from arcee_lab.lens.answers import require_known
from arcee_lab.lens.attribution import Attribution
from arcee_lab.lens.prompts import Given, Prompts
from arcee_lab.lens.streaming import each, run
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.neurons.weights.attribution import attribute_neurons
from arcee_lab.runs.arguments import checked


@checked
def attribute(
    model: nn.Module,
    tokenizer: Any,
    prompts: Given,
    target: Answer | Target,
    *,
    versus: Answer | None = None,
    positions: Choice = -1,
    by: str = "head",
) -> Attribution:
    """What the embedding, each head and each MLP add to a logit, directly.

    The last residual stream is a sum, and with the final norm's scale held at what it is in this
    run the logit is a product of that sum with one direction. So it is a sum of parts: of the
    embedding, of every attention and every MLP; each attention is a sum over heads (through
    `o_proj`), and each MLP one over its active neurons (through `down_proj`). In fp32 the parts add
    up to the model's logit; in half precision the model rounds at every addition, and `remainder`
    says by how much. What a part does through later parts is not in it.

    Parts are reduced while the model runs: no activation is kept, and of heads only one number per
    token. Works with every head, and inside `al.intervene`.

    Source of the method: Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021.

    Args:
        model: One of arcee_lab's models, with any head.
        tokenizer: Its tokenizer; may be None for a batch of tokens and targets that are ids.
        prompts: A text, a list of texts, or a batch with `input_ids` and `attention_mask`.
        target: Whose logit: an answer of one token, as text or id, or a label; a list has one per
            prompt. Of a question head "start", "end", or "span": the start logit at the first of
            two positions and the end logit at the second; the span's score is their sum.
        versus: Likewise, the logit that is subtracted.
        positions: Attended tokens at which the logit is read; the last by default, None for all. A
            sequence head has one at the last token alone.
        by: "head", or "neuron" for every neuron too: `[layer, batch, position, d_mlp]` numbers.

    Returns:
        The parts by label, the heads by layer, and the logit.

    Raises:
        ValueError: For a model without a head, an answer that is not one token, or positions that
            no prompt has.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> found = al.lens.attribute(
        ...     model, tokenizer, "The dogs near the door", " sleep", versus=" sleeps"
        ... )
        >>> bool((found.remainder.abs() < 1e-4).all())
        True
    """
    anatomy = anatomy_of(model)
    if by not in ("head", "neuron"):
        raise SettingError(f"by={by!r}; expected 'head' or 'neuron'.")
    if anatomy.legend.head == "causal":
        for given in (target, versus):
            require_known(tokenizer, given)
    meant = target_of(model, target, versus=versus, tokenizer=tokenizer)
    if meant.spots == 2 and not _is_pair(positions):
        raise SettingError(
            "A span is read at two tokens; give positions=(first, last), those of its start and "
            f"of its end; got positions={positions!r}."
        )
    if anatomy.legend.head == "sequence" and positions != -1:
        raise SettingError(
            f"A sequence head has a logit at the last token only; got positions={positions!r}."
        )
    asked = Prompts.read(anatomy, tokenizer, prompts, positions=positions)
    if meant.examples not in (None, len(asked.ids)):
        raise SettingError(
            f"The target names answers for {meant.examples} prompts, and there are "
            f"{len(asked.ids)}; give one per prompt, or one for all."
        )
    directions = meant.direction(model)
    shape = (1, 2, -1) if meant.spots == 2 else (-1, 1, directions.shape[-1])
    sums = _Sums(anatomy, asked, directions.reshape(shape), neurons=by == "neuron")
    run(anatomy, asked, sums.takers())
    offset = meant.offset(model).reshape(-1, 1)
    if meant.spots == 2:  # one for each of the two tokens
        sides = [target_of(model, side).offset(model) for side in ("start", "end")]
        offset = torch.stack(sides).reshape(1, 2)
    return sums.result(meant.name, offset, TokenWords(tokenizer, asked.tokens.cpu()))


def _is_pair(positions: Choice) -> bool:
    return isinstance(positions, tuple | list) and len(positions) == 2


class _Sums:
    """Products with a direction, taken while the model runs.

    Args:
        anatomy: Of the model.
        prompts: What it runs on.
        direction: `[1 or prompt, 1 or chosen, d_model]`: one for all, per prompt, or per token.
        neurons: Whether neurons are kept too.
    """

    def __init__(self, anatomy: Anatomy, prompts: Prompts, direction: Tensor, *, neurons: bool):
        self._anatomy, self._prompts, self._neurons = anatomy, prompts, neurons
        norm: Any = unwrap(anatomy.backbone.norm)
        self._along = direction * norm.weight.detach().to(direction)
        self._layers: list[Any] = [unwrap(layer) for layer in anatomy.backbone.layers]
        self._parts: list[Tensor] = []
        self._heads: list[Tensor] = []
        self._units: list[Tensor] = []
        self._total = self._scale = torch.empty(0)

    def takers(self) -> dict[str, Any]:
        """What to do at each site."""
        n = len(self._layers)
        found = {"hook_embed": self._part}
        for layer in range(n):
            at = f"layers.{layer}"
            found |= {f"{at}.hook_attn_out": self._part, f"{at}.hook_mlp_out": self._part}
        found |= each([f"layers.{i}.self_attn.hook_z" for i in range(n)], self._by_head)
        if self._neurons:
            found |= each([f"layers.{i}.mlp.hook_post" for i in range(n)], self._by_neuron)
        last = f"layers.{n - 1}.hook_resid_post"
        return found | {last: self._whole, "norm.hook_scale": self._scaled}

    def _along_at(self, x: Tensor) -> Tensor:
        """The direction next to an activation, in fp32 at least."""
        return self._along.to(x.device)

    def _dot(self, x: Tensor) -> Tensor:
        x = self._prompts.take(x)
        along = self._along_at(x)
        return (x.to(along.dtype) * along).sum(dim=-1).to(self._along.device)

    def _part(self, x: Tensor) -> None:
        self._parts.append(self._dot(x))

    def _whole(self, x: Tensor) -> None:
        self._total = self._dot(x)

    def _scaled(self, x: Tensor) -> None:
        self._scale = self._prompts.take(x)[..., 0].to(self._along)

    def _by_head(self, layer: int, z: Tensor) -> None:
        z = self._prompts.take(z)
        along = self._along_at(z)
        weight = effective_weight(unwrap(self._layers[layer].self_attn).o_proj).to(along)
        read = (along @ weight).unflatten(-1, z.shape[-2:])  # [1 or batch, 1 or pos, head, d_head]
        # Of each head a product of its own; a sum over a product of all would be as large as z.
        found = torch.einsum("bphd,bphd->bph", z.to(along.dtype), read)
        self._heads.append(found.to(self._along.device))

    def _by_neuron(self, layer: int, post: Tensor) -> None:
        post = self._prompts.take(post)
        down = effective_weight(unwrap(self._layers[layer].mlp).down_proj)
        along = self._along_at(post)
        found = attribute_neurons(post, down, along[0, 0] if along[..., 0].numel() == 1 else along)
        self._units.append(found.to(self._along.device))

    def _bias(self, linear: Any) -> Tensor:
        inner = getattr(linear, "base_layer", linear)
        bias = getattr(inner, "bias", None)
        if bias is None:
            return torch.zeros_like(self._scale)
        added = (self._along * bias.detach().to(self._along)).sum(dim=-1)
        return added.expand_as(self._scale)

    def result(self, name: str, offset: Tensor, text: Mapping[int, str]) -> Attribution:
        """Everything times the scale, on the CPU; NaN where a prompt has no such token."""
        scale, there = self._scale, self._prompts.there
        blank = ~there.to(scale.device)

        def done(x: Tensor, *, units: bool = False) -> Tensor:
            with_units = scale[..., None] if units else scale
            gone = blank[..., None] if units else blank
            return (x * with_units).masked_fill(gone, torch.nan).cpu()

        blocks = [unwrap(layer.self_attn) for layer in self._layers]
        mlps: list[Any] = [unwrap(layer.mlp) for layer in self._layers]
        heads = torch.stack([done(x, units=True) for x in self._heads])
        return Attribution(
            target=name,
            labels=labels_of(len(self._layers)),
            parts=torch.stack([done(x) for x in self._parts]),
            heads=heads.movedim(-1, 1),
            attn_bias=torch.stack([done(self._bias(block.o_proj)) for block in blocks]),
            neurons=torch.stack([done(x, units=True) for x in self._units])
            if self._neurons
            else None,
            mlp_bias=torch.stack([done(self._bias(mlp.down_proj)) for mlp in mlps]),
            head_bias=torch.zeros_like(scale)
            .add(offset.to(scale))
            .masked_fill(blank, torch.nan)
            .cpu(),
            logit=(self._total * scale + offset.to(scale)).masked_fill(blank, torch.nan).cpu(),
            scale=scale.masked_fill(blank, torch.nan).cpu(),
            tokens=self._prompts.tokens.cpu(),
            columns=self._prompts.chosen.cpu(),
            there=there.cpu(),
            text=text,
        )


def labels_of(layers: int) -> tuple[str, ...]:
    """What is added to the residual stream, in order."""
    return ("embed", *(f"L{i}/{what}" for i in range(layers) for what in ("attn", "mlp")))
