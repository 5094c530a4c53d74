"""Where an answer comes from: the residual stream read by the head, and taken apart.

_logit_lens     `logit_lens`: what the head would say after every residual site
reading         LogitLens: ranks, logits and strongest tokens, frame, figure
_attribute      `attribute`: a logit as a sum over embedding, heads, MLPs and neurons
attribution     Attribution: that sum, frame, figure
_decompose      `decompose`: the residual stream as a sum of vectors with labels
decomposition   Decomposition: those vectors
_tune           `tune`: fits a tuned lens on texts
_fit_jacobian   `fit_jacobian`: a lens of mean derivatives of the last stream
tuned           TunedLens: the maps of both, how far they are from the head, their files
held_out        what such a lens is measured by
prompts         what these calls run on
answers         which tokens or labels are named
readout         the final norm and the head
streaming       tensors that are reduced while the model runs
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.lens._attribute import attribute
    from arcee_lab.lens._decompose import decompose
    from arcee_lab.lens._fit_jacobian import fit_jacobian
    from arcee_lab.lens._logit_lens import logit_lens
    from arcee_lab.lens._tune import tune
    from arcee_lab.lens.answers import first_tokens
    from arcee_lab.lens.attribution import Attribution
    from arcee_lab.lens.decomposition import Decomposition
    from arcee_lab.lens.reading import LogitLens
    from arcee_lab.lens.tuned import TunedLens

__all__ = [
    "Attribution",
    "Decomposition",
    "LogitLens",
    "TunedLens",
    "attribute",
    "decompose",
    "first_tokens",
    "fit_jacobian",
    "logit_lens",
    "tune",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_attribute": ("attribute",),
        "_decompose": ("decompose",),
        "_fit_jacobian": ("fit_jacobian",),
        "_logit_lens": ("logit_lens",),
        "_tune": ("tune",),
        "answers": ("first_tokens",),
        "attribution": ("Attribution",),
        "decomposition": ("Decomposition",),
        "reading": ("LogitLens",),
        "tuned": ("TunedLens",),
    },
)
