"""Judge a model with lm-eval: the LM head and the classification heads, also under interventions.

The only part that imports lm_eval. Importing it registers the model `arcee-lab`, so that a task
file with a `!function` of ours works under plain `lm-eval run` too. One idea a file:

    arguments.py     what is said about a model, checked before it is loaded
    registering.py   makes `arcee-lab` known to lm-eval, without hiding its own models
    model.py         ArceeLab(HFLM): what lm-eval calls; path, Hub id, "demo" or a model in memory
    routing.py       documents with a `head` column go to the head they name
    trie.py          the choices of a document as branches of one row
    prefix.py        the few-shot prefix that documents share, computed once
    packed.py        scores rows: masks, positions, needed logits, fp32 log-softmax
    rolling.py       windows of a document, sorted by length
    changing.py      interventions in an evaluation: what may be packed, document positions
    aggregation.py   a metric as a function of sums over documents
    intervals.py     95 % bootstrap intervals of such metrics, vectorised
    finding.py       tasks by name, group or YAML path; broken files are errors
    drawing.py       documents that a task draws at random: once, and under known seeds
    examples.py      how many few-shot examples each task gets
    running.py       `run`: tasks, one bar, interrupts; result.py: what it returns
    sweeping.py      `sweep`: quality against the measured active fraction
    encoding.py      token ids of contexts and continuations, each text once
    caching.py       whose answers a use_cache file holds
    heads/           what each head says of texts: sequence.py, token.py, qa.py
    metrics/         scores as sums over documents, as the task files name them

Where they meet:

* A document of a head's task has the columns `head` ("sequence", "token" or "qa") and what the head
  reads: `words` (token), or `question` and `context` (qa). A sequence task is multiple choice with
  the labels as choices and the text as context; token and qa tasks are `generate_until`.
* `heads.sequence.score_sequence(model, tokenizer, texts, *, labels=None, batch_size=8)` gives
  log-probabilities `[n, n_labels]`; `heads.token.label_words(model, tokenizer, words_batch, ...)`
  a list of labels a document; `heads.qa.find_spans(model, tokenizer, questions, contexts, ...)` a
  text a document. An unknown label or a wrong head is a ValueError; routing.py adds the task.
* What lm-eval gets back from the token head is the JSON list of labels, from the QA head the text.
* Ceilings lie in a task file as `metadata: {ceilings: {metric: value}}`; a value is a number, or a
  function without arguments that computes it (`!function
  arcee_lab.evals.tasks.ceilings.sentiment`).
* Optional columns: `text` (token: the running text in which the words stand; they are joined by
  spaces without it) and `may_be_empty` (qa: whether "" is an answer, as in SQuAD v2).
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports
from arcee_lab.evals.lm_eval_registry import register

if TYPE_CHECKING:
    from arcee_lab.evals.model import ArceeLab
    from arcee_lab.evals.result import Evaluation, TaskFailed
    from arcee_lab.evals.runner import run
    from arcee_lab.evals.sweeps import Sweep, sweep

__all__ = [
    "ArceeLab",
    "Evaluation",
    "Sweep",
    "TaskFailed",
    "register",
    "run",
    "sweep",
]

# `register` is loaded already: a task file with a `!function` of ours must find the model.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "lm_eval_registry": ("register",),
        "model": ("ArceeLab",),
        "result": ("Evaluation", "TaskFailed"),
        "runner": ("run",),
        "sweeps": ("Sweep", "sweep"),
    },
)

register()
