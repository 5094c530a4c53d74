"""Fits a tuned lens: one affine map per site, by which the head says there what it says last."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import PaddedBatch, Windows
from arcee_lab.errors import SettingError
from arcee_lab.lens._logit_lens import RESIDUAL
from arcee_lab.lens.held_out import Teacher, divergence, mapped_sites, split
from arcee_lab.lens.tuned import TUNED, TunedLens, translated
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar


@checked
def tune(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    sites: str | Sequence[str] = RESIDUAL,
    steps: int = 250,
    learning_rate: float = 1e-3,
    held_out: float = 0.1,
    context: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> TunedLens:
    """Fits a tuned lens on texts, and measures it and the plain lens on others of them.

    At each site the stream x becomes `x + A x + b` before the final norm and the head. A and b are
    0 at first, which is the plain lens, and are fitted by Adam to the least KL divergence of what
    the lens says from what the model says, in nats per token; the learning rate falls linearly to
    0. The last site needs no map. The model itself is not changed.

    Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens",
    arXiv:2303.08112.

    Args:
        model: An Arcee causal LM.
        tokenizer: Its tokenizer.
        texts: Documents, or windows of `al.data.cut`.
        sites: Residual sites, as filters; by default the embedding, and each layer after its
            attention and after its MLP.
        steps: Steps of the fit, one batch each.
        learning_rate: Of Adam at the first step.
        held_out: Share of the documents that the fit does not read, at least one document.
        context: Tokens per window; by default as long as suits the model.
        max_tokens: Most tokens to read of the texts.
        batch_size: Windows per forward.
        seed: Of the choice of documents and batches.
        progress: Whether to show a bar with steps on stderr.

    Returns:
        The lens, with the KL divergence of both lenses at each site on the held-out documents.

    Raises:
        ValueError: For a model without an LM head, a single document, or numbers out of range.
    """
    anatomy = anatomy_of(model)
    if steps < 1 or not learning_rate > 0 or not 0 < held_out < 1:
        raise SettingError(
            f"steps={steps}, learning_rate={learning_rate} and held_out={held_out}; expected at "
            "least 1 step, a rate above 0, and a share between 0 and 1."
        )
    names, last = mapped_sites(anatomy, sites, kind=TUNED)
    windows = windows_of(anatomy.model, tokenizer, texts, context=context, max_tokens=max_tokens)
    batches, held = split(windows, batch_size, held_out, seed, kind=TUNED)
    teacher = Teacher(anatomy, names, last)
    maps = new_maps(anatomy, names)
    adam = torch.optim.Adam([x for pair in maps.values() for x in pair], lr=learning_rate)
    draws = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for step in progress_bar(range(steps), unit="step", show=progress):
        for group in adam.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        if step % len(batches) == 0:
            order = torch.randperm(len(batches), generator=draws).tolist()
        set_gradients(teacher, batches[order[step % len(batches)]], maps, last)
        adam.step()
    maps = {name: (a.detach(), b.detach()) for name, (a, b) in maps.items()}
    plain, tuned, tokens = teacher.divergences(held, maps)
    return TunedLens(
        kind=TUNED,
        sites=tuple(names),
        maps=tuple(maps[name][0].cpu() for name in names),
        shifts=tuple(maps[name][1].cpu() for name in names),
        fingerprint=model_fingerprint(model),
        model=model_name(model),
        plain_kl=plain,
        tuned_kl=tuned,
        tokens=tokens,
        settings={
            "steps": steps,
            "learning_rate": learning_rate,
            "held_out": held_out,
            "batch_size": batch_size,
            "seed": seed,
            "fitted_tokens": sum(int(batch.attention_mask.sum()) for batch in batches),
        },
    )


def new_maps(anatomy: Anatomy, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Maps that change nothing, in fp32."""
    width = anatomy.size("d_model")
    settings: dict[str, Any] = {"device": anatomy.model.device, "requires_grad": True}
    return {
        name: (torch.zeros(width, width, **settings), torch.zeros(width, **settings))
        for name in names
    }


def set_gradients(
    teacher: Teacher, batch: PaddedBatch, maps: dict[str, tuple[Tensor, Tensor]], last: str
) -> None:
    """Puts the gradients of the mean KL divergence into the maps, and into nothing else."""
    streams = teacher.streams(batch)
    tokens = len(streams[last])
    for pair in maps.values():
        for x in pair:
            x.grad = torch.zeros_like(x)
    for start in range(0, tokens, teacher.step):
        some = slice(start, start + teacher.step)
        goal = teacher.says(streams[last][some])
        for name, pair in maps.items():
            with torch.enable_grad():
                said = teacher.says(translated(streams[name][some], *pair))
                loss = divergence(goal, said).sum() / tokens
                # Not backward: that would put gradients into the model's own weights.
                grads = torch.autograd.grad(loss, pair)
            for x, grad in zip(pair, grads, strict=True):
                assert x.grad is not None
                x.grad += grad
