"""Makes `arcee-lab` known to lm-eval, without hiding lm-eval's own models."""

from lm_eval.api.registry import MODEL_REGISTRY

NAME = "arcee-lab"
_CLASS = "arcee_lab.evals.model:ArceeLab"


def register() -> None:
    """Registers the model; a second time does nothing. Importing arcee_lab.evals calls it."""
    # lm-eval lists its own models only while nobody is listed: ours first would be all there is.
    import lm_eval.models  # noqa: F401

    if NAME not in MODEL_REGISTRY:
        MODEL_REGISTRY.register(NAME, target=_CLASS)
