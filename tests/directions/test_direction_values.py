"""`Direction` as a value: interventions equal plain edits, files come back equal or are refused."""

import json
import re
import struct

import pytest
import torch
from safetensors.torch import save_file
from transformers import ArceeForCausalLM

import arcee_lab as al
from arcee_lab.directions import Check, Direction

SITE = "layers.1.hook_resid_post"


def made(rank: int = 1, width: int = 32, **changes) -> Direction:
    vectors = torch.linalg.qr(torch.randn(width, rank)).Q.T.contiguous()
    settings = {
        "site": SITE,
        "vectors": vectors,
        "scale": torch.rand(rank) + 0.5,
        "threshold": 0.25,
        "method": "mean difference",
        "concept": "naïve 'good'",
        "model": "tiny",
        "fingerprint": "0" * 64,
        "n": 10,
        "documents": 4,
        "split": "half",
        "checks": (
            Check("AUROC", 0.9, 0.8, 0.95, 10, 4),
            Check("AUROC, shuffled labels", 0.5, float("nan"), float("nan"), 10, 4),
        ),
    }
    return Direction(**(settings | changes))


def stock_with_edit(model, edit):
    """transformers' Arcee with the same weights, its second layer's output edited by a hook."""
    twin = ArceeForCausalLM(model.config).eval()
    twin.load_state_dict(model.state_dict())
    twin.set_attn_implementation(model.config._attn_implementation)
    twin.to(model.dtype)
    twin.model.layers[1].register_forward_hook(lambda m, args, out: edit(out))
    return twin


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interventions_are_plain_edits(tiny, side, attn, dtype):
    for seed in range(3):
        torch.manual_seed(seed)
        model = tiny(attn=attn, dtype=dtype)
        rank = 1 + seed
        found = made(rank)
        lengths = torch.randint(2, 9, (3,)).tolist()
        width = max(lengths)
        ids, mask = torch.randint(3, 50, (3, width)), torch.zeros(3, width, dtype=torch.long)
        for row, length in enumerate(lengths):
            if side == "right":
                mask[row, :length] = 1
            else:
                mask[row, width - length :] = 1
        last = mask.cumsum(1).argmax(1)
        hit = torch.zeros(3, width, 1, dtype=torch.bool)
        hit[torch.arange(3), last] = True
        v, step = found.vectors, found.scale @ found.vectors
        other = torch.randn(3, 1, 32, dtype=dtype)

        def added(x, hit=hit, step=step):
            return torch.where(hit, x + (1.5 * step).to(x.dtype), x)

        def without(x, hit=hit, v=v):
            wide = x.float()
            return torch.where(hit, (wide - wide @ v.T @ v).to(x.dtype), x)

        def swapped(x, hit=hit, v=v, other=other):
            wide = x.float()
            gap = (other.float() - wide) @ v.T @ v
            return torch.where(hit, (wide + gap).to(x.dtype), x)

        cases = [
            (found.add(1.5, positions=-1), added),
            (found.project_out(positions=-1), without),
            (found.patch(other, positions=-1), swapped),
        ]
        for value, edit in cases:
            with torch.no_grad(), al.intervene(model, value):
                got = model(input_ids=ids, attention_mask=mask).logits
            with torch.no_grad():
                expected = stock_with_edit(model, edit)(input_ids=ids, attention_mask=mask).logits
            # One rounding at the site may differ (the basis is made orthonormal again), and one
            # layer carries it on: a few roundings of numbers of the size of the logits.
            bound = 8 * torch.finfo(dtype).eps * float(expected.abs().max())
            real = mask.bool()
            torch.testing.assert_close(got[real], expected[real], rtol=0, atol=bound + 2e-6)


def test_scores_are_products():
    for rank in (1, 3):
        found, x = made(rank), torch.randn(4, 5, 32, dtype=torch.bfloat16)
        step = (found.scale[:, None] * found.vectors).sum(0)
        expected = x.float() @ step / step.norm() - 0.25
        torch.testing.assert_close(found.score(x), expected, rtol=1e-5, atol=1e-5)
    assert made(layer := 1).layer == layer
    assert made(site="hook_embed").layer is None


@pytest.mark.parametrize("rank", [1, 4])
def test_a_saved_direction_comes_back_equal(tmp_path, rank):
    found = made(rank, threshold=None if rank == 4 else 0.1)
    path = found.save(tmp_path / "good.safetensors")
    again = al.directions.load(path, None)
    assert again == found
    assert hash(again) == hash(found)
    assert torch.equal(again.vectors, found.vectors)
    assert torch.equal(again.scale, found.scale)
    assert again != made(rank)
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_bound_to_its_model_and_site(tmp_path, tiny):
    model = tiny()
    found = al.directions.neuron(model, 1, 5)
    path = found.save(tmp_path / "n.safetensors")
    assert al.directions.load(path, model) == found
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(
        al.errors.ModelError, match=r"was found in .* find it anew in this model\.$"
    ):
        al.directions.load(path, model)
    narrow = Direction(**{**vars(found), "vectors": torch.eye(16)[:1]})
    model = tiny()
    path = Direction(
        **{**vars(narrow), "fingerprint": al.directions.neuron(model, 1, 5).fingerprint}
    ).save(path)
    with pytest.raises(al.errors.SiteError, match=r"has 16 numbers, and .* has 32"):
        al.directions.load(path, model)
    with pytest.raises(al.errors.SiteError, match="32, not 16"):
        al.intervene(model, narrow.add(1.0))


def header_of(path, change):
    """Rewrites the JSON in a file's header."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    described = json.loads(header["__metadata__"]["arcee_lab.direction"])
    change(described)
    header["__metadata__"]["arcee_lab.direction"] = json.dumps(described)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


CHANGES = [
    (lambda d: d.update(version=2), "not that of version 1"),
    (lambda d: d.update(extra=1), "not that of version 1"),
    (lambda d: d.pop("site"), "not that of version 1"),
    (lambda d: d.update(threshold="0"), "values of another type"),
    (lambda d: d.update(n=-1), "values of another type"),
    (lambda d: d.update(n=True), "values of another type"),
    (lambda d: d.update(fingerprint="xyz"), "values of another type"),
    (lambda d: d.update(threshold=float("nan")), "NaN is no number of JSON"),
    (lambda d: d.update(checks=[{"name": "AUROC"}]), "its checks"),
    (lambda d: d["checks"][0].update(value="high"), "its checks"),
    (lambda d: d["checks"][0].update(n=0.5), "its checks"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_changed_header_is_refused(tmp_path, change, said):
    path = made().save(tmp_path / "d.safetensors")
    header_of(path, change)
    with pytest.raises(al.errors.SavedDamaged, match=said) as caught:
        al.directions.load(path, None)
    assert re.search(
        r"cannot be used as a direction: .* find the direction anew\.$", str(caught.value)
    )


META = {"arcee_lab.direction": "{}"}
FILES = [
    (lambda p: p.write_bytes(b""), "cannot be used as a direction"),
    (lambda p: p.write_bytes(p.read_bytes()[:-4]), "cannot be used as a direction"),
    (lambda p: save_file({"x": torch.ones(2)}, p), "its header has no"),
    (lambda p: save_file({"x": torch.ones(2)}, p, META), "not that of version 1"),
    (lambda p: p.unlink(), "is no file"),
]


@pytest.mark.parametrize(("spoil", "said"), FILES)
def test_a_damaged_file_is_refused(tmp_path, spoil, said):
    path = made().save(tmp_path / "d.safetensors")
    spoil(path)
    with pytest.raises(al.errors.FileError, match=said):
        al.directions.load(path, None)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"vectors": torch.full((1, 32), torch.nan), "scale": torch.ones(1)}, "NaN or infinite"),
        ({"vectors": torch.zeros(1, 32), "scale": torch.ones(1)}, "length 1"),
        ({"vectors": torch.ones(1, 32), "scale": torch.ones(1)}, "length 1"),
        ({"vectors": torch.eye(3)[:2], "scale": torch.ones(1)}, r"a scale \[k\]"),
        ({"vectors": torch.eye(3)[0], "scale": torch.ones(1)}, "of the shapes"),
        ({"vectors": torch.eye(3)[:1].half(), "scale": torch.ones(1)}, "F16"),
        ({"vectors": torch.eye(3)[:1]}, "it holds vectors"),
    ],
)
def test_a_file_with_other_tensors_is_refused(tmp_path, tensors, said):
    from safetensors import safe_open

    path = made().save(tmp_path / "d.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata)
    with pytest.raises(al.errors.SavedDamaged, match=said):
        al.directions.load(path, None)


REFUSED = [
    ({"vectors": torch.zeros(1, 32)}, "length 1"),
    ({"vectors": torch.eye(33)[:33, :32]}, r"vectors \[k, d\]"),
    ({"vectors": torch.ones(32) / 32**0.5}, r"vectors \[k, d\]"),
    ({"vectors": torch.eye(32)[:1].double()}, "float32"),
    ({"scale": torch.tensor([torch.inf])}, "NaN or infinite"),
    ({"scale": torch.ones(2)}, r"a scale \[k\]"),
    ({"threshold": float("inf")}, "threshold must be finite"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_numbers_that_are_no_direction_are_refused(changes, said):
    with pytest.raises(al.errors.SettingError, match=said) as caught:
        made(**changes)
    assert str(caught.value).endswith(".")


def test_strengths_that_do_nothing_or_too_much_are_refused(tiny, tmp_path):
    still = made(scale=torch.zeros(1))
    with pytest.raises(al.errors.SettingError, match=r"step of length 0.*own\.$"):
        still.add(1.0)
    for strength in (float("nan"), float("inf")):
        with pytest.raises(al.errors.SettingError, match="alpha must be finite"):
            made().add(strength)
    with pytest.raises(al.errors.SettingError, match="give a smaller"):
        al.intervene(tiny(dtype=torch.float16), made().add(1e6))
    with pytest.raises(al.errors.FileError, match=r"does not end in \.safetensors"):
        made().save(tmp_path / "d.json")
