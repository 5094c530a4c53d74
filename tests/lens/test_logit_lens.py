"""The logit lens against transformers' own model: its norm and head on its own residual streams."""

import itertools

import pytest
import torch
from lens_cases import SHAPES, batch_for, model_of, reference_streams
from torch import nn

import arcee_lab as al
from arcee_lab.lens import _logit_lens, readout

U = 2.0**-24  # unit roundoff of fp32


def brute_force(logits, answer):
    """Rank and ties of one token, by looking at every other."""
    own = logits[answer]
    others = [x for i, x in enumerate(logits.tolist()) if i != answer]
    return sum(x > own.item() for x in others), sum(x == own.item() for x in others)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("case", SHAPES)
def test_every_site_is_the_head_on_that_stream(tiny, case, padding, attn):
    model, batch = model_of(tiny, case, attn=attn), batch_for(padding)
    reference, streams, logits = reference_streams(model, batch, attn)
    answers = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(2))
    found = al.lens.logit_lens(model, None, batch, answers=answers, top=3)
    real = batch["attention_mask"].bool()
    assert list(found.sites) == list(streams)
    for number, name in enumerate(found.sites):
        with torch.no_grad():
            said = reference.lm_head(reference.model.norm(streams[name]))
        own = said.gather(2, answers[..., None])
        assert torch.equal(found.logits[number][real], own[real])  # the same operations
        for row, column in real.nonzero().tolist():
            rank, ties = brute_force(said[row, column], int(answers[row, column]))
            assert found.ranks[number, row, column, 0] == rank
            assert found.ties[number, row, column, 0] == ties
        top = said.topk(3)
        assert torch.equal(found.top_ids[number][real], top.indices[real])
        assert torch.equal(found.log_z[number][real], said.logsumexp(-1)[real])
    assert (found.ranks[:, ~real] == -1).all()
    assert found.logits[:, ~real].isnan().all()
    # The last site is the model's own answer, bit for bit, in ours and in transformers' model.
    assert torch.equal(found.logits[-1][real], logits.gather(2, answers[..., None])[real])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_bit_for_bit_and_has_ties(tiny, dtype):
    model, batch = model_of(tiny, SHAPES[0], dtype=dtype), batch_for("left")
    with torch.no_grad():
        logits = model(**batch).logits
    found = al.lens.logit_lens(model, None, batch, answers=list(range(50)), top=0)
    real = batch["attention_mask"].bool()
    assert torch.equal(found.logits[-1][real], logits.float()[real])
    expected = (logits[..., None, :] > logits[..., :, None]).sum(-1)
    assert torch.equal(found.ranks[-1][real], expected[real])
    equal = (logits[..., None, :] == logits[..., :, None]).sum(-1) - 1
    assert torch.equal(found.ties[-1][real], equal[real])
    assert int(equal[real].sum()) > 0


@pytest.mark.parametrize("most", [50, 130, 700])
def test_in_pieces_it_is_within_the_bound_of_two_sums(tiny, monkeypatch, most):
    """The same d terms are added in another order: each sum is off by d*u of their sizes."""
    model, batch = model_of(tiny, SHAPES[0]), batch_for("right")
    answers = list(range(50))
    whole = al.lens.logit_lens(model, None, batch, answers=answers, top=50)
    monkeypatch.setattr(readout, "MOST_LOGITS", most)  # 1, 2 and 14 of 18 tokens at a time
    monkeypatch.setattr(_logit_lens, "_AT_ONCE", 60)
    pieces = al.lens.logit_lens(model, None, batch, answers=answers, top=50)
    real = batch["attention_mask"].bool()
    with torch.no_grad(), al.capture(model, [*whole.sites]) as acts:
        model(**batch)
    norm = model.model.norm
    for number, name in enumerate(whole.sites):
        normed = readout.normalised(norm, acts[name])
        sizes = normed.abs() @ model.lm_head.weight.abs().T
        bound = 2 * model.config.hidden_size * U * sizes * 1.01
        off = (whole.logits[number] - pieces.logits[number]).abs()
        assert (off <= bound)[real].all()
        # A rank can only change among logits that are closer than their bounds.
        near = whole.logits[number]
        close = (near[..., None, :] - near[..., :, None]).abs() <= 2 * bound.amax(-1)[
            ..., None, None
        ]
        moved = (whole.ranks[number] - pieces.ranks[number]).abs()
        assert (moved <= close.sum(-1) - 1)[real].all()


@pytest.mark.parametrize("padding", ["none", "left"])
def test_residuals_that_wait_for_the_head_are_read_as_they_were(tiny, monkeypatch, padding):
    """Bit for bit, whatever the limit, also where a later hook writes into the stream in place."""
    model, batch = model_of(tiny, SHAPES[0]), batch_for(padding)

    def doubled(module, args, out):
        out.mul_(2)

    handle = model.model.layers[1].hook_resid_pre.register_forward_hook(doubled)
    together = al.lens.logit_lens(model, None, batch, top=3)
    found = []
    for most in (0, 700):  # one site at a time; 576 numbers each, so two sites at a time
        monkeypatch.setattr(_logit_lens, "_MOST_WAITING", most)
        found.append(al.lens.logit_lens(model, None, batch, top=3))
    handle.remove()
    for one in found:
        for what in ("ranks", "ties", "logits", "log_z", "top_ids", "top_logits"):
            assert torch.equal(
                getattr(one, what).nan_to_num(), getattr(together, what).nan_to_num()
            )
    # The site before that hook is what the model has without it.
    plain = al.lens.logit_lens(model, None, batch, top=3)
    assert torch.equal(plain.logits[:3].nan_to_num(), together.logits[:3].nan_to_num())
    assert not torch.equal(plain.logits[3:].nan_to_num(), together.logits[3:].nan_to_num())


def test_the_norm_is_the_models_bit_for_bit(tiny):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = model_of(tiny, SHAPES[1], dtype=dtype)
        x = torch.randn(3, 5, 32).to(dtype) * 30
        assert torch.equal(readout.normalised(model.model.norm, x), model.model.norm(x))


def test_counts_of_many_columns_are_exact():
    """A plain sum over 200,000 columns, larger than any half-precision whole number."""
    logits = torch.randint(0, 40, (3, 200_000), generator=torch.Generator().manual_seed(0)).float()
    own = torch.tensor([[0.0, 39.0], [20.0, 5.0], [40.0, -1.0]])
    larger, at_least = _logit_lens.counts(logits, own, _logit_lens.buffer_for(logits))
    for row in range(3):
        for column in range(2):
            assert larger[row, column] == (logits[row] > own[row, column]).sum()
            assert at_least[row, column] == (logits[row] >= own[row, column]).sum()
    with torch.autocast("cpu", torch.bfloat16):
        again = _logit_lens.counts(logits, own, _logit_lens.buffer_for(logits))
        assert torch.equal(again[0], larger)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_default_answer_is_the_next_token(tiny, padding):
    model, batch = model_of(tiny, SHAPES[0]), batch_for(padding)
    found = al.lens.logit_lens(model, None, batch)
    for row in range(2):
        columns = batch["attention_mask"][row].nonzero().flatten().tolist()
        for here, following in itertools.pairwise(columns):
            assert found.answers[row, here, 0] == batch["input_ids"][row, following]
        assert found.answers[row, columns[-1], 0] == -1
    assert len(found.frame()) == len(found.sites) * (8 + 5)


def test_positions_are_attended_tokens(tiny):
    model, batch = model_of(tiny, SHAPES[0]), batch_for("left")
    whole = al.lens.logit_lens(model, None, batch, answers=[4, 5])
    some = al.lens.logit_lens(model, None, batch, answers=[4, 5], positions=[0, -1, 7])
    assert some.columns.tolist()[0] == [0, 8, 7]
    assert some.columns[1, :2].tolist() == [3, 8]
    assert some.there.tolist() == [[True, True, True], [True, True, False]]  # 6 tokens there
    for row, place in some.there.nonzero().tolist():
        column = int(some.columns[row, place])
        torch.testing.assert_close(
            some.logits[:, row, place], whole.logits[:, row, column], rtol=1e-5, atol=1e-5
        )
    assert (some.ranks[:, 1, 2] == -1).all()


@pytest.mark.parametrize("head", ["sequence", "token", "qa"])
def test_classification_heads_read_labels(tiny, head):
    model, batch = model_of(tiny, SHAPES[1], head), batch_for("right")
    found = al.lens.logit_lens(model, None, batch)
    with torch.no_grad(), al.capture(model, "hook_logits") as acts:
        model(**batch)
    logits, real = acts["hook_logits"], batch["attention_mask"].bool()
    labels = 2 if head == "qa" else 3
    assert found.answers.shape == (2, 9, labels)
    if head == "sequence":
        last = found.logits[-1][torch.arange(2), torch.tensor([8, 5])]
        assert torch.equal(last, logits)
    else:
        assert torch.equal(found.logits[-1][real], logits[real])
    assert set(found.frame()["answer"]) == (
        {"start", "end"} if head == "qa" else set(model.config.id2label.values())
    )
    named = "end" if head == "qa" else model.config.id2label[1]
    assert torch.equal(
        al.lens.logit_lens(model, None, batch, answers=named).ranks[..., 0], found.ranks[..., 1]
    )


def test_it_reads_what_interventions_leave(tiny):
    model, batch = model_of(tiny, SHAPES[0]), batch_for("none")
    edits = [al.Ablate("layers.1.hook_attn_out"), al.Scale("layers.0.mlp.hook_post", 2.0)]
    with al.intervene(model, edits):
        found = al.lens.logit_lens(model, None, batch, answers=7)
        with torch.no_grad():
            logits = model(**batch).logits
    assert torch.equal(found.logits[-1, ..., 0], logits[..., 7])


def test_without_blocks_the_embedding_is_the_answer(tiny):
    """Everything ablated, all sites are the head on the embedding alone."""
    model, batch = model_of(tiny, SHAPES[0]), batch_for("none")
    with al.intervene(model, [al.Ablate(["layers.*.hook_attn_out", "layers.*.hook_mlp_out"])]):
        found = al.lens.logit_lens(model, None, batch, answers=list(range(50)))
    norm, embed = model.model.norm, model.model.embed_tokens
    with torch.no_grad():
        x = embed(batch["input_ids"])
        plain = model.lm_head(norm(x))
    for number in range(len(found.sites)):
        assert torch.equal(found.logits[number], plain)


def test_nothing_is_left_on_the_model_and_no_gradient_is_made(tiny):
    model, batch = model_of(tiny, SHAPES[0]), batch_for("none")
    before = {name: len(m._forward_hooks) for name, m in model.named_modules()}
    found = al.lens.logit_lens(model, None, batch)
    assert {name: len(m._forward_hooks) for name, m in model.named_modules()} == before
    assert not found.logits.requires_grad
    assert all(p.grad is None for p in model.parameters())
    with al.capture(model, "norm.hook_normalized") as acts:
        al.lens.logit_lens(model, None, batch)
        model(**batch)
    assert isinstance(acts["norm.hook_normalized"], torch.Tensor)  # the lens' own norms are unseen


def test_first_site_and_views(demo):
    model, tokenizer = demo
    found = al.lens.logit_lens(model, tokenizer, ["The dogs near the door", "The kings"], top=2)
    first = found.first_site(rank=3)
    for place in (found.answers >= 0).nonzero().tolist():
        row, column, answer = place
        ranks = found.ranks[:, row, column, answer].tolist()
        stays = [site for site in range(len(ranks)) if max(ranks[site:]) <= 3]
        assert int(first[row, column, answer]) == (stays[0] if stays else -1)
    assert "median rank" in found.headline
    table = found.strongest()
    assert len(table) == 9 * int(found.there.sum()) * 2
    torch.testing.assert_close(
        torch.tensor(found.frame()["probability"].to_numpy()),
        found.probabilities[:, found.answers[..., 0] >= 0, 0].flatten(),
    )
    (picture,) = [axes for axes in found.figure(sequence=0).axes if axes.get_title(loc="left")]
    words = [text.get_text() for text in picture.texts]
    assert len(words) == 9 * 6
    assert "sleep" in {word.strip() for word in words} | {"sleep"}
    assert found.figure(sequence=1, dark=True) is not None
    assert "<table" in found._repr_html_()


def test_a_large_map_stays_legible():
    """36 layers and 20 tokens: no label covers another."""
    import numpy as np

    from arcee_lab.views.figures.lens import lens_map

    rows = [f"L{i}" for i in range(36)]
    words = [[f"word{c}" for c in range(20)] for _ in rows]
    figure = lens_map(np.random.default_rng(0).random((36, 20)), words, rows, words[0])
    figure.draw_without_rendering()  # lays it out
    axes = figure.axes[0]
    for labels in (axes.get_yticklabels(), axes.get_xticklabels()):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    cells = [text.get_window_extent() for text in axes.texts[:20]]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(cells))


def test_wrapped_models_are_read(tiny):
    model, batch = model_of(tiny, SHAPES[0]), batch_for("none")
    plain = al.lens.logit_lens(model, None, batch)
    wrapped = nn.DataParallel(model)
    assert torch.equal(al.lens.logit_lens(wrapped, None, batch).ranks, plain.ranks)


def test_a_logit_that_is_no_number_has_no_rank(tiny):
    """Not the first rank, which a count of larger ones would give it."""
    model = tiny("causal", num_hidden_layers=3)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    found = al.lens.logit_lens(model, None, {"input_ids": torch.tensor([[3, 4, 5]])}, answers=[7])
    sound = found.labels.index("L1/mid") + 1
    assert found.ranks.shape[0] > sound
    for numbers in (found.ranks, found.ties):
        assert bool((numbers[:sound] >= 0).all())
        assert bool((numbers[sound:] == -1).all())
    assert bool(found.logits[sound:].isnan().all())
    assert found.headline.endswith("logits are NaN from L1/post on, not numbers")
    assert bool((found.first_site(50) == -1).all())
    assert "logits of the last site are NaN" in found.figure().title


def test_pictures_refuse_what_does_not_fit():
    from arcee_lab.views.figures.lens import lens_divergence, lens_map

    with pytest.raises(al.errors.SettingError, match="a word for each"):
        lens_map(torch.zeros(2, 3).numpy(), [["a"] * 3], ["x", "y"], ["1", "2", "3"])
    with pytest.raises(al.errors.SettingError, match="one number for each of the 2 sites"):
        lens_divergence({"plain": [1.0]}, ["a", "b"])
