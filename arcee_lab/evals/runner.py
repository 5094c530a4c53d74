"""`al.evals.run`: checks what is asked, loads tasks and model, and runs."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.bootstrap import DRAWS
from arcee_lab.errors import SettingError
from arcee_lab.evals.head_routing import Source
from arcee_lab.evals.intervened import InterventionsLike
from arcee_lab.evals.model import ArceeLab
from arcee_lab.evals.options.answer_cache import cache_file, check_cache_file
from arcee_lab.evals.options.applied import require_effect
from arcee_lab.evals.options.chat_templates import require_template
from arcee_lab.evals.options.read import read_options, require_documents
from arcee_lab.evals.result import Evaluation
from arcee_lab.evals.run_tasks import run_loaded
from arcee_lab.evals.tasks.examples import examples_of
from arcee_lab.evals.tasks.find import Data, LoadedTasks, loaded_tasks
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.seeds import DEFAULT, Seeds, SeedsLike

BATCH_SIZE = 8
MOST_DRAWS = 1_000_000


@checked
def run(
    model: str | os.PathLike | nn.Module | ArceeLab,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    tasks: str | os.PathLike | Iterable[str | os.PathLike] | LoadedTasks,
    interventions: InterventionsLike = None,
    heads: Mapping[str, Source] | None = None,
    num_fewshot: int | None = None,
    limit: int | float | None = None,
    samples: Mapping[str, Sequence[int]] | str | os.PathLike | None = None,
    apply_chat_template: bool | str = False,
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool | None = None,
    gen_kwargs: Mapping[str, Any] | str | None = None,
    repeats: int | None = None,
    predict_only: bool = False,
    strict: bool = False,
    use_cache: str | os.PathLike | None = None,
    cache_requests: bool | str = False,
    write_out: bool = False,
    include: Sequence[str | os.PathLike] = (),
    data: Data = None,
    batch_size: int | None = None,
    exact: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    draws: int = DRAWS,
    seed: SeedsLike = DEFAULT,
    out: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Evaluates a model on lm-eval tasks, its LM head and its classification heads alike.

    Ctrl-C (or the notebook's stop button) ends the run with `Interrupted`, whose `partial` holds
    the finished tasks; `partial.unfinished` names the others. A task that fails ends the run with
    `TaskFailed`, which names the task and holds the finished ones as `result`.

    Args:
        model: "demo", a folder, a Hub id, a model in memory, or an `ArceeLab`.
        tokenizer: For a model in memory.
        tasks: Names of tasks or groups, patterns, or paths of task files. A task file runs code:
            its `!function` and its Jinja templates. Or the result of `find_tasks`, to load the data
            once for several runs.
        interventions: Interventions such as `al.Ablate(...)`, or a file of them; they act on the LM
            and on every head. By default none, or those of the `ArceeLab`.
        heads: Checkpoints or models of heads that the model's checkpoint lacks, as `{"sequence":
            ..., "token": ..., "qa": ...}`.
        num_fewshot: Examples before each question; by default each task's own number. A task that
            sets 0 keeps it, as in lm-eval, and whole texts take none: a warning names each such
            task, and `settings` of the result records the number that was used.
        limit: Most documents per task, or below 1 a fraction of them; the first ones are used.
        samples: Task -> the numbers of its documents that are asked, from 0; or JSON, or a file of
            it. Other tasks are asked in whole.
        apply_chat_template: Make each prompt a chat: True for the tokenizer's template, or the name
            of one of several.
        system_instruction: Text before each task's own description.
        fewshot_as_multiturn: Whether examples are turns of the chat, or one text; by default as
            `apply_chat_template`.
        gen_kwargs: Settings of generation over those of each task, as `{"temperature": 0.8}` or
            "temperature=0.8,top_p=0.95".
        repeats: How often each text is generated; by default as each task says.
        predict_only: Keep answers and compute no score.
        strict: End a task with an error at a document that cannot be scored: its continuation is
            empty, merges into the last token of the context, or is longer than the model reads. By
            default such documents are left out, counted as `n_skipped` and listed in `skipped`.
        use_cache: A file of answers, which later runs of the same model need not compute again;
            `_rank0.db` is added, as in lm-eval. Only files that this package wrote are read.
        cache_requests: Keep the built prompts: True, "refresh" to build them anew, "delete" to
            remove all kept ones.
        write_out: Log the first prompt of each task (logger "arcee_lab", level INFO).
        include: Folders with further task files.
        data: A file in place of a task's own data, or files by task; see `find_tasks`.
        batch_size: Sequences per batch of generation and of heads (these read at least 8), by
            default 8; batches of the LM's log-likelihoods have a number of tokens instead.
        exact: Keep lm-eval's own arithmetic for log-likelihoods.
        device: "cpu", "cuda", ...; by default CUDA if it is available.
        dtype: Of the weights.
        draws: Of the bootstrap; at most 200 for a metric that is not a function of sums.
        seed: Random seeds of Python's `random`, numpy, torch and few-shot examples: four values in
            this order, or one for all. They are set before tasks are loaded and again before each
            task is scored, and the caller's generators are restored at the end. None leaves a
            generator unseeded. The bootstrap has its own generator, seeded with the first value.
        out: A folder for the files of `Evaluation.save`. Each finished task is saved below it, in
            `unfinished/`, until all is written: the same call resumes from there after an
            interrupt, a kill or a full disk.
        progress: Show one bar over all documents; by default in notebooks and terminals.

    Returns:
        Scores with intervals, and the samples; with `out` samples are plain JSON values.

    Raises:
        TaskError: A task is unknown, its file is broken, or its data or head is missing; raised
            before any forward.
        SettingError: An argument is out of range, would have no effect, or names a chat template
            that the tokenizer lacks; raised before the model is loaded.
        FileError: `use_cache` is no file of answers, or of another run (OtherRun).
        TaskFailed: A task could not be scored: a label that the head lacks, a context window too
            small, an intervention whose condition no token of the task meets. Its `result` holds
            the tasks that were finished before.
        Interrupted: Ctrl-C was pressed; its `partial` holds the finished tasks.

    Example:
        >>> import arcee_lab as al
        >>> result = al.evals.run("demo", tasks="arcee_demo_sentiment", limit=8, progress=False)
        >>> result.score("arcee_demo_sentiment", "acc").n
        8
    """
    require_numbers(num_fewshot=num_fewshot, draws=draws)
    options = read_options(
        limit=limit,
        samples=samples,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
        fewshot_as_multiturn=fewshot_as_multiturn,
        gen_kwargs=gen_kwargs,
        predict_only=predict_only,
        cache_requests=cache_requests,
        write_out=write_out,
        repeats=repeats,
        strict=strict,
    )
    seeds = Seeds.read(seed)
    require_template(model, tokenizer, options.apply_chat_template)
    if use_cache is not None:
        check_cache_file(cache_file(use_cache))
    with seeds.acting(), modes_kept(model, *(heads or {}).values()):
        loaded = loaded_tasks(tasks, include=include, data=data, seeds=seeds)
        require_documents(loaded["tasks"], options)
        require_effect(loaded["tasks"], options, use_cache=use_cache)
        lm = as_lm(
            model,
            tokenizer,
            heads=heads,
            exact=exact or None,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
        )
        if interventions is not None:
            lm.intervene(interventions)
        lm.require_heads(loaded["tasks"].values())
        examples = examples_of(loaded["tasks"], num_fewshot)
        return run_loaded(
            lm,
            loaded,
            examples,
            options=options,
            draws=draws,
            seeds=seeds,
            out=out,
            use_cache=use_cache,
            progress=progress,
        )


def require_numbers(*, num_fewshot: int | None, draws: int) -> None:
    """Checks the numbers that decide how much is computed.

    Raises:
        SettingError: A number is out of range.
    """
    if num_fewshot is not None and num_fewshot < 0:
        raise SettingError(f"num_fewshot={num_fewshot}; expected 0 or more examples.")
    if not 1 <= draws <= MOST_DRAWS:
        raise SettingError(
            f"draws={draws}; expected from 1 to {MOST_DRAWS} draws of the bootstrap."
        )


@contextmanager
def modes_kept(*models: Any) -> Iterator[None]:
    """Restores the mode, training or not, of the given models and their parts."""
    parts = [part for one in models if isinstance(one, nn.Module) for part in one.modules()]
    modes = [part.training for part in parts]
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def as_lm(
    model: str | os.PathLike | nn.Module | ArceeLab,
    tokenizer: PreTrainedTokenizerBase | None,
    **settings: Any,
) -> ArceeLab:
    """The model as an `ArceeLab`; a given `ArceeLab` keeps its own settings."""
    given = {name: value for name, value in settings.items() if value is not None}
    if not isinstance(model, ArceeLab):
        given.setdefault("batch_size", BATCH_SIZE)
        return ArceeLab(model, tokenizer, **given)
    if given or tokenizer is not None:
        names = ", ".join([*given, *(["tokenizer"] if tokenizer is not None else [])])
        raise SettingError(
            f"The model is already an ArceeLab; pass {names} to its constructor instead."
        )
    return model
