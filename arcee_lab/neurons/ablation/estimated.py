"""`ablation_estimate`: how the NLL would change without each neuron, from one backward."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import Windows
from arcee_lab.errors import SettingError, TextError
from arcee_lab.interventions import Replace, intervene
from arcee_lab.neurons.ablation.outcome import AblationEstimate
from arcee_lab.neurons.search.streaming import device_of
from arcee_lab.neurons.weights._effects import chosen
from arcee_lab.neurons.weights.projection import causal_anatomy
from arcee_lab.recording.capturing import capture
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar

HOW = ("zero", "mean")


@checked
def ablation_estimate(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    how: str = "zero",
    layers: int | Sequence[int] | None = None,
    context: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    progress: bool | None = None,
) -> AblationEstimate:
    """How the NLL of texts would change without each neuron, to first order.

    The estimate is `Σ (what is put in place - a) · ∂NLL/∂a` over tokens: attribution patching
    (Nanda 2023) with an ablation as the source. One forward and one backward serve all neurons, and
    a neuron that is off adds nothing to "zero". It errs where the NLL bends, so ablate what it
    ranks highest. For "mean" there is one pass more, for the means over all tokens but first ones.

    Args:
        model: One of arcee_lab's language models; its parameters get no gradient.
        tokenizer: Its tokenizer.
        texts: The documents, or windows of them.
        how: "zero" or "mean".
        layers: Layers, negative from the end; all by default.
        context: Longest window in tokens; by default 1024, or what the model can read if less.
        max_tokens: Tokens to read at most; None reads all.
        batch_size: Windows per forward; the activations of all layers are held.
        progress: Whether to show a bar with forwards on stderr.

    Returns:
        One number per neuron.

    Raises:
        ModelError: The model is no language model.
        SettingError: A layer or a setting out of range.
        TextError: The texts hold no token to predict.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = [document.text for document in al.demo.documents("story", n=4)]
        >>> estimate = al.neurons.ablation_estimate(model, tokenizer, texts)
        >>> len(estimate.top(20))
        20
    """
    if how not in HOW:
        raise SettingError(f"how={how!r}; expected one of {', '.join(HOW)}.")
    if batch_size < 1:
        raise SettingError(f"batch_size is {batch_size} windows; expected at least 1.")
    anatomy = causal_anatomy(model, what="al.neurons.ablation_estimate")
    numbers = chosen(layers, len(anatomy.backbone.layers), what="layers")
    windows = windows_of(anatomy.model, tokenizer, texts, context=context, max_tokens=max_tokens)
    sites = [f"layers.{number}.mlp.hook_post" for number in numbers]
    device = device_of(anatomy)
    slopes: Any = 0.0  # sums of a·g, of g, and of a over tokens that are not first, by layer
    tokens = counted = 0
    rounds = -(-len(windows) // batch_size)
    with progress_bar(show=progress, total=rounds, unit="forward") as bar:
        for batch in windows.batches(batch_size):
            ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
            leaf = Replace("hook_embed", _leaf)  # gradients, whether or not parameters want any
            with (
                torch.enable_grad(),
                intervene(model, [leaf]),
                capture(model, sites, grad=True) as acts,
            ):
                logits = anatomy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                targets = ids[:, 1:].masked_fill(mask[:, 1:] * mask[:, :-1] == 0, -100)
                wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
                loss = nn.functional.cross_entropy(
                    wide.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
                )
                posts = [acts[site] for site in sites]
                gradients = torch.autograd.grad(loss, posts)
            real = batch.attention_mask.bool()
            here = real & ~batch.first
            with torch.no_grad():
                rows = [_sums(x, g, real, here) for x, g in zip(posts, gradients, strict=True)]
            slopes = slopes + torch.stack(rows)
            tokens += int((real[:, 1:] & real[:, :-1]).sum())
            counted += int(here.sum())
            bar.update()
    if not tokens:
        raise TextError("the texts hold no token to predict; expected two tokens or more.")
    change = -slopes[:, 0]
    if how == "mean":
        change = change + slopes[:, 2] / max(1, counted) * slopes[:, 1]
    return AblationEstimate(tuple(numbers), how, (change / tokens).cpu(), tokens)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def _sums(x: Tensor, gradient: Tensor, real: Tensor, here: Tensor) -> Tensor:
    """Sums of x·g and of g over real tokens, and of x over some of them, `[3, d_mlp]`."""
    x, gradient = x.double(), gradient.double()
    weights = [mask.to(x.device, torch.float64) for mask in (real, here)]
    found = [
        torch.einsum("bpu,bp->u", values, weight)
        for values, weight in ((x * gradient, weights[0]), (gradient, weights[0]), (x, weights[1]))
    ]
    return torch.stack(found).cpu()
