"""Sparse decoding: where few neurons fire at a token, `down_proj` need not read the others' rows.

At one token per step a linear layer costs what it takes to read its weights. A neuron of a ReLU²
MLP that is off contributes exactly nothing, so its row of `down_proj`'s transpose need not be read:
`embedding_bag` sums the rows of the active neurons, weighted by their activations. The sum is the
dense one without its zeros, so it is equal up to the order of its terms.

Lossless, and so bounded: `up_proj`, attention and the head stay dense. Compare Mirzadeh et al.,
"ReLU Strikes Back", arXiv:2310.04564, section 4; Liu et al., "Deja Vu", arXiv:2310.17157, who
also predict which rows of `up_proj` to read.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from arcee_lab.errors import DeviceError, ModelError, SettingError
from arcee_lab.hooks.restore import replace_method, without_compiled_code
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.runs.arguments import checked

if TYPE_CHECKING:
    import pandas as pd

MOST_TOKENS = 16  # calls with more are not even counted: their tokens share no zeros worth having
TRIAL = 32  # decoding calls after which a layer that was never sparse enough is left alone
COLUMNS = ("layer", "sparse_calls", "dense_calls", "mean_zeros", "copy_bytes")


class _Down:
    """One layer's `down_proj`, its transposed copy, and what was seen of its input."""

    def __init__(self, name: str, linear: nn.Linear, most: int):
        self.name = name
        self.linear = linear
        self.most = most  # active neurons, over all tokens of a call, with which skipping pays
        self.copy: Float[Tensor, "d_mlp d_model"] | None = None
        self.version: int | None = None
        self.one_bag = torch.zeros(1, dtype=torch.int64)  # where the only token's neurons start
        self.sparse = self.dense = self.counted = 0
        self.zeros = 0.0
        self.left_alone = False
        self.copy_bytes = linear.weight.numel() * linear.weight.element_size()

    def take_copy(self) -> None:
        # Columns of [d_model, d_mlp] are strided in memory; gathering those is slower than dense.
        self.copy = self.linear.weight.detach().t().contiguous()
        self.version = _version(self.linear.weight)

    def try_sparse(self, x: Tensor) -> Tensor | None:
        """`down_proj(x)` from the active rows, or None where the dense product is cheaper."""
        rows = x.reshape(-1, x.shape[-1])
        if self.left_alone or not 0 < len(rows) <= MOST_TOKENS or self._has_gradient(x):
            return None
        copy = self._fresh_copy()
        if x.dtype != copy.dtype or torch.is_autocast_enabled(x.device.type):
            return None
        flat = rows.flatten()
        active = flat.nonzero().flatten()
        self.counted += 1
        self.zeros += 1 - len(active) / len(flat)
        if len(active) > self.most:
            return None
        neuron, bags = active, self.one_bag
        if len(rows) > 1:
            neuron = active % rows.shape[1]
            bags = torch.searchsorted(active, torch.arange(0, len(flat), rows.shape[1]))
        out = F.embedding_bag(neuron, copy, bags, mode="sum", per_sample_weights=flat[active])
        if self.linear.bias is not None:
            out = out + self.linear.bias
        return out.view(*x.shape[:-1], copy.shape[1])

    def _has_gradient(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (x.requires_grad or self.linear.weight.requires_grad)

    def _fresh_copy(self) -> Tensor:
        weight, copy = self.linear.weight, self.copy
        assert copy is not None
        same = weight.dtype == copy.dtype and weight.device == copy.device
        if not same or _version(weight) != self.version:
            raise ModelError(
                f"The weight of {self.name} was changed inside al.sparse_decode, whose copy is of "
                "the weight before; end the block first, and open a new one after the change."
            )
        return copy


class SparseDecode:
    """The block that `sparse_decode` gives, and what happened in it.

    Attributes:
        min_zeros: The share of zeros from which the active rows alone are read.
    """

    def __init__(self, downs: list[_Down], min_zeros: float):
        self.min_zeros = min_zeros
        self._downs = downs
        self._undo: ExitStack | None = None

    @property
    def copy_bytes(self) -> int:
        """Memory that the transposed copies take while the block is open, in bytes."""
        return sum(down.copy_bytes for down in self._downs)

    def frame(self) -> "pd.DataFrame":
        """One row per layer: calls of `down_proj` by kind, zeros where they were counted, bytes."""
        import pandas as pd

        rows = [
            (
                layer,
                down.sparse,
                down.dense,
                down.zeros / down.counted if down.counted else float("nan"),
                down.copy_bytes,
            )
            for layer, down in enumerate(self._downs)
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def __enter__(self) -> "SparseDecode":
        if self._undo is not None:
            raise SettingError("This block has run already; call al.sparse_decode(...) again.")
        for down in self._downs:
            _require_plain(down.name, down.linear)  # it may have changed since the call
        with ExitStack() as undo:
            undo.enter_context(without_compiled_code())
            for down in self._downs:
                undo.callback(setattr, down, "copy", None)
                down.take_copy()
                # Not a closure: a deepcopy of the model has to meet our __deepcopy__.
                forward = partial(self._forward, down, down.linear.forward)
                replace_method(down.linear, "forward", forward, undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self._undo is not None
        self._undo.close()
        for down in self._downs:  # the counts stay, the model need not
            del down.linear

    def __deepcopy__(self, memo: dict) -> "SparseDecode":
        raise ModelError("A model cannot be copied inside al.sparse_decode; copy it outside.")

    def _forward(self, down: _Down, dense: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        out = down.try_sparse(x)
        if out is not None:
            down.sparse += 1
            return out
        down.dense += 1
        if down.counted == TRIAL and not down.sparse:
            down.left_alone = True
            self._require_gain()
        return dense(x)

    def _require_gain(self) -> None:
        if all(down.left_alone for down in self._downs):
            best = max(down.zeros / down.counted for down in self._downs)
            raise ModelError(
                f"Sparse decoding would only lose here: over {TRIAL} steps the sparsest of "
                f"{len(self._downs)} layers had {best:.1%} zeros per call, and every layer more "
                f"than {1 - self.min_zeros:.0%} of d_mlp active. Decode without al.sparse_decode."
            )

    def __repr__(self) -> str:
        sparse, dense = (sum(getattr(d, kind) for d in self._downs) for kind in ("sparse", "dense"))
        return (
            f"SparseDecode({len(self._downs)} layers, min_zeros={self.min_zeros}; its copies of "
            f"down_proj take {self.copy_bytes / 2**20:,.1f} MiB; {sparse:,} sparse and {dense:,} "
            "dense calls)"
        )

    def _repr_html_(self) -> str:
        table = self.frame().to_html(index=False, border=0, na_rep="", float_format="{:.3f}".format)
        return f"<p>{escape(repr(self))}</p>{table}"


@checked
def sparse_decode(model: nn.Module, *, min_zeros: float = 0.6) -> SparseDecode:
    """Has `down_proj` read the rows of active neurons only, where that is faster.

    It acts where a call holds few tokens, as each step of `generate` with a cache does, and where
    the neurons active over these tokens, added up, are at most `1 - min_zeros` of d_mlp. Everything
    else runs dense as before, and `frame()` says how often: a prompt, larger batches, denser
    tokens, anything that needs a gradient, autocast. A layer that is too dense for 32 steps is
    left alone from then on.

    In fp32 outputs differ from dense ones in the order of summation alone; greedy ids are the same
    but for exact near-ties. In bf16 both round, each about 2e-3 from the fp32 result, relative to
    the largest output. Hooks, captures and interventions see what they see without it.

    While the block is open, a transposed copy of every layer's `down_proj` is held in memory:
    `copy_bytes` of them, 3.4 GB for AFM-4.5B in bf16. On models as small as the demo, whose
    weights stay in the processor's cache, finding the active rows costs more than it saves; see
    benchmarks/RESULTS.md.

    Args:
        model: One of arcee_lab's models, on the CPU.
        min_zeros: Share of zeros from which reading the active rows pays, between 0 and 1.

    Returns:
        A context manager with `copy_bytes` and `frame()`. Afterwards the model is as before.

    Raises:
        ValueError: On another device, where finding the active rows waits for it; for weights that
            are quantised, offloaded, split over ranks or wrapped; for weights changed inside the
            block; and, after 32 steps, for a model none of whose layers is sparse enough.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> prompt = tokenizer("The horses behind the old boat", return_tensors="pt")
        >>> with al.sparse_decode(model) as block:
        ...     ids = model.generate(**prompt, max_new_tokens=4, do_sample=False)
        >>> block.copy_bytes == 4 * 128 * 896 * 4  # layers, d_model, d_mlp, fp32
        True
    """
    if not 0 <= min_zeros < 1:
        raise SettingError(f"min_zeros is {min_zeros}; expected a share from 0 to below 1.")
    downs = []
    for number, layer in enumerate(anatomy_of(model).backbone.layers):
        linear: Any = unwrap(layer).get_submodule("mlp.down_proj")
        name = f"layers.{number}.mlp.down_proj"
        _require_plain(name, linear)
        downs.append(_Down(name, linear, int((1 - min_zeros) * linear.in_features)))
    return SparseDecode(downs, min_zeros)


def _require_plain(name: str, linear: Any) -> None:
    weight = getattr(linear, "weight", None)
    if type(linear) is not nn.Linear or type(weight) is not nn.Parameter:
        raise ModelError(
            f"{name} is {type(linear).__module__}.{type(linear).__qualname__} with a "
            f"{type(weight).__name__}; sparse decoding reads rows of a plain nn.Linear. Merge "
            "adapters, or load the model in full precision and unsharded."
        )
    if weight.device.type != "cpu":
        raise DeviceError(
            f"{name} is on {weight.device}; sparse decoding gains on the CPU only: elsewhere "
            "the list of active rows has to be waited for at every layer. Decode without it."
        )
    if "forward" in linear.__dict__:
        raise ModelError(
            f"{name}.forward is replaced already, by another al.sparse_decode or another tool; end "
            "that first."
        )


def _version(weight: Tensor) -> int | None:
    return None if weight.is_inference() else weight._version
