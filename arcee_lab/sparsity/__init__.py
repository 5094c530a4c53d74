"""How sparse the ReLU² MLP is. relu(u)² gives exact zeros, so no threshold is needed.

`measure` reads a text once and shows every layer to every analysis that was asked for. The core
counts at every token; the other streamed analyses look at a sample of the windows, every 8th by
default (`sample_every=`). docs/explanation/sparsity.md has a row per analysis, with its formula and
source.

_measure        the call `measure`
job             the same in two steps: plan, estimate, run
registry        the analyses by name
run_estimate    what a measurement will take
decoding        `al.sparse_decode`: decoding that skips the zeros

core/           counted at every token
  state           tensors that add up over texts, ranks and resumed runs
  every_token     rows 1, 2, 3, 12, 13, 14: the counts; layer_counts: their arithmetic
  counts          the counts with the rates that follow from them
  magnitudes      bins of activations by size; thresholds: row 1, activations below each threshold
  coverage        row 4: how few neurons hold how much of all firing
  positions       row 13: active neurons by position
  token_ids       row 14: active neurons by token id
  savings         row 21: bytes and operations that the zeros save
  packed_masks    which neurons fire, as bits and as a list
  kept_tokens     tokens whose active neurons are kept as bits
  window_means    means with intervals whose sums add up exactly
  checking        whether what was read can be of a measurement; the version of saved files

streamed/       analyses of the same pass, on the sample
  analysis        what an analysis is: state, update per layer, result
  schedule        which windows go into which forward pass, and which are sampled
  runner          the pass: hooks, ranks, resuming; resume_files: its saved states
  unions          rows 5, 6: neurons used by several tokens together
  overlap         row 7: neurons kept from one token to the next
  concentration   row 11: how few of a token's neurons hold what its MLP writes
  spikes          row 12: the largest values, and what one neuron holds of the output
  loss            row 14: active neurons by the loss of the next token
  predictors      row 17: what predicts the active neurons, without training
  across_layers   row 19: layers against each other; virtual weights between neurons
  blocks          row 20: zeros in groups of four and in blocks

sampled/        with forward passes of their own, on a sample of the tokens
  sample          which tokens; losses: what a changed model loses on them
  mlps            any ungated ReLU or ReLU² MLP as (up, act, down); mlp_hooks: hooks on them
  _cett           row 8: neurons to drop for a stated error; cett_curves: its result
  cett_perplexity row 9: the largest error that perplexity allows
  truncation      row 10: loss against neurons kept; truncation_curves: its result
  selection_rules rules that choose neurons; keep_block: the block in which they act
  _probe          row 17: a trained low-rank probe of one layer
  coactivation    row 18: which neurons of one layer fire together
  result_files    these results on disk

compared/       several measurements
  comparison      row 16: one model compared with another on the same text
  domains         row 15: one model on several kinds of text
  training_history  zeros over training, from a log

report/         what `measure` returns
  report          SparsityReport; named: its results, tables and figures by name
  tables          tables from the counts; figures: figures from the counts
  passage         a few neurons on a few words, one by one
  html_page       report.html
  report_files    the files of a report; validity: whether they can be those of a measurement
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.sparsity._measure import measure
    from arcee_lab.sparsity.compared.comparison import Comparison, compare, fit_activation
    from arcee_lab.sparsity.compared.domains import Domains, domains
    from arcee_lab.sparsity.compared.training_history import History, history
    from arcee_lab.sparsity.report.passage import Passage, read_passage
    from arcee_lab.sparsity.report.report import SparsityReport
    from arcee_lab.sparsity.sampled._cett import cett
    from arcee_lab.sparsity.sampled._probe import Probe, probe
    from arcee_lab.sparsity.sampled.cett_curves import CettCurves
    from arcee_lab.sparsity.sampled.cett_perplexity import CettPerplexity, cett_ppl
    from arcee_lab.sparsity.sampled.coactivation import CoActivationResult, coactivation
    from arcee_lab.sparsity.sampled.mlps import Mlp, mlps
    from arcee_lab.sparsity.sampled.truncation import truncation
    from arcee_lab.sparsity.sampled.truncation_curves import TruncationCurves
    from arcee_lab.sparsity.streamed.across_layers import virtual_weights

__all__ = [
    "CettCurves",
    "CettPerplexity",
    "CoActivationResult",
    "Comparison",
    "Domains",
    "History",
    "Mlp",
    "Passage",
    "Probe",
    "SparsityReport",
    "TruncationCurves",
    "cett",
    "cett_ppl",
    "coactivation",
    "compare",
    "domains",
    "fit_activation",
    "history",
    "measure",
    "mlps",
    "probe",
    "read_passage",
    "truncation",
    "virtual_weights",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_measure": ("measure",),
        "compared.comparison": ("Comparison", "compare", "fit_activation"),
        "compared.domains": ("Domains", "domains"),
        "compared.training_history": ("History", "history"),
        "report.passage": ("Passage", "read_passage"),
        "report.report": ("SparsityReport",),
        "sampled._cett": ("cett",),
        "sampled._probe": ("Probe", "probe"),
        "sampled.cett_curves": ("CettCurves",),
        "sampled.cett_perplexity": ("CettPerplexity", "cett_ppl"),
        "sampled.coactivation": ("CoActivationResult", "coactivation"),
        "sampled.mlps": ("Mlp", "mlps"),
        "sampled.truncation": ("truncation",),
        "sampled.truncation_curves": ("TruncationCurves",),
        "streamed.across_layers": ("virtual_weights",),
    },
)
