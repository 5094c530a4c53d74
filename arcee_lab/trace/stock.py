"""Where transformers' own Arcee, which has no hook points, holds the value of one of our sites."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from arcee_lab.errors import ModelError
from arcee_lab.results import Result
from arcee_lab.runs.arguments import checked
from arcee_lab.sites import Legend

if TYPE_CHECKING:
    import pandas as pd

# Site inside a layer -> where the stock layer has it: path, element of a tuple, flat heads.
_LAYER: dict[str, tuple[str, int | None, bool]] = {
    "hook_resid_pre": ("input", None, False),
    "input_layernorm.hook_normalized": ("input_layernorm.output", None, False),
    "self_attn.hook_q": ("self_attn.q_proj.output", None, True),
    "self_attn.hook_k": ("self_attn.k_proj.output", None, True),
    "self_attn.hook_v": ("self_attn.v_proj.output", None, True),
    "self_attn.hook_pattern": ("self_attn.output", 1, False),
    "self_attn.hook_z": ("self_attn.o_proj.input", None, True),
    "hook_attn_out": ("self_attn.output", 0, False),
    "hook_resid_mid": ("post_attention_layernorm.input", None, False),
    "post_attention_layernorm.hook_normalized": ("post_attention_layernorm.output", None, False),
    "mlp.hook_pre": ("mlp.up_proj.output", None, False),
    "mlp.hook_post": ("mlp.act_fn.output", None, False),
    "hook_mlp_out": ("mlp.output", None, False),
    "hook_resid_post": ("output", None, False),
}
_ELSEWHERE = {"hook_embed": "embed_tokens.output", "norm.hook_normalized": "norm.output"}
_LOGITS = {
    "causal": "lm_head.output",
    "sequence": "output.logits",  # its `score` scores every token; the pooled ones are here
    "token": "score.output",
    "qa": "qa_outputs.output",
}
_BACKBONES = {"base": "", "causal": "model.", "sequence": "model.", "token": "model."}
_BACKBONES["qa"] = "transformer."

_WHY_NOT = {
    "hook_relu": "It is torch.relu of mlp.hook_pre.",
    "hook_scale": "It is rsqrt(mean(x²) + eps) of what goes into the norm, in fp32.",
    "hook_rot_q": "It is self_attn.hook_q after RoPE.",
    "hook_rot_k": "It is self_attn.hook_k after RoPE.",
    "hook_scores": "Read self_attn.hook_pattern of a model under eager attention.",
}


@dataclass(frozen=True, repr=False)
class StockPath(Result):
    """Where nnsight finds a site's value on a wrapped model of transformers' own classes.

    Attributes:
        path: From the wrapper's root, as `wrapper.get(path)` takes it inside a trace.
        item: Which element of the value, where a module returns several.
        flat_heads: Whether the last axis holds heads side by side: `[batch, pos, head * d_head]`.
    """

    path: str
    item: int | None = None
    flat_heads: bool = False

    def read(self, wrapper: Any) -> Tensor:
        """The value in our site's shape; inside a trace of `wrapper`.

        Raises:
            ValueError: If the model does not make it: the pattern, under any kernel but eager.
        """
        value = wrapper.get(self.path)
        if self.item is not None:
            value = value[self.item]
        if value is None:
            raise ModelError(
                f"{self} is None: only eager attention makes a pattern in transformers' own "
                'Arcee. Load it with attn_implementation="eager".'
            )
        if not self.flat_heads:
            return value
        config = wrapper._module.config
        d_head = getattr(config, "head_dim", None)
        d_head = d_head or config.hidden_size // config.num_attention_heads
        return value.view(*value.shape[:-1], -1, d_head)

    @property
    def headline(self) -> str:
        """The path, with the element of a tuple."""
        return str(self)

    def frame(self) -> "pd.DataFrame":
        """One row: path, item, flat_heads."""
        import pandas as pd

        return pd.DataFrame([vars(self)])

    def __str__(self) -> str:
        return self.path if self.item is None else f"{self.path}[{self.item}]"


@checked
def stock_path(site: str, *, head: str = "causal") -> StockPath:
    """Maps one of our sites to the stock model, for traces that run where ours is not installed.

    Only modules count, never nnsight's `.source`: that is tied to the wording of transformers'
    code, and a model whose source was once asked for can no longer be compiled.

    Args:
        site: One site with its layer, in any spelling.
        head: "base", "causal", "sequence", "token" or "qa".

    Raises:
        ValueError: If no module of the stock model has the value, or the name is no site.

    Example:
        >>> import arcee_lab as al
        >>> al.trace.stock_path("layers.3.mlp.hook_post").path
        'model.layers.3.mlp.act_fn.output'
    """
    if head not in _BACKBONES:
        raise ModelError(f"head={head!r}; expected one of {', '.join(_BACKBONES)}.")
    layer = re.search(r"\b(?:layers|blocks)\.(\d+)\.", site)
    legend = Legend(n_layers=int(layer[1]) + 1 if layer else 1, head=head)
    name = legend.canonical(site)
    backbone = _BACKBONES[head]
    if name == "hook_logits":
        return StockPath(_LOGITS[head])
    if name in _ELSEWHERE:
        return StockPath(backbone + _ELSEWHERE[name])
    parts = name.split(".")
    found = _LAYER.get(".".join(parts[2:]))
    if found is None:
        raise ModelError(
            f"No module of transformers' own Arcee has the value of {name}. {_WHY_NOT[parts[-1]]}"
        )
    path, item, flat_heads = found
    return StockPath(f"{backbone}layers.{parts[1]}.{path}", item, flat_heads)


def in_stock_order(names: list[str]) -> list[str]:
    """Sorts sites as the stock model reaches them: its attention returns the pattern last."""

    def late(name: str) -> tuple[int, int]:
        head, _, last = name.rpartition(".")
        z = f"{head}.hook_z"
        if last == "hook_pattern" and z in names:
            return names.index(z), 1
        return names.index(name), 0

    return sorted(names, key=late)
