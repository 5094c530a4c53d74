"""Reads a list of sites inside an nnsight trace, in any order."""

from collections.abc import Sequence
from typing import Any

import nnsight
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from arcee_lab.errors import ModelError
from arcee_lab.model.anatomy import HEADS, anatomy_of
from arcee_lab.runs.arguments import checked
from arcee_lab.sites import Legend
from arcee_lab.trace.points import PointEnvoy
from arcee_lab.trace.stock import in_stock_order, stock_path

_STOCK = {cls.__name__: head for head, cls in HEADS.items()}


class Activations(dict[str, Tensor]):
    """Canonical site name -> tensor, in forward order; any other spelling indexes it too."""

    def __init__(self, legend: Legend):
        super().__init__()
        self._legend = legend

    def __missing__(self, name: str) -> Tensor:
        return self[self._legend.key(name, self.keys(), are="read")]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


@checked
def read(wrapper: Envoy, sites: str | Sequence[str]) -> Activations:
    """Reads sites inside a trace, in forward order; call it in the block.

    What it gives outlives the block without `.save()`. The tensors are those that flow: gradients
    reach them, and a later edit in place shows in them. In a batch of several invokes each sees its
    own rows. Under `tracer.iter` each call reads one step.

    Args:
        wrapper: What `al.to_nnsight` gave; or nnsight's wrapper of transformers' own Arcee, local
            or remote, whose modules are read where `stock_path` finds them.
        sites: As for `al.capture`.

    Raises:
        ValueError: For a filter that matches nothing, a site that the model has run past or never
            reaches, or one that the stock model does not have.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> lm = al.to_nnsight(model, tokenizer)
        >>> with lm.trace("The dogs near the barn sleep ."):
        ...     acts = al.trace.read(lm, ["hook_logits", "layers.*.mlp.hook_post"])
        >>> list(acts)[0]
        'layers.0.mlp.hook_post'
    """
    if not wrapper.interleaver.interleaving:
        raise ModelError("Call al.trace.read inside the block of `with wrapper.trace(...):`.")
    root: Any = wrapper
    if isinstance(root._module, tuple(HEADS.values())):
        anatomy = anatomy_of(root._module)
        if not isinstance(getattr(root, "hook_embed", None), PointEnvoy):
            raise ModelError("Expected the wrapper that al.to_nnsight gives; wrap the model so.")
        acts = nnsight.save(Activations(anatomy.legend))
        for name in anatomy.resolve(sites):
            acts[name] = root.get(name).output
        return acts
    head = _STOCK.get(type(root._module).__name__)
    if head is None:
        raise ModelError(
            "Expected nnsight's wrapper of an Arcee model, ours or transformers'; got "
            f"{type(root._module).__qualname__}."
        )
    legend = Legend(n_layers=root._module.config.num_hidden_layers, head=head)
    acts = nnsight.save(Activations(legend))
    for name in in_stock_order(legend.resolve(sites)):
        acts[name] = stock_path(name, head=head).read(root)
    return acts
