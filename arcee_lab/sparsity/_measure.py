"""The call that measures: one pass over texts, then what needs forward passes of its own."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arcee_lab.data.windows import Windows
from arcee_lab.runs import storage
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.ranks import Ranks
from arcee_lab.sparsity.job import MeasureJob
from arcee_lab.sparsity.report.report import SparsityReport


@checked
def measure(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    analyses: Iterable[str] = ("all",),
    sample_every: int | None = None,
    batch_size: int = 8,
    context: int | None = None,
    max_tokens: int | None = None,
    role: str | None = None,
    seed: int = 0,
    label: str | None = None,
    ranks: Ranks | None = None,
    resume: str | Path | None = None,
    keep_resume: bool = False,
    progress: bool | None = None,
) -> SparsityReport:
    """Measures how sparse the MLPs of a model are, exactly, in one pass over texts.

    The core counts at every token: zeros, active neurons, firing rates, sizes, positions, token
    ids. The other analyses look at a sample of the windows. Padding never counts. The first token
    of each window (BOS, where the tokenizer sets one) is counted separately: models treat it unlike
    any other.

    Args:
        model: An Arcee model, any head, or another model of ungated ReLU or ReLU² MLPs.
        tokenizer: Its tokenizer.
        texts: Documents, or the windows that `arcee_lab.data.windows.cut` made of them.
        analyses: What to measure in addition to the core: names of `arcee_lab.sparsity.registry`,
            or "core" (nothing else), "all" (all that the pass can do), "further" (CETT and
            truncation curves, on samples of their own; only the first rank computes them).
        sample_every: N shows every Nth window to the analyses other than the core, chosen by a
            checksum of its tokens; predictors are tried on 1 token in 16 of every fourth of these
            (below 256 windows on 1 in 32 of each). 1 shows all windows, and all tokens to
            predictors. By default 8, or all windows where there are fewer than 64 (and all tokens
            to predictors, below 1,024).
        batch_size: Windows per forward pass.
        context: Longest window in tokens; by default 1024, or what the model can read if less.
        max_tokens: How many tokens to read, first positions included; None reads all.
        role: Of conversations, whose tokens count: "system", "user" or "assistant", or "not user"
            and so on for all but theirs; by the tokenizer's chat template. First tokens stay
            separate, and analyses after the pass are refused.
        seed: Random seed of the samples that the further analyses draw. What the pass looks at
            follows from the tokens and needs none.
        label: What the report is called next to others; the model's name, and the adapters that
            are active, by default.
        ranks: This process among those of a job; see `arcee_lab.runs.ranks`. Every rank passes the
            same model and texts, and gets the report over all of them.
        resume: A file to save the state to every minute, and to resume from after an interruption.
            Ranks need one each. Results of the analyses after the pass are saved next to it, each
            as soon as it is there. Both are removed at the end.
        keep_resume: Leave them at the end too: for a caller that has yet to save the report, and
            then calls `arcee_lab.sparsity.streamed.resume_files.remove`.
        progress: Whether to show bars with tokens/s on stderr.

    Returns:
        The counts, with frames, figures and files.

    Raises:
        ValueError: Empty texts, a bad limit, fewer tokens than `max_tokens`, limits for windows
            that are cut already, a role that the texts do not show, nothing but first tokens or
            padding, an unknown analysis, a gated MLP, NaN activations, or a resume file that is
            damaged or of another run.
        Interrupted: Ctrl-C, or a notebook's stop button; its `partial` is the report over what was
            done. The first one lets the current forward end, a second one stops at once.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> report = al.sparsity.measure(model, tokenizer, ["The dogs near the gate bark ."])
        >>> report.n_tokens > 0
        True
    """
    if resume is not None:
        storage.require_local(resume)  # before texts are read
    job = MeasureJob(
        model,
        tokenizer,
        texts,
        analyses=analyses,
        sample_every=sample_every,
        batch_size=batch_size,
        context=context,
        max_tokens=max_tokens,
        role=role,
        seed=seed,
    )
    return job.run(
        label=label, ranks=ranks, resume=resume, keep_resume=keep_resume, progress=progress
    )
