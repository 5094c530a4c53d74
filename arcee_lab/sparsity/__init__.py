"""How sparse the ReLU² MLP is. relu(u)² gives exact zeros, so "sparse" needs no threshold here.

One pass over the text shows every layer to every analysis that was asked for (`measure`). The core
counts at every token; the others look at a stated share of the windows, 1 in 8 unless told
otherwise. Rows are those of docs/sparsity.md, which has formulas and sources.

mlps          any ungated ReLU or ReLU² MLP as (up, act, down)
analysis      what an analysis is: state, update a layer, result; how states add up
registry      the analyses by name
exact         means with intervals whose sums add up exactly

core          rows 1, 2, 3, 12, 13, 14: zeros, active neurons, rates, sizes, positions, ids
counting      the arithmetic of the core; sizes: its histograms
bits          the same on a CPU as bits and as a list, for the other analyses
coverage      row 4: how few neurons hold how much of all firing
thresholds    row 1: activations below each threshold, from the core's histogram
concentration row 11: how few of a token's neurons hold what its MLP writes
unions        rows 5, 6: neurons used by several tokens together
overlap       row 7: neurons kept from one token to the next
spikes        row 12: the largest values, and what one neuron holds of the output
positions     row 13: active neurons by position
vocabulary    row 14: active neurons by token id; losses: by the loss
domains       row 15: code against prose
comparison    row 16: one model against another on the same text
predictors    row 17: what tells the active neurons beforehand
neighbours    row 19: layers against each other; virtual weights between neurons
blocks        row 20: zeros in groups of four and in blocks
cost          row 21: bytes and operations that the zeros save

With forwards of their own, on a sample of the tokens (`sample`), through hooks (`at_down`):

cett          row 8: what neurons may go for an error of the output; cett_curves: its result
cett_ppl      row 9: the largest error that perplexity allows
truncation    row 10: loss against neurons kept, critical sparsity; truncation_curves: its result
keeping       the rules that choose neurons; truncating: the block in which they act
scoring       losses by document; bootstrap: intervals over documents
probe         row 17: a trained low-rank probe of one layer
coactivation  row 18: which neurons of one layer fire together
history       zeros over training, from a log

batches       which windows go into which forward, and which are in the share
stream        the pass: hooks, ranks, resuming
measure       the call
report        SparsityReport: frames and figures; files: what it writes and reads
tables        its tables of layers, neurons, tokens and costs
passage       a few neurons on a few words, one by one
page          report.html
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
