"""What the tabs show is what plain calls of the model give."""

import pytest
import torch
from explorers import Asking, floats, opened

import arcee_lab as al

TEXT = "The dogs near the old door"


@pytest.fixture(scope="module", params=["sdpa fp32", "eager bf16"])
def ground(request):
    """A demo model, its tokenizer, and its own hidden truth for TEXT: ids and logits."""
    attn, dtype = request.param.split()
    model, tokenizer = al.load(
        "demo", attn=attn, dtype=torch.float32 if dtype == "fp32" else torch.bfloat16
    )
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    return model, tokenizer, ids


@pytest.fixture(scope="module")
def ask(ground):
    return Asking(*opened(*ground[:2]))


def recorded(model, ids, site):
    with torch.no_grad(), al.capture(model, site) as acts:
        logits = model(input_ids=ids).logits
    return acts[site].float(), logits[0, -1].float()


def test_values_on_typed_text(ground, ask):
    model, _, ids = ground
    found, (buffer,) = ask("text", text=TEXT, names=["L2/N681", "L1/H3", "L3/N623"], at=-1)
    shown = floats(buffer, 3, ids.shape[1])
    post, _ = recorded(model, ids, "layers.2.mlp.hook_post")
    z, _ = recorded(model, ids, "layers.1.self_attn.hook_z")
    assert shown[0].equal(post[0, :, 681])
    assert shown[2].equal(recorded(model, ids, "layers.3.mlp.hook_post")[0][0, :, 623])
    assert shown[1].equal(z[0, :, 3].norm(dim=-1))
    assert "".join(found["tokens"]).endswith(TEXT)
    assert found["at"] == ids.shape[1] - 1


def test_the_strongest_neurons_at_a_token(ground, ask):
    model, _, ids = ground
    found, _ = ask("text", text=TEXT, names=[], at=2)
    written = {}
    for layer in range(4):
        post, _ = recorded(model, ids, f"layers.{layer}.mlp.hook_post")
        down = model.model.layers[layer].mlp.down_proj.weight.detach().float()
        for unit in post[0, 2].nonzero().flatten().tolist():
            written[f"L{layer}/N{unit}"] = float((post[0, 2, unit] * down[:, unit]).norm())
    order = sorted(written, key=written.__getitem__, reverse=True)[:12]
    assert [row[0] for row in found["strongest"]] == order
    # The length of a product against the product of a length: two roundings of fp32.
    for name, _, length, _ in found["strongest"]:
        assert length == pytest.approx(written[name], rel=1e-5)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, -1.0])
def test_the_next_token_without_the_selection(ground, ask, factor):
    model, tokenizer, ids = ground
    found, _ = ask("next", text=TEXT, names=["L2/N681", "L2/N3", "L0/H1"], factor=factor)

    def neurons(module, args, out):
        out = out.clone()
        out[..., [3, 681]] *= factor
        return out

    def head(module, args, out):
        out = out.clone()
        out[:, :, 1] *= factor
        return out

    _, before = recorded(model, ids, "layers.2.mlp.hook_post")
    layers = model.model.layers
    handles = [
        layers[2].mlp.hook_post.register_forward_hook(neurons),
        layers[0].self_attn.hook_z.register_forward_hook(head),
    ]
    with torch.no_grad():
        after = model(input_ids=ids).logits[0, -1].float()
    for handle in handles:
        handle.remove()
    p, q = before.softmax(-1), after.softmax(-1)
    index = {tokenizer.decode([i]): i for i in range(len(p))}
    assert len(found["rows"]) >= 8
    for token, one, other in found["rows"]:
        at = index.get(token, index.get(token.strip()))
        assert one == pytest.approx(float(p[at]), rel=1e-4, abs=1e-7)
        assert other == pytest.approx(float(q[at]), rel=1e-4, abs=1e-7)
    # A sum of p (log p - log q) in fp32, over at most a thousand terms of size 1 or less.
    assert found["kl"] == pytest.approx(float((p * (p.log() - q.log())).sum()), abs=1e-4)


def test_nothing_selected_changes_nothing(ask):
    found, _ = ask("next", text=TEXT, names=[], factor=0.0)
    assert found["kl"] == 0
    assert all(before == after for _, before, after in found["rows"])


def test_attention_in_bytes(ground, ask):
    model, _, ids = ground
    found, (buffer,) = ask("attention", text=TEXT)
    layers, heads, length = found["shape"]
    assert (layers, heads, length) == (4, 4, ids.shape[1])
    shown = torch.frombuffer(bytearray(buffer), dtype=torch.uint8).view(4, 4, length, length)
    for layer in range(4):
        pattern, _ = recorded(model, ids, f"layers.{layer}.self_attn.hook_pattern")
        assert (shown[layer] / 255 - pattern[0]).abs().max() <= 0.5 / 255 + 1e-6


def test_ranks_of_the_next_token(ground, ask):
    model, tokenizer, ids = ground
    found, (buffer,) = ask("lens", text=TEXT)
    ranks = torch.frombuffer(bytearray(buffer), dtype=torch.int32).view(len(found["sites"]), -1)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    own = logits.gather(1, ids[0].roll(-1)[:, None])
    wanted = (logits > own).sum(1)
    assert ranks[-1, :-1].tolist() == wanted[:-1].tolist()
    assert ranks[-1, -1] == 0
    assert found["targets"][-1] == tokenizer.decode([int(logits[-1].argmax())])
    assert found["sites"][0] == "embed"


def test_what_made_a_token(ground, ask):
    model, _, ids = ground
    found, _ = ask("made", text=TEXT, at=ids.shape[1] - 1)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1].float()
    # bf16 rounds at each addition to the stream: 8 bits of a sum of nine parts.
    close = {"rel": 2e-2, "abs": 0.2} if model.dtype == torch.bfloat16 else {"abs": 1e-3}
    assert found["logit"] == pytest.approx(float(logits.max()), **close)
    assert sum(value for _, value in found["parts"]) == pytest.approx(found["logit"], **close)
    assert len(found["heads"]) == len(found["neurons"]) == 10
    sizes = [abs(value) for _, value in found["neurons"]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_long_text_is_read_to_its_first_64_tokens(ask):
    found, _ = ask("text", text="The dogs sleep . " * 40, names=[], at=-1)
    assert len(found["tokens"]) == 64


def test_the_model_is_left_as_it_was(ground, ask):
    model, _, ids = ground
    before = [len(module._forward_hooks) for module in model.modules()]
    with torch.no_grad():
        plain = model(input_ids=ids).logits
    for kind, body in {
        "text": {"names": ["L0/N1"], "at": 0},
        "next": {"names": ["L0/N1"], "factor": 0.0},
        "attention": {},
        "lens": {},
    }.items():
        assert "error" not in ask(kind, text=TEXT, **body)[0]
    assert [len(module._forward_hooks) for module in model.modules()] == before
    with torch.no_grad():
        assert model(input_ids=ids).logits.equal(plain)
