"""CETT, losses and truncation computed token by token on transformers' own model."""

from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

CONTEXT = 24


def reference_of(model):
    """transformers' own Arcee with the same weights."""
    from transformers.models.arcee import configuration_arcee, modeling_arcee

    config = configuration_arcee.ArceeConfig(
        **model.config.to_dict(), attn_implementation=model.config._attn_implementation
    )
    reference = modeling_arcee.ArceeForCausalLM(config).to(model.dtype).eval()
    reference.load_state_dict(model.state_dict())
    return reference


@contextmanager
def changed_post(reference, change):
    """`change(layer, u, a)` gives the activations that flow on in every layer."""
    with ExitStack() as undo:
        for number, layer in enumerate(reference.model.layers):

            def hook(module, args, a, number=number):
                return change(number, args[0], a)

            undo.callback(layer.mlp.act_fn.register_forward_hook(hook).remove)
        yield


def rows_of(sample) -> list[Tensor]:
    """The windows of a sample, one by one, without padding."""
    windows = sample.windows
    return [torch.from_numpy(windows[i]).long() for i in range(len(windows))]


def dense(model, sample) -> tuple[Tensor, Tensor]:
    """(u, a) `[layer, token, d_mlp]` at all tokens but the first of each window."""
    reference, kept = reference_of(model), []

    def keep(layer, u, a):
        kept[-1].append((u[0, 1:], a[0, 1:]))

    for ids in rows_of(sample):
        kept.append([])
        with torch.no_grad(), changed_post(reference, keep):
            reference(ids[None])
    layers = range(model.config.num_hidden_layers)
    return tuple(
        torch.stack([torch.cat([one[layer][what] for one in kept]) for layer in layers])
        for what in (0, 1)
    )


def losses(model, sample, change=None) -> list[Tensor]:
    """-log p of each predicted token, window by window."""
    reference, found = reference_of(model), []
    for ids in rows_of(sample):
        with torch.no_grad(), changed_post(reference, change or (lambda layer, u, a: a)):
            log_p = reference(ids[None]).logits[0].double().log_softmax(-1)
        found.append(torch.tensor([-log_p[t, ids[t + 1]] for t in range(len(ids) - 1)]))
    return found
