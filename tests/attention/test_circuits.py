"""OV and QK circuits, their numbers and composition scores against dense products."""

import pytest
import torch

import arcee_lab as al
from arcee_lab.attention import Factored

RATIOS = [(4, 4), (4, 2), (4, 1), (8, 2)]  # heads over kv heads


def model_for(tiny, heads, kv_heads, dtype=torch.float32):
    model = tiny(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=6)
    draws = torch.Generator().manual_seed(heads)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.5 * torch.randn(weight.shape, generator=draws))
    return model.to(dtype)


def dense(model, layer, head):
    """OV and QK as products of the plain weights, in fp64."""
    block = model.model.layers[layer]
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    d, kv = model.config.head_dim, head // (heads // kv_heads)
    gain = torch.diag(block.input_layernorm.weight.double())
    q = block.self_attn.q_proj.weight.double()[head * d : (head + 1) * d] @ gain
    k = block.self_attn.k_proj.weight.double()[kv * d : (kv + 1) * d] @ gain
    v = block.self_attn.v_proj.weight.double()[kv * d : (kv + 1) * d] @ gain
    o = block.self_attn.o_proj.weight.double()[:, head * d : (head + 1) * d]
    return o @ v, q.T @ k


def close(got, expected, scale=1.0):
    # Sums of some dozen fp32 products, against the size of the largest.
    got, expected = got.detach().double(), expected.detach()
    assert (got - expected).abs().max() <= 1e-5 * max(scale, float(expected.abs().max()))


@pytest.mark.parametrize("ratio", RATIOS)
def test_circuits_equal_the_dense_products(tiny, ratio):
    model = model_for(tiny, *ratio)
    embed = model.model.embed_tokens.weight.double()
    unembed = model.lm_head.weight.double() * model.model.norm.weight.double()
    for layer in range(3):
        for head in range(ratio[0]):
            ov, qk = dense(model, layer, head)
            for product, expected in (
                (al.attention.ov(model, layer, head), ov),
                (al.attention.qk(model, layer, head), qk),
            ):
                close(product.dense(), expected)
                close(product.norm(), expected.norm())
                close(product.trace(), expected.trace())
                u, s, vh = product.svd()
                close(s, torch.linalg.svdvals(expected)[:6])
                close(u @ torch.diag(s) @ vh, expected)
                close(u.T @ u, torch.eye(6).double())
                wanted = torch.linalg.eigvals(expected.detach())
                wanted = wanted[wanted.abs().argsort(descending=True)][:6]
                got = product.eigenvalues()
                # As sets: eigenvalues of one size have no order.
                away = (got[:, None].to(wanted) - wanted).abs().amin(dim=1)
                assert away.max() <= 1e-4 * max(1.0, float(wanted.abs().max()))
                close(product.T.dense(), expected.T)
                x = torch.randn(32, 3)
                close(product @ x, expected @ x.double())
            close(al.attention.ov(model, layer, head, tokens=True).dense(), unembed @ ov @ embed.T)
            close(al.attention.qk(model, layer, head, tokens=True).dense(), embed @ qk @ embed.T)


def test_scores_follow_from_qk_before_rope(tiny):
    """At one token RoPE turns query and key alike: its score with itself needs no rotation."""
    model = model_for(tiny, 4, 2)
    ids = torch.tensor([[5, 9, 11]])
    site = "layers.1.self_attn.hook_scores"
    names = [site, "layers.1.hook_resid_pre", "layers.1.input_layernorm.hook_scale"]
    with torch.no_grad(), al.capture(model, names) as acts:
        model(ids, use_cache=False)
    x = acts[names[1]][0] * acts[names[2]][0]
    for head in range(4):
        qk = al.attention.qk(model, 1, head)
        own = ((x @ qk.left) * (qk.right @ x.T).T).sum(-1) / 6**0.5
        torch.testing.assert_close(own, acts[site][0, head].diagonal(), rtol=1e-4, atol=1e-5)


def test_products_of_factored_matrices():
    draws = torch.Generator().manual_seed(0)
    a = Factored(torch.randn(7, 3, generator=draws), torch.randn(3, 5, generator=draws))
    b = Factored(torch.randn(5, 2, generator=draws), torch.randn(2, 9, generator=draws))
    both = a @ b
    assert both.shape == (7, 9)
    assert both.left.shape[1] == 2
    torch.testing.assert_close(both.dense(), a.dense() @ b.dense())
    torch.testing.assert_close((b.T @ a.T).dense(), (a.dense() @ b.dense()).T)
    for call, match in (
        (lambda: Factored(torch.ones(2, 3), torch.ones(2, 3)), "as many columns as rows"),
        (lambda: a @ a, "cannot be multiplied"),
        (a.trace, "has no trace"),
        (a.eigenvalues, "has no eigenvalues"),
    ):
        with pytest.raises(al.errors.SettingError, match=match):
            call()


def test_positive_share_tells_copying_from_flipping():
    identity = Factored(torch.eye(4)[:, :2], torch.eye(4)[:2])
    assert identity.positive_share() == pytest.approx(1.0)
    assert Factored(-identity.left, identity.right).positive_share() == pytest.approx(-1.0)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    assert Factored(turn, torch.eye(2)).positive_share() == pytest.approx(0.0, abs=1e-6)


def test_no_large_matrix_is_made(tiny, monkeypatch):
    from largest import Largest

    model = tiny(hidden_size=96, head_dim=4, vocab_size=400)
    with Largest() as made:
        product = al.attention.ov(model, 0, 1, tokens=True)
        product.norm(), product.svd(), product.eigenvalues()
        al.attention.composition(model, "k")
    assert made.numel <= 400 * 96  # the embedding times a gain; the product has 160,000 entries


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition_equals_the_dense_norms(tiny, ratio, kind):
    model = model_for(tiny, *ratio)
    found = al.attention.composition(model, kind)
    heads = ratio[0]
    assert found.scores.shape == (3, heads, 3, heads)
    assert found.chance == pytest.approx(32**-0.5)
    for reader in range(3):
        for writer in range(3):
            for h in range(heads):
                ov, qk = dense(model, reader, h)
                m = {"v": ov, "k": qk, "q": qk.T}[kind]
                for g in range(heads):
                    score = found.scores[reader, h, writer, g]
                    if writer >= reader:
                        assert score.isnan()
                        continue
                    w, _ = dense(model, writer, g)
                    expected = (m @ w).norm() / (m.norm() * w.norm())
                    assert abs(float(score) - float(expected)) < 1e-5
    table = found.frame()
    assert len(table) == 3 * heads * heads
    assert (table["score"].diff().dropna() <= 0).all()
    assert found.figure().axes


def test_chance_is_what_random_rotations_give():
    """The mean square of |A R B| / (|A| |B|) over random rotations R is 1/d."""
    draws, d = torch.Generator().manual_seed(0), 24
    a, b = torch.randn(d, d, generator=draws), torch.randn(d, 3, generator=draws)
    squares = []
    for _ in range(2000):
        r, _ = torch.linalg.qr(torch.randn(d, d, generator=draws))
        squares.append(float((a @ r @ b).norm() / (a.norm() * b.norm())) ** 2)
    mean = sum(squares) / len(squares)
    error = (sum((x - mean) ** 2 for x in squares)) ** 0.5 / len(squares)
    assert abs(mean - 1 / d) < 5 * error


def test_tokens_of_singular_directions(demo):
    model, tokenizer = demo
    table = al.attention.singular_tokens(model, tokenizer, 1, 2, directions=2, top=4)
    assert len(table) == 2 * 2 * 2 * 4
    u, s, vh = al.attention.ov(model, 1, 2).svd()
    reads = model.model.embed_tokens.weight.detach() @ vh[1]
    rows = table.query("direction == 1 and end == 'reads' and side == '+'")
    assert [tokenizer.decode([i]) for i in reads.topk(4).indices.tolist()] == list(rows["token"])
    assert rows["product"].tolist() == pytest.approx(reads.topk(4).values.tolist(), rel=1e-4)
    assert rows["singular_value"].iloc[0] == pytest.approx(float(s[1]), rel=1e-5)
    out = model.lm_head.weight.detach() * model.model.norm.weight.detach() @ u[:, 0]
    rows = table.query("direction == 0 and end == 'writes' and side == '-'")
    assert rows["product"].tolist() == pytest.approx(
        out.topk(4, largest=False).values.tolist(), rel=1e-4
    )
    keys = al.attention.singular_tokens(model, tokenizer, 1, 2, circuit="qk", directions=1, top=1)
    assert set(keys["end"]) == {"key", "query"}


BAD = {
    "layer": (lambda m: al.attention.ov(m, 3, 0), "layer=3; expected -3 to 2"),
    "head": (lambda m: al.attention.qk(m, 0, 4), "head=4; expected 0 to 3"),
    "head below 0": (lambda m: al.attention.qk(m, 0, -1), "expected 0 to 3"),
    "circuit": (
        lambda m: al.attention.singular_tokens(m, None, 0, 0, circuit="vo"),
        "expected 'ov' or 'qk'",
    ),
    "directions": (
        lambda m: al.attention.singular_tokens(m, None, 0, 0, directions=9),
        "expected 1 to 8",
    ),
    "top": (lambda m: al.attention.singular_tokens(m, None, 0, 0, top=51), "1 to 50"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(tiny, case):
    call, match = BAD[case]
    with pytest.raises(al.errors.ArceeLabError, match=match) as error:
        call(tiny())
    assert str(error.value).endswith(".")


def test_models_of_other_heads(tiny):
    labels = tiny("sequence")
    assert al.attention.ov(labels, 0, 0).shape == (32, 32)
    with pytest.raises(al.errors.ModelError, match="no LM head"):
        al.attention.ov(labels, 0, 0, tokens=True)


def test_half_precision_is_computed_in_fp32(tiny):
    model = model_for(tiny, 4, 2, torch.bfloat16)
    product = al.attention.ov(model, -1, 1)
    assert product.left.dtype == torch.float32
    close(product.dense(), dense(model, 2, 1)[0])
