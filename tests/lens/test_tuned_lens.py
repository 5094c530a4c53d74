"""The tuned lens: its fit, its baseline, its files, and what is refused."""

import json

import pytest
import torch
from lens_cases import SHAPES, batch_for, model_of

import arcee_lab as al
from arcee_lab.demo import documents


@pytest.fixture(scope="module")
def texts():
    return [document.text for document in documents(n=40, seed=3, split="train")]


@pytest.fixture(scope="module")
def fitted(demo, texts):
    model, tokenizer = demo
    torch.set_num_threads(1)
    return al.lens.tune(
        model, tokenizer, texts, steps=30, sites="layers.*.hook_resid_post", batch_size=8, seed=1
    )


def held_out_kl(model, tokenizer, lens, texts, name):
    """KL(model || lens) in nats per token, one text at a time, from logits."""
    sums, tokens = torch.zeros(2, dtype=torch.float64), 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad(), al.capture(model, name) as acts:
            goal = model(ids).logits.log_softmax(-1)
            x = acts[name]
            number = lens.sites.index(name)
            moved = x + x @ lens.maps[number].T + lens.shifts[number]
            for row, stream in enumerate((x, moved)):
                said = model.lm_head(model.model.norm(stream)).log_softmax(-1)
                sums[row] += (goal.exp() * (goal - said)).sum()
        tokens += ids.shape[1]
    return sums / tokens, tokens


def test_it_beats_the_plain_lens_on_held_out_texts(fitted, demo, texts):
    model, tokenizer = demo
    assert fitted.sites == tuple(f"layers.{i}.hook_resid_post" for i in range(3))
    for plain, tuned in zip(fitted.plain_kl, fitted.tuned_kl, strict=True):
        assert 0 < tuned < plain
    # Which documents were held out follows from the seed, as documented by the same draw.
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(1)).tolist()
    held = [texts[i] for i in order[:4]]
    for number, name in enumerate(fitted.sites):
        (plain, tuned), tokens = held_out_kl(model, tokenizer, fitted, held, name)
        assert tokens == fitted.tokens
        assert fitted.plain_kl[number] == pytest.approx(float(plain), rel=1e-4)
        assert fitted.tuned_kl[number] == pytest.approx(float(tuned), rel=1e-4)


def test_the_same_seed_gives_the_same_lens_and_the_model_is_untouched(demo, texts):
    model, tokenizer = demo
    before = {name: x.clone() for name, x in model.named_parameters()}
    one, other = (
        al.lens.tune(model, tokenizer, texts[:8], steps=2, sites="hook_embed", seed=4)
        for _ in range(2)
    )
    assert torch.equal(one.maps[0], other.maps[0])
    assert all(torch.equal(x, before[name]) for name, x in model.named_parameters())
    assert all(x.grad is None for x in model.parameters())


def test_gradients_are_those_of_the_whole_batch(demo, texts, monkeypatch):
    """Also where logits are made in pieces."""
    from arcee_lab.lens import readout

    model, tokenizer = demo
    whole = al.lens.tune(model, tokenizer, texts[:6], steps=3, sites="hook_embed")
    monkeypatch.setattr(readout, "MOST_LOGITS", 1384 * 7)
    pieces = al.lens.tune(model, tokenizer, texts[:6], steps=3, sites="hook_embed")
    # Adam divides by the size of the gradient: an entry near 0 may turn around by one step.
    off = (whole.maps[0] - pieces.maps[0]).abs()
    assert float((off < 1e-5).float().mean()) > 0.99
    assert whole.plain_kl[0] == pytest.approx(pieces.plain_kl[0], rel=1e-5)


def test_logit_lens_uses_it(fitted, demo):
    model, tokenizer = demo
    prompt = "The dogs near the door"
    sites = ["layers.*.hook_resid_post"]
    plain = al.lens.logit_lens(model, tokenizer, prompt, sites=sites)
    tuned = al.lens.logit_lens(model, tokenizer, prompt, sites=sites, lens=fitted)
    assert torch.equal(tuned.logits[-1].nan_to_num(), plain.logits[-1].nan_to_num())
    assert not torch.equal(tuned.logits[0].nan_to_num(), plain.logits[0].nan_to_num())
    assert "tuned lens" in tuned.headline
    with pytest.raises(al.errors.SettingError, match="has no map for hook_embed"):
        al.lens.logit_lens(model, tokenizer, prompt, lens=fitted)


def test_save_and_load(fitted, demo, tmp_path):
    model, _ = demo
    path = fitted.save(tmp_path / "lens")
    again = al.lens.TunedLens.load(tmp_path / "lens", model)
    for one, other in zip(fitted.maps + fitted.shifts, again.maps + again.shifts, strict=True):
        assert torch.equal(one, other)
    assert again.frame().equals(fitted.frame())
    assert again.headline == fitted.headline
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".safetensors"]
    fitted.save(tmp_path / "lens")  # once more, in place
    assert len(list(path.parent.iterdir())) == 2
    assert fitted.figure().axes


def test_other_models_are_refused(fitted, demo, tiny, tmp_path):
    fitted.save(tmp_path / "lens")
    other = tiny()
    with pytest.raises(al.errors.OtherRun, match="of another shape"):
        al.lens.TunedLens.load(tmp_path / "lens", other)
    import copy

    changed = copy.deepcopy(demo[0])
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-3
    with pytest.raises(al.errors.OtherRun, match="other weights"):
        al.lens.TunedLens.load(tmp_path / "lens", changed)
    with pytest.raises(al.errors.OtherRun, match="other weights"):
        al.lens.logit_lens(changed, demo[1], "The dogs", lens=fitted, sites=fitted.sites)


def _bytes(folder):
    path = next(folder.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _edit(**changes):
    def edit(folder):
        path = folder / "tuned_lens.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


DAMAGE = {
    "a changed byte": _bytes,
    "missing weights": lambda folder: next(folder.glob("*.safetensors")).unlink(),
    "missing JSON": lambda folder: (folder / "tuned_lens.json").unlink(),
    "no JSON": lambda folder: (folder / "tuned_lens.json").write_text("{"),
    "a list": lambda folder: (folder / "tuned_lens.json").write_text("[]"),
    "another format": _edit(format="else"),
    "another version": _edit(version=2),
    "a path outside": _edit(weights={"path": "../x.safetensors", "bytes": 1, "sha256": ""}),
    "no sites": _edit(sites=[]),
    "a site twice": _edit(sites=["hook_embed", "hook_embed"]),
    "other sites": _edit(
        sites=["hook_embed", "layers.0.hook_resid_post", "layers.1.hook_resid_post"]
    ),
    "NaN": _edit(plain_kl=[1.0, 2.0, float("nan")]),
    "too few numbers": _edit(tuned_kl=[1.0]),
    "no fingerprint": _edit(model={"name": "demo"}),
    "words for tokens": _edit(tokens="many"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(fitted, demo, tmp_path, damage):
    fitted.save(tmp_path / "lens")
    DAMAGE[damage](tmp_path / "lens")
    with pytest.raises(al.errors.SavedDamaged) as error:
        al.lens.TunedLens.load(tmp_path / "lens", demo[0])
    assert str(error.value).endswith(".")


def test_folders_that_are_not_free(fitted, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(al.errors.FileError, match="is a file"):
        fitted.save(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("x")
    with pytest.raises(al.errors.FileError, match="holds other files"):
        fitted.save(tmp_path / "full")


def test_half_precision_models_are_tuned_in_fp32(tiny):
    model = model_of(tiny, SHAPES[0], dtype=torch.bfloat16)
    from arcee_lab.lens._tune import new_maps, set_gradients
    from arcee_lab.lens.held_out import Teacher
    from arcee_lab.model.anatomy import anatomy_of

    anatomy = anatomy_of(model)
    last = "layers.2.hook_resid_post"
    teacher = Teacher(anatomy, ["hook_embed"], last)
    maps = new_maps(anatomy, ["hook_embed"])
    given = batch_for("left")
    from arcee_lab.data import PaddedBatch

    batch = PaddedBatch(given["input_ids"], given["attention_mask"], given["input_ids"] < 0, (0, 1))
    set_gradients(teacher, batch, maps, last)
    a, b = maps["hook_embed"]
    assert a.grad.dtype == torch.float32
    assert a.grad.abs().max() > 0
    assert b.grad.abs().max() > 0
    assert len(teacher.streams(batch)["hook_embed"]) == 15  # padding does not count
