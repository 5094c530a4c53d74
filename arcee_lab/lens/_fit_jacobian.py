"""Fits a Jacobian lens: the mean derivative of the last residual stream by that at each site."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import PaddedBatch, Windows
from arcee_lab.errors import SettingError, TextError
from arcee_lab.hooks.watch import Watch
from arcee_lab.lens.held_out import Teacher, mapped_sites, split
from arcee_lab.lens.tuned import JACOBIAN, TunedLens
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar


@checked
def fit_jacobian(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    sites: str | Sequence[str] = "layers.*.hook_resid_post",
    skip: int = 16,
    held_out: float = 0.1,
    context: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> TunedLens:
    """Fits a Jacobian lens on texts, and measures it and the plain lens on others of them.

    At each site the stream x becomes `J x` before the final norm and the head. J is what a small
    change of the stream does to the last residual stream, at its own token and at all later ones:
    the derivative, summed over the tokens that it acts on, and averaged over the tokens that are
    changed and over windows. Nothing is trained: where a tuned lens finds what can be read off a
    stream, this one says what the model itself goes on to make of it. The model is not changed, and
    its parameters get no gradient. A batch of windows takes one forward, and one backward for each
    of the d_model numbers of the stream.

    Source: Gurnee et al., "Verbalizable Representations Form a Global Workspace in Language
    Models", Transformer Circuits Thread, 2026.

    Args:
        model: An Arcee causal LM.
        tokenizer: Its tokenizer.
        texts: Documents, or windows of `al.data.cut`.
        sites: Residual sites, as filters; by default each layer after its MLP. The last needs none.
        skip: Tokens at the beginning of each window that are left out; the last token always is.
        held_out: Share of the documents that the fit does not read, at least one document.
        context: Tokens per window; by default as long as suits the model.
        max_tokens: Most tokens to read of the texts.
        batch_size: Windows per forward.
        seed: Of the choice of documents.
        progress: Whether to show a bar with batches on stderr.

    Returns:
        The lens, with the KL divergence of both lenses at each site on the held-out documents; its
        maps are `J - 1` `[d_model, d_model]` and its shifts 0.

    Raises:
        ValueError: For a model without an LM head, a single document, numbers out of range, or
            windows that are all too short for `skip`.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = ["The dogs near the door sleep .", "The kings behind the clock sleep ."]
        >>> lens = al.lens.fit_jacobian(
        ...     model, tokenizer, texts, sites="layers.2.hook_resid_post", skip=1, held_out=0.5
        ... )
        >>> lens.kind
        'Jacobian lens'
    """
    anatomy = anatomy_of(model)
    if skip < 0 or not 0 < held_out < 1:
        raise SettingError(
            f"skip={skip} and held_out={held_out}; expected at least 0 tokens, and a share between "
            "0 and 1."
        )
    names, last = mapped_sites(anatomy, sites, kind=JACOBIAN)
    windows = windows_of(anatomy.model, tokenizer, texts, context=context, max_tokens=max_tokens)
    batches, held = split(windows, batch_size, held_out, seed, kind=JACOBIAN)
    width = anatomy.size("d_model")
    sums = {name: torch.zeros(width, width, device=anatomy.model.device) for name in names}
    read = 0
    for batch in progress_bar(batches, show=progress, unit="batch"):
        read += _add(anatomy, batch, [*names, last], skip, sums)
    if not read:
        raise TextError(
            f"No window has {skip + 2} tokens, {skip} to skip, one to read and the last; give "
            "longer texts, or a smaller skip."
        )
    one = torch.eye(width, device=anatomy.model.device)
    shift = torch.zeros(width, device=anatomy.model.device)
    maps = {name: (total / read - one, shift) for name, total in sums.items()}
    plain, ours, tokens = Teacher(anatomy, names, last).divergences(held, maps)
    return TunedLens(
        kind=JACOBIAN,
        sites=tuple(names),
        maps=tuple(maps[name][0].cpu() for name in names),
        shifts=tuple(maps[name][1].cpu() for name in names),
        fingerprint=model_fingerprint(model),
        model=model_name(model),
        plain_kl=plain,
        tuned_kl=ours,
        tokens=tokens,
        settings={
            "skip": skip,
            "held_out": held_out,
            "batch_size": batch_size,
            "seed": seed,
            "fitted_windows": read,
        },
    )


class _Graph(Watch):
    """Keeps streams together with the graph that they come from."""

    _opened_by = "al.lens"

    def __init__(self, anatomy: Anatomy, names: list[str]):
        super().__init__(anatomy, names, stop=names[-1])
        self.found: dict[str, Tensor] = {}

    def _on_activation(self, name: str, x: Tensor) -> None:
        self.found[name] = x


def _add(
    anatomy: Anatomy, batch: PaddedBatch, names: list[str], skip: int, sums: dict[str, Tensor]
) -> int:
    """Adds the Jacobian of each window of a batch to the sums; how many windows had one.

    Args:
        anatomy: Of the model.
        batch: The windows.
        names: The sites, and the last residual stream.
        skip: Tokens at the beginning that are left out.
        sums: By site `[d_model, d_model]`.
    """
    device = anatomy.model.device
    mask = batch.attention_mask.to(device)
    counted = _counted(mask, skip)
    n = counted.sum(dim=1)
    embed: Any = anatomy.backbone.embed_tokens
    # Gradients start at the embeddings, whether or not the parameters want any.
    leaf = embed(batch.input_ids.to(device)).detach().requires_grad_()
    with torch.enable_grad(), _Graph(anatomy, names) as seen:
        anatomy.backbone(inputs_embeds=leaf, attention_mask=mask, use_cache=False)
    *streams, final = (seen.found[name] for name in names)
    share = counted / n.clamp_min(1)[:, None]  # an average over the tokens that are changed
    for row in range(final.shape[-1]):
        along = torch.zeros_like(final)
        along[..., row] = counted.to(final)
        found = torch.autograd.grad(final, streams, along, retain_graph=True)
        for name, x in zip(names, found, strict=False):
            total = sums[name]
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            total[row] += torch.einsum("bp,bpd->d", share.to(x), x).to(total)
    return int((n > 0).sum())


def _counted(mask: Int[Tensor, "batch pos"], skip: int) -> Bool[Tensor, "batch pos"]:
    """The tokens after the first ones, without the last of each window."""
    number = mask.cumsum(dim=1)
    return (mask > 0) & (number > skip) & (number < mask.sum(dim=1, keepdim=True))
