"""The call that reads a text once and keeps, of every neuron, where it fires."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arcee_lab.neurons.reading.domains import Texts
from arcee_lab.neurons.reading.job import ExemplarsJob
from arcee_lab.neurons.reading.result import Exemplars
from arcee_lab.runs import storage
from arcee_lab.runs.ranks import Ranks


def exemplars(
    model: Any,
    tokenizer: Any,
    texts: Texts,
    *,
    layers: int | Iterable[int] | None = None,
    context: int | None = None,
    batch_size: int = 8,
    max_tokens: int | None = None,
    top: int = 20,
    strata: int = 10,
    per_stratum: int = 5,
    negatives: int = 20,
    role: str | None = None,
    seed: int = 0,
    ranks: Ranks | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Exemplars:
    """Reads texts once and keeps, of every neuron of every layer, where it fires and how often.

    Of each neuron: the windows with its largest values, windows drawn at random by the size of
    their maximum, windows in which it never fires, the firing rate, and a histogram of window
    maxima. The size of what is kept does not depend on the text: 756 bytes per neuron of a bf16
    model.

    Values are relu(u)². Padding never counts, and neither do the first token of a window and BOS,
    which models treat unlike any other. Of equal values the one in the smaller document comes
    first, then the one at the smaller position. Given equal activations, the result is the same to
    the last bit for every batch size, every number of ranks, and after an interruption; rounding of
    the activations may depend on the shape of a batch, as in any forward.

    Args:
        model: An Arcee model, any head.
        tokenizer: Its tokenizer.
        texts: Documents, the windows that `arcee_lab.data.cut` made of them, or a mapping from the
            name of a domain to its documents.
        layers: A layer, or several; None takes all.
        context: Longest window in tokens; by default 1024, or what the model can read if less.
        batch_size: Windows per forward.
        max_tokens: How many tokens to read (of each domain), first positions included; None reads
            all.
        top: Windows with the largest values, per neuron.
        strata: Octaves of window maxima, up to that of a neuron's largest value, from which windows
            are drawn at random; 1 to 31.
        per_stratum: Windows drawn from each.
        negatives: Windows in which the neuron never fires, of the domains and lengths of its top
            windows.
        role: Of conversations, whose tokens count: "system", "user" or "assistant", or "not user"
            and so on for all but theirs; by the tokenizer's chat template.
        seed: Of what is drawn.
        ranks: This process among those of a job; see `arcee_lab.runs.ranks`. Every rank passes the
            same model and texts, and gets the whole result.
        out: A folder to save the run to. While it runs its state is saved there every minute, and
            the same call resumes from it after an interruption.
        progress: Whether to show a bar with tokens/s on stderr.

    Returns:
        What was found; `Exemplars.load` reads it from `out`.

    Raises:
        SettingError: A number, a layer or a limit out of range.
        TextError: Empty texts, fewer tokens than `max_tokens`, or nothing but first tokens.
        ModelError: No Arcee model, or NaN activations.
        OtherRun, SavedDamaged: `out` holds another run, or a damaged one.
        Interrupted: Ctrl-C, or a notebook's stop button; its `partial` is the result over what was
            read. The first one lets the current forward end, a second one stops at once.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> run = al.neurons.exemplars(model, tokenizer, ["The dogs near the gate bark ."])
        >>> run.rates(0).shape[0] == model.config.intermediate_size
        True
    """
    if out is not None:
        storage.require_local(out)  # before texts are read
    job = ExemplarsJob(
        model,
        tokenizer,
        texts,
        layers=layers,
        context=context,
        batch_size=batch_size,
        max_tokens=max_tokens,
        top=top,
        strata=strata,
        per_stratum=per_stratum,
        negatives=negatives,
        role=role,
        seed=seed,
    )
    return job.run(ranks=ranks, out=out, progress=progress)
