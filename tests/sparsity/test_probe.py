"""The trained probe: its numbers from their definitions, and that training is worth it."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slowly import CONTEXT

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.errors import TextError
from arcee_lab.sparsity import coactivation
from arcee_lab.sparsity.sampled._probe import BUDGETS, at_budgets, probe
from arcee_lab.sparsity.sampled.sample import draw

HOW = {"sample_tokens": 900, "context": CONTEXT, "seed": 5}


@pytest.fixture(scope="module")
def texts():
    return [document.text for document in documents(n=120, seed=2, split="test")]


@pytest.fixture(scope="module")
def trained(demo, texts):
    return probe(*demo, texts, 1, steps=100, batch_size=32, **HOW)


@settings(max_examples=25)
@given(d_mlp=st.integers(1, 20), p=st.floats(0, 1), seed=st.integers(0, 99))
def test_budgets_are_counted_token_by_token(d_mlp, p, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(5, d_mlp, generator=generator)
    fires = torch.rand(5, d_mlp, generator=generator) < p
    mass = torch.rand(5, d_mlp, generator=generator) * fires
    recall, weighted = at_budgets(scores, fires, mass)
    for t in range(5):
        active = set(fires[t].nonzero()[:, 0].tolist())
        for at, budget in enumerate(BUDGETS):
            size = min(d_mlp, max(1, int(np.ceil(budget * len(active)))))
            chosen = set(scores[t].argsort(descending=True)[:size].tolist())
            if active:
                assert float(recall[t, at]) == pytest.approx(len(chosen & active) / len(active))
                held = sum(float(mass[t, i]) for i in chosen & active)
                assert float(weighted[t, at]) == pytest.approx(held / float(mass[t].sum()))
            else:
                assert float(recall[t, at]) == 0


def test_numbers_are_those_of_its_scores_on_held_out_documents(demo, texts, trained):
    model, _ = demo
    sites = ["layers.1.post_attention_layernorm.hook_normalized", "layers.1.mlp.hook_post"]
    said, fired, documents_ = [], [], []
    for batch in draw(*demo, texts, **HOW).batches(16, model.device):
        with torch.no_grad(), al.capture(model, sites) as acts:
            model(**batch.inputs)
        group = batch.groups[:, None].expand_as(batch.ids)[batch.counted]
        out = group % 2 == 1
        said.append(trained.scores(acts[sites[0]][batch.counted])[out])
        fired.append((acts[sites[1]][batch.counted] > 0)[out])
        documents_.append(group[out])
    scores, fires = torch.cat(said), torch.cat(fired)
    some = fires.any(1)
    order = scores.argsort(1, descending=True)
    hits = []
    for row, active in zip(order[some], fires[some], strict=True):
        hits.append(float(active[row[: int(active.sum())]].float().mean()))
    frame = trained.frame().set_index(["predictor", "budget"])
    assert frame.loc[("probe", 1.0), "recall"] == pytest.approx(np.mean(hits), abs=1e-4)
    assert trained.tokens.sum() == some.sum()
    both = float(((scores > 0) & fires).sum())
    expected = (both / fires.sum(), both / (scores > 0).sum(), 1 - (scores > 0).double().mean())
    assert trained.above == pytest.approx([float(x) for x in expected], abs=1e-4)


def test_training_is_worth_it(trained):
    frame = trained.frame().set_index(["predictor", "budget"])
    for budget in (1.0, 2.0):
        low = frame.loc[("probe", budget), "recall_low"]
        assert low > frame.loc[("svd", budget), "recall_high"]
        assert low > frame.loc[("hot", budget), "recall_high"]
    assert (frame["recall_low"] <= frame["recall"]).all()
    assert (frame["recall"] <= frame["recall_high"]).all()


def test_full_rank_svd_names_every_neuron(demo, texts):
    found = probe(*demo, texts, 0, rank=128, steps=1, **(HOW | {"sample_tokens": 200}))
    frame = found.frame().set_index(["predictor", "budget"])
    assert frame.loc[("svd", 1.0), "recall"] == pytest.approx(1.0, abs=1e-3)


def test_repeats_itself_and_leaves_the_model_alone(demo, texts):
    model, _ = demo
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # transformers leaves hooks of its own where output_hidden_states was asked for.
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    small = HOW | {"sample_tokens": 200}
    state = torch.random.get_rng_state()
    one, two = (probe(*demo, texts, 1, rank=4, steps=5, **small) for _ in range(2))
    assert torch.equal(one.a, two.a)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert one.cost == pytest.approx(4 * (128 + 896) / (128 * 896))


def test_bars_on_request(demo, texts, capsys):
    small = HOW | {"sample_tokens": 200}
    probe(*demo, texts, 1, rank=4, steps=3, **small)
    coactivation(*demo, texts, 1, **small)
    assert capsys.readouterr() == ("", "")
    probe(*demo, texts, 1, rank=4, steps=3, progress=True, **small)
    shown = capsys.readouterr().err
    assert "batch" in shown
    assert "3/3" in shown
    coactivation(*demo, texts, 1, progress=True, **small)
    assert "batch" in capsys.readouterr().err


def test_what_it_shows_and_refuses(demo, texts, trained):
    assert "a probe of rank 16, 14% of the up projection" in trained.headline
    for figure in (trained.figure(), trained.figure(weighted=True, dark=True)):
        assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="rank is 0; expected 1 to 128"):
        probe(*demo, texts, 1, rank=0)
    with pytest.raises(ValueError, match="steps is 0"):
        probe(*demo, texts, 1, steps=0)
    with pytest.raises(ValueError, match="layer is -1; expected 0 to 3"):
        probe(*demo, texts, -1)
    with pytest.raises(ValueError, match="make one window"):
        probe(*demo, ["The dogs sleep ."], 1)


def test_a_silent_layer_is_refused(demo, texts):
    model = copy.deepcopy(demo[0])
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.zero_()
    for call in (al.sparsity.probe, al.sparsity.coactivation):
        with pytest.raises(TextError, match="No neuron of layer 1 fires at any of the"):
            call(model, demo[1], texts, 1, **HOW)
