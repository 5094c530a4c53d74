"""Evaluates the LM head and the classification heads with lm-eval, also under interventions.

The only part of the package that imports lm_eval. Importing it registers the model `arcee-lab`, so
that a task file with a `!function` of ours also works under plain `lm-eval run`.

    runner.py            `run`: what is asked is checked, tasks and model are loaded
    run_tasks.py         tasks one after the other, interrupts, saved tasks
    result.py            what `run` returns: `Evaluation`, `Score`
    scores.py            scores of tasks and groups with their bootstrap draws
    finished_tasks.py    finished tasks of a run, saved so that it can resume
    progress.py          one bar over all documents
    sweeps.py            `sweep`: quality against the measured active fraction
    sweep_levels.py      the levels of a sweep: `top_k`, `cett`, `by_layer`, `random_control`
    model.py             `ArceeLab(HFLM)`: the model that lm-eval calls
    loading.py           the arguments of `ArceeLab`, checked before anything is loaded
    head_routing.py      sends documents with a `head` column to that head
    intervened.py        interventions in an evaluation: which can be packed, document positions
    lm_eval_registry.py  registers `arcee-lab` with lm-eval
    options/             what lm-eval's flags of the same names do
        read                 options as a user gives them, checked
        applied              options set on lm-eval's tasks
        chat_templates       chat templates, chosen also by name
        lm_eval_call         what plain `lm-eval run` asks for, checked before the model loads
        answer_cache         use_cache: answers as JSON, and whose they are
        prompt_cache         cache_requests: built prompts as JSON
    files/               saved evaluations in lm-eval's shape
        lm_eval_shape        lm-eval's keys and samples
        writing              the files of a run; lm-eval's own layout of names
        plain_json           any value as JSON
    pages/               report.html of a run
    compared/            `compare`: paired differences of runs, saved runs read back
        _compare             matches documents and redraws them
        comparison           `Comparison`, `Difference`: table, forest plot, flipped documents
        matching             which documents are the same
        significance         McNemar's exact test, Holm's correction
        aggregations         aggregations by name
        saved                folders of saved runs
        report               the page of a comparison
    scoring/             packed log-likelihoods of the LM head
        packable_documents   requests grouped by document
        tokenization         token ids of contexts and continuations
        token_trie           the choices of a document as branches of one row
        prefix_cache         prefixes that documents share, computed once
        batch_plan           rows sorted by length and cut into batches
        rolling_windows      windows of whole texts
        unscorable           requests without a score, and documents left out
        scorer               forwards of rows: masks, positions, caches
        target_logprobs      log-softmax in fp32 at the scored positions
    tasks/               task files and their documents
        find                 tasks by name, group, pattern or path; broken files are errors
        drawing              documents that a task draws at random: once, under known seeds
        examples             number of few-shot examples of each task
        in_memory            a task of documents in memory, without a task file
        demo_documents       documents of the demo's tasks
        ceilings             the best possible scores of the demo's tasks
        process_results      metrics of one document
        datasets/            the field's data sets, from the Hub or from files
    metrics/             scores as functions of sums over documents, named in task files

Interfaces:

* A document of a head's task has the column `head` ("sequence", "token" or "qa") and what the head
  reads: `words` (token), or `question` and `context` (qa). A sequence task is multiple choice with
  the labels as choices and the text as context; token and qa tasks are `generate_until`.
* lm-eval gets a JSON list of labels from the token head, and a text from the QA head.
* The ceilings of a task are in its file, as `metadata: {ceilings: {metric: value}}`; a value is a
  number, or a function without arguments (`!function arcee_lab.evals.tasks.ceilings.sentiment`).
* Optional columns: `text` (token: the running text; by default the words joined by spaces) and
  `may_be_empty` (qa: whether "" is an answer, as in SQuAD v2).
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports
from arcee_lab.evals.lm_eval_registry import register

if TYPE_CHECKING:
    from arcee_lab.evals import metrics
    from arcee_lab.evals.compared._compare import compare
    from arcee_lab.evals.compared.comparison import Comparison
    from arcee_lab.evals.model import ArceeLab
    from arcee_lab.evals.result import Evaluation
    from arcee_lab.evals.runner import run
    from arcee_lab.evals.sweeps import Sweep, sweep

__all__ = [
    "ArceeLab",
    "Comparison",
    "Evaluation",
    "Sweep",
    "compare",
    "metrics",
    "register",
    "run",
    "sweep",
]

# `register` is loaded already: a task file with a `!function` of ours must find the model.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "compared._compare": ("compare",),
        "compared.comparison": ("Comparison",),
        "lm_eval_registry": ("register",),
        "model": ("ArceeLab",),
        "result": ("Evaluation",),
        "runner": ("run",),
        "sweeps": ("Sweep", "sweep"),
    },
    packages=("metrics",),
)

register()
