"""CETT: how many neurons can be dropped at a token for a stated error of the MLP's output.

Neuron i adds `n_i = a_i w_i` to the residual stream, a_i its activation and w_i its column of the
down projection. Dropping D = {i: ‖n_i‖ < eps} changes y = Σ n_i, relative to its length, by

    CETT(eps) = mean over tokens of ‖Σ_{i in D} n_i‖ / ‖y‖,    sparsity(eps) = |D| / d_mlp.

Source: Zhang et al., "ReLU² Wins", arXiv:2402.03804 (cumulative error of tail truncation); Luo et
al., "Sparsing Law", arXiv:2411.02335, equation 3. Without a gate ‖n_i‖ = a_i ‖w_i‖, so the cut is a
threshold per neuron, `relu(u_i) < sqrt(eps / ‖w_i‖)`: one comparison, which `al.Cett` makes.

The papers search eps by bisection, at one matrix product per step. Here each token's active
neurons are sorted by ‖n_i‖ into bins once; running sums over the bins then give CETT at all
edges, exactly.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from arcee_lab.data.windows import Windows
from arcee_lab.errors import ModelError
from arcee_lab.model.fingerprint import model_name
from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar
from arcee_lab.sparsity.sampled.cett_curves import CettCurves
from arcee_lab.sparsity.sampled.mlp_hooks import at_down
from arcee_lab.sparsity.sampled.mlps import Mlp, mlps
from arcee_lab.sparsity.sampled.sample import Sample, draw

EDGES = 128  # thresholds per layer, spread evenly over the octaves that matter
_OCTAVES = (-40, 24)  # of ‖n_i‖, where the first batch looks for those
_RANGE = (1e-3, 0.9)  # the CETT that the edges have to cover
_CHUNK = 2**26  # bytes of running sums at once


@checked
def cett(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    sample_tokens: int | None = None,
    batch_size: int = 8,
    context: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CettCurves:
    """Measures CETT and sparsity of every layer at 128 thresholds, on a sample of tokens.

    Each layer is cut alone, as in the papers: its error is that of its own output, on the
    activations of the whole model. `cett_ppl` measures what cutting all of them does to the model.
    Padding and first positions do not count.

    Args:
        model: A model whose MLPs are ungated relu or relu², any head.
        tokenizer: Its tokenizer.
        texts: Documents, or the windows that `arcee_lab.data.windows.cut` made of them.
        sample_tokens: Size of the sample; None takes 4,096, or all there are if fewer.
        batch_size: Windows per forward pass.
        context: Longest window in tokens; by default 1,024, or what the model can read if less.
        seed: Random seed of the order in which documents are drawn.
        progress: Whether to show a bar on stderr.

    Returns:
        The curves; `thresholds` and `interventions` of them cut at a chosen CETT.

    Raises:
        ValueError: A gated MLP, texts that hold too little, or NaN activations.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> curves = al.sparsity.cett(model, tokenizer, ["The dogs near the gate bark ."])
        >>> bool((curves.sparsity_at(0.2) > curves.zeros).all())
        True
    """
    model = unwrap(model)
    sample = draw(model, tokenizer, texts, sample_tokens=sample_tokens, context=context, seed=seed)
    return measure_curves(model, sample, batch_size=batch_size, seed=seed, progress=progress)


def measure_curves(
    model: Any, sample: Sample, *, batch_size: int, seed: int, progress: bool | None = None
) -> CettCurves:
    """The curves of a sample that has been drawn; see `cett`."""
    found = mlps(model)
    device = device_of(model)
    norms = torch.stack([mlp.write_norms().to(device) for mlp in found])
    first = next(sample.batches(batch_size, device))
    octaves = torch.arange(*_OCTAVES, device=device).exp2().repeat(len(found), 1)
    edges = _spread(_count(model, found, norms, [first], octaves)[0], octaves)
    batches = progress_bar(sample.batches(batch_size, device), show=progress, unit="batch")
    error, dropped, active, n_tokens = _count(model, found, norms, batches, edges)
    bad = [layer for layer, row in enumerate(error) if not bool(row.isfinite().all())]
    if bad:
        raise ModelError(
            f"layer {bad[0]} holds NaN or infinite activations, so no error below them is true; "
            "load the model in float32, or check its weights."
        )
    return CettCurves(
        model=model_name(model),
        n_tokens=n_tokens,
        n_documents=sample.windows.n_documents,
        seed=seed,
        eps=edges.double().cpu(),
        error=(error / n_tokens).cpu(),
        dropped=dropped.cpu(),
        active=active.cpu(),
        norms=norms.cpu(),
        squared=all(mlp.squared for mlp in found),
    )


def _count(
    model: Any,
    found: Sequence[Mlp],
    norms: Float[Tensor, "layer d_mlp"],
    batches: Iterable[Any],
    edges: Float[Tensor, "layer edge"],
) -> tuple[Float[Tensor, "layer edge"], Int[Tensor, "layer edge"], Int[Tensor, " layer"], int]:
    """Sums over tokens: errors and dropped neurons at each edge, and active neurons."""
    error = torch.zeros(edges.shape, dtype=torch.float64, device=edges.device)
    dropped = torch.zeros(edges.shape, dtype=torch.int64, device=edges.device)
    active = torch.zeros(len(found), dtype=torch.int64, device=edges.device)
    n_tokens = 0
    for batch in batches:
        n_tokens += int(batch.counted.sum())

        def see(layer: int, a: Tensor, u: Tensor, counted: Tensor = batch.counted) -> None:
            weight = found[layer].down_weight().to(torch.float32).t().contiguous()
            rows = _CHUNK // (4 * weight.shape[1] * (edges.shape[1] + 1)) + 1
            for chunk in a[counted].split(rows):
                lengths, below = tails(chunk, weight, norms[layer], edges[layer])
                # A token whose MLP adds nothing loses nothing; NaN stays, to be found.
                share = lengths[:, :-1] / lengths[:, -1:].masked_fill(lengths[:, -1:] == 0, 1)
                error[layer] += share.double().sum(0)
                dropped[layer] += below
                active[layer] += chunk.count_nonzero()

        with torch.no_grad(), at_down(found, see):
            model.base_model(**batch.inputs)
    return error, dropped, active, n_tokens


def tails(
    a: Float[Tensor, "token d_mlp"],
    weight: Float[Tensor, "d_mlp d_model"],
    norms: Float[Tensor, " d_mlp"],
    edges: Float[Tensor, " edge"],
) -> tuple[Float[Tensor, "token edge+1"], Int[Tensor, " edge"]]:
    """What the neurons below each threshold add up to.

    Args:
        a: Activations.
        weight: The down projection, transposed, fp32.
        norms: Lengths of its rows.
        edges: Ascending thresholds eps.

    Returns:
        For each token ‖Σ n_i‖ over the neurons with ‖n_i‖ < eps, at each eps, and last over all of
        them, which is ‖y‖; and for each eps how many neurons are below, over all tokens.
    """
    n, bins = len(a), len(edges) + 1
    token, neuron = a.nonzero(as_tuple=True)
    value = a[token, neuron].to(torch.float32)
    at = torch.bucketize(value * norms[neuron], edges, right=True)  # edges[at-1] <= ‖n‖ < edges[at]
    key, order = (token * bins + at).sort(stable=True)
    bags = torch.searchsorted(key, torch.arange(n * bins, device=a.device))
    sums = F.embedding_bag(neuron[order], weight, bags, mode="sum", per_sample_weights=value[order])
    running = sums.view(n, bins, -1).cumsum(dim=1)
    inside = torch.bincount(at, minlength=bins).cumsum(0)[:-1]
    return running.norm(dim=-1), a.numel() - len(value) + inside


def _spread(
    error: Float[Tensor, "layer octave"], octaves: Float[Tensor, "layer octave"]
) -> Float[Tensor, "layer edge"]:
    """Even steps, in octaves, from where CETT begins to be felt to where it is nearly all."""
    share = error / error[:, -1:].clamp(min=torch.finfo(error.dtype).tiny)
    last = octaves.shape[1] - 1
    low = ((share < _RANGE[0]).sum(dim=1) - 1).clamp(0, last)
    high = ((share < _RANGE[1]).sum(dim=1) + 1).clamp(0, last)
    ends = torch.stack([low, torch.maximum(high, low + 1).clamp(max=last)])
    powers = octaves[0].log2()[ends]  # [2, layer]
    steps = torch.linspace(0, 1, EDGES, device=octaves.device)[:, None]
    return (powers[0] + (powers[1] - powers[0]) * steps).exp2().t().contiguous()
