"""Sparse decoding: the dense numbers from fewer rows, and dense wherever that would lose."""

import copy
import weakref

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

import arcee_lab as al
from arcee_lab.sparsity.decoding import MOST_TOKENS, TRIAL

POST = "layers.*.mlp.hook_post"
PROMPTS = (
    "The horses behind the old boat",
    "The lamp above the doors finds the",
    "Nipu likes olives. Nipu",
    "(",
)


@pytest.fixture
def sparse(tiny):
    """Builds a tiny model whose neurons are mostly off: a shifted up_proj bias does that."""

    def build(*, bias=-0.4, **kwargs):
        model = tiny(**({"mlp_bias": True} | kwargs))
        with torch.no_grad():
            for layer in model.base_model.layers:
                layer.mlp.up_proj.bias.fill_(bias)
                layer.mlp.down_proj.bias.normal_()
        return model

    return build


def greedy(model, inputs, **kwargs):
    return model.generate(**inputs, max_new_tokens=24, do_sample=False, **kwargs)


# ---------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_ids_are_the_dense_ones(demo, prompt):
    model, tokenizer = demo
    inputs = tokenizer(prompt, return_tensors="pt")
    dense = greedy(model, inputs)
    with al.sparse_decode(model) as block:
        assert torch.equal(greedy(model, inputs), dense)
    assert block.frame()["sparse_calls"].min() >= dense.shape[1] - inputs["input_ids"].shape[1] - 1


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"use_cache": False}])
def test_batches_beams_and_no_cache(demo, how):
    model, tokenizer = demo
    inputs = tokenizer(list(PROMPTS), return_tensors="pt", padding=True, padding_side="left")
    dense = greedy(model, inputs, **how)
    with al.sparse_decode(model):
        assert torch.equal(greedy(model, inputs, **how), dense)


@given(
    tokens=st.integers(1, MOST_TOKENS),
    d_mlp=st.integers(1, 40),
    d_model=st.integers(1, 9),
    density=st.floats(0, 1),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 99),
)
def test_one_layer_is_the_plain_sum(tokens, d_mlp, d_model, density, bias, dtype, seed):
    from arcee_lab.sparsity.decoding import _Down

    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(d_mlp, d_model, bias=bias).to(dtype)
    on = torch.rand(1, tokens, d_mlp, generator=generator) < density
    x = (torch.rand(1, tokens, d_mlp, generator=generator) * on).to(dtype)
    down = _Down("layers.0.mlp.down_proj", linear, d_mlp * tokens)
    down.take_copy()
    with torch.no_grad():
        out = down.try_sparse(x)
    expected = torch.zeros(1, tokens, d_model, dtype=torch.float64)
    for t in range(tokens):
        for i in range(d_mlp):
            if x[0, t, i] != 0:
                expected[0, t] += x[0, t, i].double() * linear.weight[:, i].double()
    if bias:
        expected += linear.bias.double()
    # One rounding of the sum, one of the bias; 16-bit sums are kept in fp32.
    rounding = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    atol = rounding * max(1.0, float(expected.detach().abs().max()))
    assert torch.allclose(out.double(), expected.detach(), rtol=0, atol=atol)


def test_bf16_is_as_near_to_fp32_as_dense_bf16(demo):
    model, tokenizer = demo
    half = copy.deepcopy(model).to(torch.bfloat16)
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        with al.capture(half, "layers.1.mlp.hook_post") as acts, al.sparse_decode(half):
            half(ids)
        linear, x = half.base_model.layers[1].mlp.down_proj, acts["layers.1.mlp.hook_post"]
        dense = linear(x)
        with al.sparse_decode(half):
            skipped = linear(x)
        exact = nn.functional.linear(x.double(), linear.weight.double())
    largest = exact.abs().max()
    assert (dense - exact).abs().max() <= 2**-8 * largest
    assert (skipped - exact).abs().max() <= 2**-8 * largest


def test_nan_stays_nan(sparse):
    model = sparse()
    linear = model.base_model.layers[0].mlp.down_proj
    x = torch.zeros(1, 1, linear.in_features)
    x[..., 3] = float("nan")
    with al.sparse_decode(model), torch.no_grad():
        assert linear(x).isnan().all()


# ---------------------------------------------------------------------- where it acts


def test_long_prompts_run_dense_bit_for_bit(sparse):
    model = sparse()
    ids = torch.randint(3, 50, (1, MOST_TOKENS + 1))
    with torch.no_grad():
        dense = model(ids).logits
        with al.sparse_decode(model) as block:
            assert torch.equal(model(ids).logits, dense)
    frame = block.frame()
    assert (frame["sparse_calls"] == 0).all()
    assert (frame["dense_calls"] == 1).all()
    assert frame["mean_zeros"].isna().all()


def test_the_active_neurons_of_all_tokens_have_to_be_few(sparse):
    model = sparse()
    linear = model.base_model.layers[0].mlp.down_proj  # 72 neurons: at most 28 of them pay
    for tokens, each, acts in ((1, 28, True), (1, 29, False), (4, 7, True), (4, 8, False)):
        x = torch.zeros(tokens, 1, linear.in_features)
        x[..., :each] = 1.0
        with al.sparse_decode(model) as block, torch.no_grad():
            linear(x)
        assert block.frame()["sparse_calls"][0] == int(acts), (tokens, each)
        assert block.frame()["mean_zeros"][0] == pytest.approx(1 - each / 72)


def test_gradients_are_dense_ones(sparse):
    model = sparse()
    ids = torch.randint(3, 50, (1, 4))

    def gradients():
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    dense = gradients()
    with al.sparse_decode(model) as block:
        inside = gradients()
    assert all(torch.equal(a, b) for a, b in zip(dense, inside, strict=True))
    assert block.frame()["sparse_calls"].sum() == 0


def test_frozen_weights_need_no_gradient(sparse):
    model = sparse().requires_grad_(False)
    ids = torch.randint(3, 50, (1, 1))
    with al.sparse_decode(model) as block:
        model(ids)
    assert (block.frame()["sparse_calls"] == 1).all()


def test_autocast_is_left_to_the_dense_product(demo):
    model, tokenizer = demo
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        dense = model(ids).logits
        with al.sparse_decode(model) as block:
            assert torch.equal(model(ids).logits, dense)
    assert block.frame()["sparse_calls"].sum() == 0


def test_hooks_captures_and_interventions_go_on(demo):
    model, tokenizer = demo
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    sites, fired = [POST, "layers.*.hook_mlp_out"], []
    linear = model.base_model.layers[1].mlp.down_proj
    handle = linear.register_forward_hook(lambda m, args, out: fired.append(out))
    edit = al.Ablate("layers.1.mlp.hook_post")
    with torch.no_grad():
        with al.intervene(model, edit), al.capture(model, sites) as plain:
            model(ids)
        with al.sparse_decode(model), al.intervene(model, edit), al.capture(model, sites) as acts:
            model(ids)
    handle.remove()
    assert len(fired) == 2
    assert torch.equal(fired[1], torch.zeros_like(fired[1]))  # nothing is active: nothing is read
    for name in acts:
        assert torch.allclose(acts[name], plain[name], rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- before and after


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(demo, fails):
    model, tokenizer = demo
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model(ids).logits
        block = al.sparse_decode(model)
        assert "forward" not in model.base_model.layers[0].mlp.down_proj.__dict__
        try:
            with block:
                copies = [weakref.ref(down.copy) for down in block._downs]
                held = sum(c().untyped_storage().nbytes() for c in copies)
                model(ids)
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert fails
        assert torch.equal(model(ids).logits, before)
    assert held == block.copy_bytes == block.frame()["copy_bytes"].sum()
    assert not any(copy_() is not None for copy_ in copies)
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_says_what_it_takes_and_did(demo):
    model, tokenizer = demo
    block = al.sparse_decode(model)
    assert "1.8 MiB; 0 sparse and 0 dense calls" in repr(block)
    with block:
        greedy(model, tokenizer(PROMPTS[0], return_tensors="pt"))
    assert list(block.frame()["layer"]) == [0, 1, 2, 3]
    assert block.frame()["mean_zeros"].between(0.6, 1).all()
    assert "<table" in block._repr_html_()
    assert repr(block) in block._repr_html_().replace("&lt;", "<")


# ---------------------------------------------------------------------- refusals


def test_dense_models_are_refused_after_a_trial(sparse):
    model = sparse(bias=0.0)  # untrained weights: half of all neurons fire
    with torch.no_grad(), al.sparse_decode(model, min_zeros=0.9) as block:
        for _ in range(TRIAL - 1):
            model(torch.tensor([[5]]))
        with pytest.raises(ValueError, match=r"only lose here: over 32 steps the sparsest of 3"):
            model(torch.tensor([[5]]))
    assert (block.frame()["sparse_calls"] == 0).all()
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_a_dense_layer_is_left_alone(sparse):
    model = sparse()
    with torch.no_grad():
        model.base_model.layers[1].mlp.up_proj.bias.fill_(5.0)
    with torch.no_grad(), al.sparse_decode(model) as block:
        for _ in range(TRIAL + 5):
            model(torch.tensor([[5]]))
    assert list(block.frame()["sparse_calls"]) == [TRIAL + 5, 0, TRIAL + 5]
    assert [down.counted for down in block._downs] == [TRIAL + 5, TRIAL, TRIAL + 5]


def test_refuses_other_linears(sparse):
    class Quantised(nn.Linear):
        pass

    model = sparse()
    mlp = model.base_model.layers[1].mlp
    mlp.down_proj = Quantised(72, 32)
    with pytest.raises(ValueError, match=r"layers.1.mlp.down_proj is .*Quantised with a Parameter"):
        al.sparse_decode(model)


def test_refuses_other_devices(sparse):
    with pytest.raises(ValueError, match=r"layers.0.mlp.down_proj is on meta; .* CPU only"):
        al.sparse_decode(sparse().to("meta"))


def test_refuses_a_second_block_and_a_second_use(sparse):
    model = sparse()
    with al.sparse_decode(model), pytest.raises(ValueError, match="is replaced already"):
        al.sparse_decode(model)
    block = al.sparse_decode(model)
    with block:
        pass
    with pytest.raises(ValueError, match="has run already"), block:
        pass


@pytest.mark.parametrize("change", ["in place", "dtype"])
def test_changed_weights_are_refused(sparse, change):
    model = sparse()
    with torch.no_grad(), al.sparse_decode(model):
        if change == "in place":
            model.base_model.layers[0].mlp.down_proj.weight.mul_(2)
        else:
            model.to(torch.bfloat16)
        with pytest.raises(ValueError, match=r"layers.0.mlp.down_proj was changed inside"):
            model(torch.tensor([[5]]))


def test_refuses_a_bad_share_another_model_and_a_copy(sparse):
    with pytest.raises(ValueError, match=r"min_zeros is 1\.0; expected"):
        al.sparse_decode(sparse(), min_zeros=1.0)
    with pytest.raises(ValueError, match="Expected a model of arcee_lab"):
        al.sparse_decode(nn.Linear(2, 2))
    model = sparse()
    with al.sparse_decode(model) as block, pytest.raises(ValueError, match="copy it outside"):
        copy.deepcopy(block)
    with al.sparse_decode(model), pytest.raises(ValueError, match="copy it outside"):
        copy.deepcopy(model)
