"""Gradient checkpointing: the same numbers for less memory; layers run twice."""

import pytest
import torch
from reference import NAMES, assert_same_gradients, batch, labels, loss_of, pair

KINDS = [{"use_reentrant": True}, {"use_reentrant": False}]


def grow(model, inputs, head):
    loss = loss_of(head, model(**inputs))
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("head", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_gradients_equal_those_without_it(head, kind, attn):
    plain, _ = pair(head, attn=attn, attention_dropout=0.1)
    saving, _ = pair(head, attn=attn, attention_dropout=0.1)
    inputs = batch()
    inputs |= labels(head, inputs)
    losses = []
    for model in (plain, saving):
        model.train()
        if model is saving:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=kind)
            assert model.is_activation_checkpointing
        torch.manual_seed(3)
        losses.append(grow(model, inputs, head))
    assert torch.equal(*losses)
    for (name, mine), other in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad), name
    saving.activation_checkpointing_disable()
    assert not saving.is_activation_checkpointing


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_recomputed_and_the_cache_is_left_out(kind):
    """Counts firings: twice per layer in training, once in evaluation."""
    ours, _ = pair()
    ours.activation_checkpointing_enable(activation_checkpointing_kwargs=kind)
    fired = []
    for layer in ours.model.layers:
        layer.mlp.hook_post.register_forward_hook(lambda *_: fired.append(1))
    inputs = batch()
    inputs |= labels("causal", inputs)
    ours.train()
    output = ours(**inputs, use_cache=True)
    assert output.cache is None or output.cache.get_seq_length() == 0
    output.loss.backward()
    assert len(fired) == 4
    fired.clear()
    ours.eval()
    ours(**inputs).loss.backward()
    assert len(fired) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_from_embeddings_that_need_gradients(kind):
    """The input gradient too: what adapters and prompt tuning train."""
    gradients = []
    for model in pair():
        model.train()
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kind)
        embeds = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model(inputs_embeds=embeds).logits.square().mean().backward()
        gradients.append(embeds.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("head", NAMES)
def test_frozen_backbone_with_gradients_at_the_inputs(head):
    """As for adapters on a frozen model: gradients have to pass the frozen embeddings."""
    models = pair(head)
    inputs = batch()
    inputs |= labels(head, inputs)
    for model in models:
        model.train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("q_proj" in name)
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": True}
        )
        torch.manual_seed(1)
        grow(model, inputs, head)
    assert_same_gradients(*models, head)
    backbone = getattr(models[0], "model", models[0])
    assert backbone.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
