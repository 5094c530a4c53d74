"""`ablate`: what changes when neurons are taken out, many of them in one forward."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import PaddedBatch, Windows
from arcee_lab.errors import SettingError, TextError
from arcee_lab.interventions import intervene
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.neurons.ablation.named import Neuron, sets_of
from arcee_lab.neurons.ablation.outcome import Ablations
from arcee_lab.neurons.ablation.replaced import HOW, Values, replacements
from arcee_lab.neurons.ablation.scored import score
from arcee_lab.neurons.search.streaming import device_of
from arcee_lab.neurons.weights.projection import causal_anatomy
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar

WINDOWS = 8  # per forward, at most; the rest of its rows are copies with other neurons taken out


@torch.no_grad()
@checked
def ablate(
    model: nn.Module,
    tokenizer: Any,
    units: Any,
    texts: Iterable[str] | Windows,
    *,
    how: str = "zero",
    context: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool | None = None,
) -> Ablations:
    """How the prediction of texts changes when neurons are taken out, one set after another.

    The rows of a forward are copies of the same windows in which other neurons are taken out, so
    that 64 neurons take one forward, and not 64. Each gets the same value as under `al.intervene`:
    0; its mean over all tokens but first ones; or its value at another token of the texts, the same
    one for all neurons ("resample"). All tokens are changed, first ones too. Inside `al.intervene`
    the model is changed before and after alike.

    For all neurons of a model take `al.neurons.ablation_estimate` first, and ablate its `top`.

    Args:
        model: One of arcee_lab's language models.
        tokenizer: Its tokenizer.
        units: What is taken out, one entry after another: `(layer, unit)`, "L1/N32", a unit of
            `al.neurons.find`, or a list of these, which are then taken out together.
        texts: The documents, or windows of them.
        how: "zero", "mean" or "resample".
        context: Longest window in tokens; by default 1024, or what the model can read if less.
        max_tokens: Tokens to read at most; None reads all.
        batch_size: Rows of a forward.
        seed: Random seed of "resample".
        progress: Whether to show a bar with forwards on stderr.

    Returns:
        Change of NLL and KL for each entry, with intervals over documents.

    Raises:
        ModelError: The model is no language model.
        SettingError: A neuron or a setting out of range.
        TextError: The texts hold no token to predict.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = [document.text for document in al.demo.documents("story", n=4)]
        >>> found = al.neurons.ablate(model, tokenizer, [(0, 343), "L1/N32"], texts)
        >>> len(found.frame())
        2
    """
    if how not in HOW:
        raise SettingError(f"how={how!r}; expected one of {', '.join(HOW)}.")
    if batch_size < 2:
        raise SettingError(f"batch_size is {batch_size} rows; expected at least 2.")
    anatomy = causal_anatomy(model, what="al.neurons.ablate")
    layers, d_mlp = len(anatomy.backbone.layers), anatomy.size("d_mlp")
    sets = sets_of(units, layers=layers, d_mlp=d_mlp)
    windows = windows_of(anatomy.model, tokenizer, texts, context=context, max_tokens=max_tokens)
    width = min(WINDOWS, len(windows), batch_size)
    copies = max(1, batch_size // width)
    neurons = sorted({neuron for some in sets for neuron in some})
    batches = -(-len(windows) // width)
    reading = 0 if how == "zero" else batches
    total = batches * (1 + -(-len(sets) // copies)) + reading
    numbers = np.unique(windows.documents, return_inverse=True)[1]
    nll, kl = (np.zeros((len(sets), numbers.max() + 1)) for _ in range(2))
    base, tokens = np.zeros(numbers.max() + 1), np.zeros(numbers.max() + 1, dtype=np.int64)
    with progress_bar(show=progress, total=total, unit="forward") as bar:
        values = Values(anatomy, neurons, windows, how=how, seed=seed, batch_size=width, bar=bar)
        for batch in windows.batches(width):
            rows = numbers[list(batch.rows)]
            own = _hidden(anatomy, batch, 1)
            real = batch.attention_mask.bool()
            bar.update()
            scored = score(anatomy, own, own[0], batch.input_ids, real)
            np.add.at(base, rows, scored.nll[0].cpu().numpy())
            np.add.at(tokens, rows, (real[:, 1:] & real[:, :-1]).sum(dim=1).numpy())
            for start in range(0, len(sets), copies):
                some = sets[start : start + copies]
                changes = replacements(some, values, token_numbers(windows, batch))
                with intervene(model, changes):
                    hidden = _hidden(anatomy, batch, len(some))
                bar.update()
                scored = score(anatomy, hidden, own[0], batch.input_ids, real)
                for place in range(len(some)):
                    np.add.at(nll[start + place], rows, scored.nll[place].cpu().numpy())
                    np.add.at(kl[start + place], rows, scored.kl[place].cpu().numpy())
    return _outcome(sets, how, nll, kl, base, tokens)


def _outcome(
    sets: tuple[tuple[Neuron, ...], ...],
    how: str,
    nll: np.ndarray,
    kl: np.ndarray,
    base: np.ndarray,
    tokens: np.ndarray,
) -> Ablations:
    some = tokens > 0  # a document of one token predicts nothing
    if not some.any():
        raise TextError("the texts hold no token to predict; expected two tokens or more.")
    return Ablations(sets, how, nll[:, some], kl[:, some], base[some], tokens[some])


def _hidden(anatomy: Anatomy, batch: PaddedBatch, copies: int) -> Tensor:
    """What the final norm gives, `[copy, row, pos, d_model]`."""
    device = device_of(anatomy)
    hidden = anatomy.backbone(
        input_ids=batch.input_ids.to(device).repeat(copies, 1),
        attention_mask=batch.attention_mask.to(device).repeat(copies, 1),
        use_cache=False,
    ).last_hidden_state
    return hidden.unflatten(0, (copies, -1))


def token_numbers(windows: Windows, batch: PaddedBatch) -> np.ndarray:
    """Number of each token of a batch in the texts; that of the window's first for padding."""
    length = batch.input_ids.shape[1]
    starts = windows.bounds[list(batch.rows)]
    sizes = windows.bounds[np.array(batch.rows) + 1] - starts
    place = np.arange(length)[None]
    return starts[:, None] + np.where(place < sizes[:, None], place, 0)
