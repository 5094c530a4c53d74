"""Fits a tuned lens: one affine map per site, by which the head says there what it says last."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import PaddedBatch, Windows
from arcee_lab.errors import ModelError, SettingError, TextError
from arcee_lab.lens._logit_lens import RESIDUAL, residual_sites
from arcee_lab.lens.prompts import Prompts
from arcee_lab.lens.readout import MOST_LOGITS, Readout
from arcee_lab.lens.streaming import run
from arcee_lab.lens.tuned import TunedLens, translated
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
    if anatomy.legend.head != "causal":
        raise ModelError(
            f"A tuned lens needs an LM head, and this is a {type(anatomy.model).__name__}; load "
            "the model with head='causal'."
        )
    if steps < 1 or not learning_rate > 0 or not 0 < held_out < 1:
        raise SettingError(
            f"steps={steps}, learning_rate={learning_rate} and held_out={held_out}; expected at "
            "least 1 step, a rate above 0, and a share between 0 and 1."
        )
    names = residual_sites(anatomy, [sites] if isinstance(sites, str) else list(sites))
    last = f"layers.{len(anatomy.backbone.layers) - 1}.hook_resid_post"
    mapped = [name for name in names if name != last]
    if not mapped:
        raise SettingError(f"{last} is what the head reads anyway; name an earlier site too.")
    windows = windows_of(anatomy.model, tokenizer, texts, context=context, max_tokens=max_tokens)
    batches, held = _split(windows, batch_size, held_out, seed)
    fit = _Fit(anatomy, mapped, last)
    maps = fit.new_maps()
    adam = torch.optim.Adam([x for pair in maps.values() for x in pair], lr=learning_rate)
    draws = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for step in progress_bar(range(steps), unit="step", show=progress):
        for group in adam.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        if step % len(batches) == 0:
            order = torch.randperm(len(batches), generator=draws).tolist()
        fit.gradients(batches[order[step % len(batches)]], maps)
        adam.step()
    maps = {name: (a.detach(), b.detach()) for name, (a, b) in maps.items()}
    plain, tuned, tokens = fit.divergences(held, maps)
    return TunedLens(
        sites=tuple(mapped),
        maps=tuple(maps[name][0].cpu() for name in mapped),
        shifts=tuple(maps[name][1].cpu() for name in mapped),
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


def _split(
    windows: Windows, batch_size: int, held_out: float, seed: int
) -> tuple[list[PaddedBatch], list[PaddedBatch]]:
    """Batches to fit on, and batches of other documents."""
    documents = sorted(set(windows.documents.tolist()))
    if len(documents) < 2:
        raise TextError("A tuned lens needs two documents, one of them held out; got one.")
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    n = min(len(documents) - 1, max(1, round(held_out * len(documents))))
    held = {documents[i] for i in order[:n]}
    parts: list[list[PaddedBatch]] = [[], []]
    for batch in windows.batches(batch_size):
        where = torch.tensor([int(windows.documents[row]) in held for row in batch.rows])
        for part, rows in zip(parts, (~where, where), strict=True):
            if bool(rows.any()):
                kept = tuple(
                    row for row, keep in zip(batch.rows, rows.tolist(), strict=True) if keep
                )
                part.append(
                    PaddedBatch(
                        batch.input_ids[rows], batch.attention_mask[rows], batch.first[rows], kept
                    )
                )
    return parts[0], parts[1]


class _Fit:
    """The model as a teacher of its own lens."""

    def __init__(self, anatomy: Anatomy, names: list[str], last: str):
        self._anatomy, self._names, self._last = anatomy, names, last
        self._readout = Readout(anatomy)
        self._step = max(1, MOST_LOGITS // anatomy.size("vocab"))

    def new_maps(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Maps that change nothing, in fp32."""
        width, device = self._anatomy.size("d_model"), self._anatomy.model.device
        settings: dict[str, Any] = {"device": device, "requires_grad": True}
        return {
            name: (torch.zeros(width, width, **settings), torch.zeros(width, **settings))
            for name in self._names
        }

    def streams(self, batch: PaddedBatch) -> dict[str, Tensor]:
        """The residual streams of all real tokens of a batch, `[token, d_model]`."""
        given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        prompts = Prompts.read(self._anatomy, None, given, positions=None)
        found: dict[str, Tensor] = {}

        def keep(name: str):
            return lambda x: found.__setitem__(name, x[prompts.real.to(x.device)])

        run(self._anatomy, prompts, {name: keep(name) for name in (*self._names, self._last)})
        return {name: x.to(prompts.ids.device) for name, x in found.items()}

    def gradients(self, batch: PaddedBatch, maps: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Puts the gradients of the mean KL divergence into the maps, and into nothing else."""
        streams = self.streams(batch)
        tokens = len(streams[self._last])
        for pair in maps.values():
            for x in pair:
                x.grad = torch.zeros_like(x)
        for start in range(0, tokens, self._step):
            some = slice(start, start + self._step)
            goal = self._says(streams[self._last][some])
            for name, pair in maps.items():
                with torch.enable_grad():
                    said = self._says(translated(streams[name][some], *pair))
                    loss = _divergence(goal, said).sum() / tokens
                    # Not backward: that would put gradients into the model's own weights.
                    grads = torch.autograd.grad(loss, pair)
                for x, grad in zip(pair, grads, strict=True):
                    assert x.grad is not None
                    x.grad += grad

    @torch.no_grad()
    def divergences(
        self, batches: list[PaddedBatch], maps: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        """Mean KL divergence by site, of the plain lens and of the tuned one, and over how many."""
        sums = torch.zeros(2, len(self._names), dtype=torch.float64)
        tokens = 0
        for batch in batches:
            streams = self.streams(batch)
            n = len(streams[self._last])
            tokens += n
            for start in range(0, n, self._step):
                some = slice(start, start + self._step)
                goal = self._says(streams[self._last][some])
                for number, name in enumerate(self._names):
                    x = streams[name][some]
                    for row, stream in enumerate((x, translated(x, *maps[name]))):
                        kl = _divergence(goal, self._says(stream)).sum()
                        sums[row, number] += float(kl)
        plain, tuned = (sums / tokens).tolist()
        return tuple(plain), tuple(tuned), tokens

    def _says(self, x: Tensor) -> Tensor:
        logits = self._readout.logits(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


def _divergence(goal: Tensor, said: Tensor) -> Tensor:
    """KL(goal || said) of each token in nats, from logarithms of probabilities."""
    return (goal.exp() * (goal - said)).sum(dim=-1)
