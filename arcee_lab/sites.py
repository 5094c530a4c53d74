"""The legend: every hook point, its shape, its place in the forward pass, its other spellings.

Axis words, the same in every annotation, docstring and frame of the package:

    batch    sequence of a batch            head     query head
    pos      token of this call             kv_head  key and value head
    q_pos    query token of this call       d_head   width of a head
    k_pos    key token, cache included      d_model  width of the residual stream
    d_mlp    ReLU² neuron                   vocab    token of the vocabulary
    n_labels class of a head

A canonical name is the path inside the backbone, or `hook_logits`. It is the same on all classes.
"""

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, NoReturn

from arcee_lab.errors import SiteError, UnknownName, WrongType

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Site:
    """One hook point of the table.

    Attributes:
        template: Canonical name, `{L}` for the layer.
        axes: Axis words of its shape, in order.
        what: What the tensor is.
        dtype: "model" or "float32".
    """

    template: str
    axes: Axes
    what: str
    dtype: Literal["model", "float32"] = "model"

    @property
    def on_request(self) -> bool:
        """Whether the tensor exists only if it is requested by name."""
        return self.axes[-1] == "k_pos"


class SiteTable(dict[str, Site]):
    """Canonical name -> site, in forward order; read-only, because equal legends share one."""

    def __reduce__(self) -> Any:
        return SiteTable, (dict(self),)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise WrongType("The table of hook points is read-only; copy it with dict(sites) first.")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]


_NEURONS = ("batch", "pos", "d_mlp")
_RESID = ("batch", "pos", "d_model")
_QUERY = ("batch", "pos", "head", "d_head")
_KEY = ("batch", "pos", "kv_head", "d_head")
_PAIRS = ("batch", "head", "q_pos", "k_pos")


def _norm(path: str, what: str) -> tuple[Site, Site]:
    return (
        Site(f"{path}.hook_scale", ("batch", "pos", "1"), f"fp32 multiplier of {what}", "float32"),
        Site(f"{path}.hook_normalized", _RESID, f"output of {what}"),
    )


EMBED = Site("hook_embed", _RESID, "token embeddings")
LAYER: tuple[Site, ...] = (
    Site("layers.{L}.hook_resid_pre", _RESID, "residual stream before the layer"),
    *_norm("layers.{L}.input_layernorm", "the norm before attention"),
    Site("layers.{L}.self_attn.hook_q", _QUERY, "queries before RoPE"),
    Site("layers.{L}.self_attn.hook_k", _KEY, "keys before RoPE"),
    Site("layers.{L}.self_attn.hook_v", _KEY, "values"),
    Site("layers.{L}.self_attn.hook_rot_q", _QUERY, "queries after RoPE"),
    Site("layers.{L}.self_attn.hook_rot_k", _KEY, "keys after RoPE, new tokens only"),
    Site("layers.{L}.self_attn.hook_scores", _PAIRS, "scaled scores before the mask"),
    Site("layers.{L}.self_attn.hook_pattern", _PAIRS, "attention pattern after softmax"),
    Site("layers.{L}.self_attn.hook_z", _QUERY, "weighted values before o_proj"),
    Site("layers.{L}.hook_attn_out", _RESID, "what attention adds"),
    Site("layers.{L}.hook_resid_mid", _RESID, "residual stream between the blocks"),
    *_norm("layers.{L}.post_attention_layernorm", "the norm before the MLP"),
    Site("layers.{L}.mlp.hook_pre", _NEURONS, "u, before the ReLU"),
    Site("layers.{L}.mlp.hook_relu", _NEURONS, "relu(u)"),
    Site("layers.{L}.mlp.hook_post", _NEURONS, "relu(u)², the neurons"),
    Site("layers.{L}.hook_mlp_out", _RESID, "what the MLP adds"),
    Site("layers.{L}.hook_resid_post", _RESID, "residual stream after the layer"),
)
FINAL: tuple[Site, ...] = _norm("norm", "the final norm")

LOGIT_AXES: dict[str, Axes] = {
    "causal": ("batch", "pos", "vocab"),
    "sequence": ("batch", "n_labels"),
    "token": ("batch", "pos", "n_labels"),
    "qa": ("batch", "pos", "n_labels"),
}

# TransformerLens paths, segment by segment. Names that mean another quantity there have no alias.
_LENS_SEGMENTS = {
    "blocks": "layers",
    "attn": "self_attn",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "ln_final": "norm",
}
_LENS_NORMS = ("ln1", "ln2", "ln_final")

_LONGEST_NAME = 100  # characters of a wrong name that are compared with the right ones
_MOST_NAMES = 4096  # right names that it is compared with; 150 layers have fewer

_NOT_THE_SAME = {
    r"(^|\.)(ln1|ln2|ln_final)\.hook_normalized$": (
        "TransformerLens's hook_normalized is taken before the norm's weight, ours after it. Ask "
        "for e.g. 'blocks.0.ln1.hook_out', which is ours, and divide it by the weight."
    ),
    r"(^|\.)(ln1|ln2|ln_final)\.[^.]*[*?\[]": (
        "it reaches hook_scale and hook_normalized, which mean other quantities in "
        "TransformerLens. Ask for 'hook_out' by name."
    ),
    r"(^|\.)(ln1|ln2|ln_final)\.hook_scale$": (
        "TransformerLens's hook_scale divides, ours multiplies. Ask for e.g. "
        "'layers.0.input_layernorm.hook_scale' and invert it."
    ),
    r"(^|\.)hook_attn_scores$": (
        "TransformerLens's scores are masked, ours are taken before the mask. Ask for e.g. "
        "'layers.0.self_attn.hook_scores'."
    ),
}


@dataclass(frozen=True)
class Legend:
    """All hook points of one model, in the order in which its forward reaches them.

    Attributes:
        n_layers: Decoder layers.
        head: "base", "causal", "sequence", "token" or "qa".

    Example:
        >>> from arcee_lab.sites import Legend
        >>> Legend(n_layers=2, head="causal").resolve("blocks.*.mlp.hook_post")
        ['layers.0.mlp.hook_post', 'layers.1.mlp.hook_post']
    """

    n_layers: int
    head: str

    def sites(self) -> SiteTable:
        """Canonical name -> site, in forward order."""
        return _sites(self)

    def resolve(self, filters: str | Iterable[str]) -> list[str]:
        """Returns the canonical names that the filters ask for, in forward order.

        Args:
            filters: Names, globs (`layers.*.mlp.hook_post`), layer ranges
                (`layers.4:12.mlp.hook_post`, `layers.-1.hook_resid_post`) or TransformerLens
                spellings (`blocks.3.mlp.hook_post`), each with or without a leading `model.`.
                A wildcard reaches `hook_scores` and `hook_pattern`, which cost a matrix of
                q_pos × k_pos per head, only if the filter spells one of these words.

        Raises:
            ValueError: If a filter matches nothing; the nearest names are shown.
        """
        filters = [filters] if isinstance(filters, str) else list(filters)
        if not filters:
            raise SiteError("No site was given; expected at least one name or glob.")
        sites = self.sites()
        wanted: set[str] = set()
        for text in filters:
            for ending, why in _NOT_THE_SAME.items():
                if re.search(ending, text):
                    raise SiteError(f"{text!r} has no alias: {why}")
            matches = [name for one in self._expand(text) for name in self._match(one, sites)]
            if not matches:
                raise SiteError(self._nothing(text, sites))
            wanted.update(matches)
        return [name for name in sites if name in wanted]

    def canonical(self, name: str) -> str:
        """Returns the one canonical name that `name` spells.

        Raises:
            ValueError: If it spells none, or several.
        """
        if name in self.sites():  # most callers hold one already, and resolving takes regexes
            return name
        names = self.resolve(name)
        if len(names) != 1:
            raise SiteError(f"{name!r} names {len(names)} sites; expected one, e.g. {names[0]!r}.")
        return names[0]

    def key(self, name: object, held: Collection[str], *, are: str) -> str:
        """The canonical name of a key of some mapping from sites.

        Args:
            name: The key, in any spelling.
            held: Canonical names that the mapping holds.
            are: What these are, for the error, e.g. "captured".

        Raises:
            UnknownName: The key is no name of a site, or of none that the mapping holds.
        """
        if isinstance(name, str) and name in held:
            return name
        if not isinstance(name, str):
            raise UnknownName(f"{name!r} is no name of a site; expected one of those {are}.")
        try:
            canonical = self.canonical(name)
        except SiteError as error:
            raise UnknownName(str(error)) from None
        if canonical not in held:
            near = difflib.get_close_matches(canonical, list(held)[:_MOST_NAMES], n=3, cutoff=0.0)
            raise UnknownName(
                f"{canonical} was not {are}; of the {len(held):,} that were, the nearest "
                f"{'is' if len(near) == 1 else 'are'} {', '.join(near)}."
            )
        return canonical

    def shares_tensor_with(self, name: str) -> str | None:
        """Name of the hook point just before that holds the same tensor, or `None`."""
        if not name.endswith(".hook_resid_pre"):
            return None
        layer = int(name.split(".")[1])
        return EMBED.template if layer == 0 else f"layers.{layer - 1}.hook_resid_post"

    def _expand(self, text: str) -> list[str]:
        """Translates spellings and layer ranges; returns globs over canonical names."""
        text = re.sub(r"^(model|transformer)\.", "", text.strip())
        given = text.split(".")
        segments = [_LENS_SEGMENTS.get(s, s) for s in given]
        if given[-1] == "hook_out" and len(given) > 1 and given[-2] in _LENS_NORMS:
            segments[-1] = "hook_normalized"  # both are the norm's output
        if len(segments) > 1 and segments[0] == "layers":
            number = re.fullmatch(r"(-?\d*):(-?\d*)|(-\d+)", segments[1])
            if number:
                start, stop, single = number.groups()
                layers = range(self.n_layers)
                if single:
                    chosen = [layers[int(single)]] if -int(single) <= self.n_layers else []
                else:
                    chosen = list(layers[slice(_int(start), _int(stop))])
                return [".".join(["layers", str(i), *segments[2:]]) for i in chosen]
        return [".".join(segments)]

    def _match(self, glob: str, sites: Mapping[str, Site]) -> list[str]:
        if glob in sites:
            return [glob]
        last = glob.rsplit(".", 1)[-1]
        spelled = "scores" in last or "pattern" in last
        names = fnmatch.filter(sites, glob)
        return [name for name in names if spelled or not sites[name].on_request]

    def _nothing(self, text: str, sites: Mapping[str, Site]) -> str:
        # The search takes time in proportion to both lengths, and either may be anyone's.
        wanted, names = self._readable(text)[:_LONGEST_NAME], list(islice(sites, _MOST_NAMES))
        near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
        have = f"the model has layers 0 to {self.n_layers - 1} and the head {self.head!r}"
        hint = f"nearest: {', '.join(near)}" if near else "all names: docs/reference/sites.md"
        shown = text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "..."
        return f"{shown!r} matches no hook point ({have}); {hint}."

    def _readable(self, text: str) -> str:
        expanded = self._expand(text)
        return expanded[0] if expanded else text


@lru_cache(maxsize=64)
def _sites(legend: Legend) -> SiteTable:
    named = {EMBED.template: EMBED}
    for layer in range(legend.n_layers):
        named |= {site.template.format(L=layer): site for site in LAYER}
    named |= {site.template: site for site in FINAL}
    if legend.head in LOGIT_AXES:
        named["hook_logits"] = Site("hook_logits", LOGIT_AXES[legend.head], "output of the head")
    return SiteTable(named)


def _int(text: str) -> int | None:
    return int(text) if text else None


def unit_name(layer: int, unit: int) -> str:
    """A unit as people read it: `L1/N32`; with a dot, layer 1 unit 51 would read as a decimal."""
    return f"L{layer}/N{unit}"


def head_name(layer: int, head: int) -> str:
    """A head as people read it: `L1/H3`."""
    return f"L{layer}/H{head}"


def site_label(name: str) -> str:
    """A hook point as figures write it: "embed", "L3/mid" (residual stream), "L3/mlp.post"."""
    if name == EMBED.template:
        return "embed"
    place, _, point = name.replace("hook_", "").partition(".")
    if place != "layers":
        return name.replace("hook_", "")
    layer, _, point = point.partition(".")
    return f"L{layer}/{point.removeprefix('resid_')}"


def markdown_table() -> str:
    """The legend as a Markdown table, one row per hook point; docs/reference/sites.md holds it."""
    rows = ["| name | shape | what |", "|---|---|---|"]
    for site in (EMBED, *LAYER, *FINAL):
        name = site.template.replace("{L}", "L")
        asked = " (only when asked for by name)" if site.on_request else ""
        rows.append(f"| `{name}` | {' '.join(site.axes)} | {site.what}{asked} |")
    shapes = "; ".join(f"{head}: {' '.join(axes)}" for head, axes in LOGIT_AXES.items())
    rows.append(f"| `hook_logits` | {shapes} | output of the head |")
    return "\n".join(rows) + "\n"
