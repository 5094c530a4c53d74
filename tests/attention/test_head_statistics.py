"""Head statistics against plain arithmetic on the reference's eager pattern."""

from dataclasses import dataclass

import pytest
import torch
from largest import Largest
from tiny_calls import CASES, batch_of, call_of, reference_patterns

import arcee_lab as al
from arcee_lab.attention import (
    Distance,
    Entropy,
    FirstMass,
    Offset,
    Reading,
    Statistic,
    TopKeys,
    block,
)

STATISTICS = [Entropy(), FirstMass(), Offset(0), Offset(1), Offset(4), TopKeys(3), Distance()]


def readable(case: str, *, heads: int = 4) -> tuple[torch.Tensor, int]:
    """Which key each query may read, [batch, head, q_pos, k_pos], and the first query's column."""
    q = torch.arange(9)
    allowed = (q[:, None] >= q).expand(2, heads, 9, 9).clone()
    start = 0
    if case in ("left", "-inf", "per head"):
        allowed[1, :, :, :3] = False
    if case == "right":
        allowed[1, :, :, 6:] = False
    if case == "per head":
        allowed[:, 2, :, 5] = False
    if case == "packed":
        allowed[:, :, 4:, :4] = False
    if case == "both ways":
        allowed[:] = True
    if case.startswith("static"):
        allowed = torch.nn.functional.pad(allowed, (0, 7))
    if case == "chunk":
        start, allowed = 4, allowed[:, :, 4:]
    if case == "static decode":
        start, allowed = 8, allowed[:, :, 8:]
    return allowed, start


def brute_force(pattern, allowed, start, statistic) -> torch.Tensor:
    """One query at a time, in fp64."""
    out = torch.full(pattern.shape[:3], torch.nan, dtype=torch.float64)
    for b, h, q in torch.cartesian_prod(*(torch.arange(n) for n in pattern.shape[:3])).tolist():
        keys = allowed[b, h, q].nonzero().flatten()
        p = torch.where(allowed[b, h, q], pattern[b, h, q], 0).double()
        own = start + q
        match statistic:
            case Entropy():
                value = -(p[keys] * p[keys].log()).sum()
            case FirstMass():
                value = p[keys[0]] if len(keys) else torch.zeros(())
            case Offset(back):
                value = p[own - back] if own - back in keys.tolist() else torch.nan
            case TopKeys(k):
                value = p.sort(descending=True).values[:k].sum()
            case Distance():
                value = (p[keys] * (own - keys)).sum()
        out[b, h, q] = value
    return out


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_statistics_equal_arithmetic_on_the_reference(tiny, monkeypatch, attn, case):
    model = tiny(attn=attn, initializer_range=0.4)
    monkeypatch.setattr(block, "MOST_WEIGHTS", 200)  # two or three queries at a time
    patterns, (allowed, start) = reference_patterns(model, case), readable(case)
    call = call_of(model, case)
    before = model(**call_of(model, case)).logits
    with al.attention.heads(model, STATISTICS) as stats:
        after = model(**call).logits
    # Rows that are -inf throughout make the logits NaN under the eager kernel, the reference's too.
    assert torch.equal(after.nan_to_num(9), before.nan_to_num(9))
    q_len = before.shape[1]
    real = torch.ones(2, 1, q_len, dtype=torch.bool)
    if case in ("left", "right"):
        real = batch_of(padding=case)["attention_mask"][:, None].bool()
    if case in ("-inf", "per head"):
        real[1, :, :3] = False
    choice = (allowed.sum(-1) >= 2) & real
    for layer in [0] if case == "-inf" else [0, 1, 2]:
        for statistic in STATISTICS:
            expected = brute_force(patterns[layer], allowed, start, statistic)
            expected = expected.masked_fill(~real, torch.nan)
            got = stats[statistic]
            torch.testing.assert_close(
                got.values(layer).double(),
                expected,
                atol=2e-5,
                rtol=2e-6,
                equal_nan=True,
                msg=lambda m, at=(statistic, layer): f"{at}: {m}",
            )
            counted = choice & ~expected.isnan()
            assert torch.equal(got.n[layer], counted.sum((0, 2)))
            mean = torch.where(counted, expected, 0).sum((0, 2)) / counted.sum((0, 2))
            torch.testing.assert_close(got.mean[layer], mean, atol=2e-5, rtol=2e-6, equal_nan=True)
    alike = allowed / allowed.sum(-1, keepdim=True).clamp_min(1)
    for statistic in STATISTICS:
        got = stats[statistic].even
        if isinstance(statistic, Entropy | Distance):
            assert got != got  # no share: NaN
            continue
        expected = brute_force(alike, allowed, start, statistic)
        counted = choice & ~expected.isnan()
        even = expected[counted].mean().item()
        assert got == pytest.approx(even, rel=1e-5, nan_ok=True), statistic


def test_keys_and_weights_are_the_strongest(tiny):
    model, batch = tiny(initializer_range=0.4), batch_of(padding="left")
    with al.attention.heads(model, TopKeys(4), layers=[0, 2]) as stats:
        model(**batch)
    top = stats[TopKeys(4)]
    for layer in (0, 2):
        with al.capture(model, f"layers.{layer}.*pattern") as acts:
            model(**batch)
        weights, keys = next(iter(acts.values())).topk(4)
        real = batch["attention_mask"][:, None, :, None].bool()
        assert torch.equal(top.keys(layer), keys.masked_fill((weights == 0) | ~real, -1))
        torch.testing.assert_close(top.weights(layer), weights * real, atol=2e-6, rtol=0)
    assert top.keys(0)[0, 0, 0].tolist() == [0, -1, -1, -1]
    with al.attention.heads(model, TopKeys(20), layers=0) as stats:  # more than there are keys
        model(**batch)
    assert stats[TopKeys(20)].keys(0).shape == (2, 4, 9, 20)
    assert (stats[TopKeys(20)].keys(0)[..., 9:] == -1).all()


def test_decode_and_generate_equal_the_full_forward(tiny):
    """Step by step, behind left padding, every statistic of every layer is the whole's."""
    model, batch = tiny(initializer_range=0.4), batch_of(padding="left")
    with al.attention.heads(model, STATISTICS) as steps:
        ids = model.generate(
            **batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0
        )
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 4, dtype=torch.long)], dim=1)
    where = (mask.cumsum(-1) - 1).clamp_min(0)
    with al.attention.heads(model, STATISTICS) as full:
        model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=where[:, :-1])
    for name in full:
        assert torch.equal(steps[name].n, full[name].n)
        torch.testing.assert_close(steps[name].mean, full[name].mean, atol=2e-5, rtol=2e-5)
        for layer in range(3):
            joined = torch.cat(steps[name].values(layer), dim=2)
            torch.testing.assert_close(
                joined, full[name].values(layer), atol=2e-5, rtol=2e-5, equal_nan=True
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_rounding(tiny, dtype):
    """Scores round as the kernel's, the softmax and all after it are fp32."""
    model, batch = tiny(dtype=dtype, initializer_range=0.4), batch_of(padding="right")
    before = model(**batch).logits
    with al.attention.heads(model, STATISTICS) as stats, al.capture(model, "*scores") as acts:
        assert torch.equal(model(**batch).logits, before)
    allowed, start = readable("right")
    for layer, scores in enumerate(acts.values()):
        masked = scores.float().masked_fill(~allowed, -torch.inf)
        pattern = masked.softmax(-1)
        for statistic in STATISTICS:
            expected = brute_force(pattern, allowed, start, statistic)
            got = stats[statistic].values(layer)
            assert got.dtype == torch.float32
            real = batch["attention_mask"][:, None].bool().expand_as(got)
            torch.testing.assert_close(
                got[real].double(), expected[real], atol=2e-5, rtol=2e-6, equal_nan=True
            )


def test_no_pattern_is_ever_whole(tiny, monkeypatch):
    model = tiny(max_position_embeddings=512)
    ids = torch.randint(3, 50, (1, 512), generator=torch.Generator().manual_seed(0))
    with Largest() as forward:
        model(ids, use_cache=False)
    monkeypatch.setattr(block, "MOST_WEIGHTS", 2**15)
    with al.attention.heads(model, STATISTICS) as stats, Largest() as made:
        model(ids, use_cache=False)
    assert stats["entropy"].n.unique().item() == 511
    assert made.numel == max(forward.numel, 2**15)
    assert made.numel < 512 * 512 / 7  # the MLP's; a pattern of one head would be the largest


def test_a_long_pass_keeps_two_numbers_a_head(tiny):
    model, batch = tiny(), batch_of(padding="right")
    with al.attention.heads(model, STATISTICS) as kept:
        model(**batch)
        model(**batch_of(seed=1, length=5))
    with al.attention.heads(model, STATISTICS, tokens=False) as stats:
        model(**batch)
        model(**batch_of(seed=1, length=5))
    assert stats.frame().equals(kept.frame())
    assert [len(kept[name].values(1)) for name in kept] == [2] * len(STATISTICS)
    with pytest.raises(ValueError, match="tokens=True"):
        stats["entropy"].values(0)


def test_statistics_of_what_flows_on(tiny):
    """Under a hook that edits the pattern its statistics are the edited one's."""
    model, batch = tiny(), batch_of()

    def look_back(module, args, pattern):
        return torch.zeros_like(pattern).index_fill(3, torch.tensor(0), 1.0)

    handle = model.model.layers[1].self_attn.hook_pattern.register_forward_hook(look_back)
    with al.attention.heads(model, [FirstMass(), Entropy()]) as stats:
        model(**batch)
    handle.remove()
    assert (stats["first_mass"].mean[1] == 1).all()
    assert (stats["entropy"].mean[1] == 0).all()
    assert (stats["first_mass"].mean[[0, 2]] < 0.9).all()


def test_meta_device_proves_that_nothing_is_read_back(tiny):
    model = tiny(attn="eager").to("meta")
    ids = torch.zeros(2, 9, dtype=torch.long, device="meta")
    mask = torch.ones(2, 9, dtype=torch.long, device="meta")
    with al.attention.heads(model, STATISTICS) as stats:
        model(input_ids=ids, attention_mask=mask)
        model(input_ids=ids, attention_mask=mask)
    assert all(sums.total.is_meta for sums in stats._sums.values())


def test_the_model_is_as_it_was(tiny):
    model, batch = tiny(), batch_of()
    before = model(**batch).logits
    with pytest.raises(ZeroDivisionError), al.attention.heads(model, Entropy()):
        raise ZeroDivisionError
    attention = [layer.self_attn for layer in model.model.layers]
    assert all(not one.readers and one.current_mode() == "off" for one in attention)
    assert torch.equal(model(**batch).logits, before)
    with pytest.raises(ValueError, match="never fired"), al.attention.heads(model, Entropy()):
        pass


def test_a_statistic_of_ones_own(tiny):
    @dataclass(frozen=True)
    class Peak(Statistic):
        name, label = "peak", "largest weight"

        def read(self, rows):
            return Reading(rows.pattern.amax(dim=-1))

    model, batch = tiny(), batch_of()
    with al.attention.heads(model, [Peak(), TopKeys(1)]) as stats:
        model(**batch)
    assert torch.equal(stats[Peak()].mean, stats[TopKeys(1)].mean)


def test_results_are_frames_figures_and_html(tiny):
    model, batch = tiny(), batch_of(padding="left")
    with al.attention.heads(model, STATISTICS, layers="layers.1:3") as stats:
        model(**batch)
    frame = stats.frame()
    assert list(frame["layer"]) == [1] * 4 + [2] * 4
    assert list(frame["head"]) == [0, 1, 2, 3] * 2
    assert set(frame["n"]) == {8 + 5}  # nine and six tokens, without the first of each
    assert set(frame["offset_4_n"]) == {5 + 2}
    assert "entropy_n" not in frame
    one = stats[Offset(1)]
    assert list(one.frame().columns) == ["layer", "head", "offset_1", "n"]
    assert one.frame()["offset_1"].to_numpy() == pytest.approx(one.mean.flatten().numpy())
    assert "N = 13 tokens" in one._repr_html_()
    assert "offset_1" in stats._repr_html_()
    assert one.headline == "Offset(back=1) of 2 x 4 heads (N = 13 tokens)"
    assert repr(one) == f"HeadStatistic({one.headline})"
    for figure in (one.figure(), one.figure(dark=True), stats.figure(), stats.figure(dark=True)):
        assert figure._repr_png_().startswith(b"\x89PNG")
    panels = [axes.get_title(loc="left").replace("\n", " ") for axes in stats.figure().axes]
    for panel, statistic in zip(panels, STATISTICS, strict=True):
        head, value = stats[statistic].strongest
        even = stats[statistic].even
        chance = f"; even attention {even:.2f}" if even == even else ""
        assert panel == f"{statistic.label}: {head} {value:.2f}{chance}"
        row, number = (int(part[1:]) for part in head.split("/"))
        assert value == float(stats[statistic].mean[row - 1, number])
        assert value == float(stats[statistic].mean.nan_to_num(-1).max())
    assert list(stats) == ["entropy", "first_mass", "offset_0", "offset_1", "offset_4", "top_3",
                           "distance"]  # fmt: skip
    assert Offset(1) in stats
    assert Offset(2) not in stats


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([],), "statistics are values"),
        (([Entropy(), Entropy()],), "asked for twice"),
        ((Entropy(), 7), "matches no hook point"),
    ],
)
def test_bad_arguments_are_errors_before_the_forward(tiny, arguments, said):
    statistics, *layers = arguments
    with pytest.raises(ValueError, match=said):
        al.attention.heads(tiny(), statistics, **({"layers": layers[0]} if layers else {}))


def test_bad_settings_and_questions(tiny):
    for wrong in (-1, True):
        with pytest.raises(ValueError, match="whole number from 0 up"):
            Offset(wrong)
    with pytest.raises(ValueError, match="whole number from 1 up"):
        TopKeys(0)
    model = tiny()
    with al.attention.heads(model, Entropy(), layers=0) as stats:
        with pytest.raises(ValueError, match="No forward has been seen"):
            stats["entropy"]
        model(**batch_of())
    with pytest.raises(KeyError, match="is not among the statistics"):
        stats[Offset(1)]
    with pytest.raises(ValueError, match="layer 2 was not asked for"):
        stats[Entropy()].values(2)
    with pytest.raises(ValueError, match="names no keys"):
        stats[Entropy()].keys(0)


def test_wrong_types_are_told_where_nothing_checks_them(run_forked):
    """Tests check argument types themselves; a user's process does not."""
    run_forked(
        """
        import arcee_lab as al
        model, tokenizer = al.load("demo")
        for ask, said in (
            (lambda: al.attention.heads(model, ["entropy"]), "statistics are values"),
            (lambda: al.attention.heads(model, al.attention.Entropy), "statistics are values"),
            (lambda: al.attention.heads(model, None), "statistics are values"),
            (
                lambda: al.attention.heads(model, al.attention.Entropy(), layers=1.5),
                "layers are numbers or filters such as 'layers.4:8'; got 1.5",
            ),
            (lambda: al.capture(model, "*post", dtype="float16"), "capture is 'float16'"),
            (lambda: al.capture(model, "*post", stop_at=1.5), "stop_at of capture is 1.5 (float)"),
            (lambda: al.capture(model, "*post", device="moon"), "device='moon' cannot be used"),
            (lambda: al.attention.Offset(1.5), "whole number from 0 up; got 1.5"),
            (lambda: al.attention.TopKeys("3"), "whole number from 1 up; got '3'"),
        ):
            try:
                ask()
            except ValueError as error:
                assert said in str(error), error
            else:
                raise SystemExit(f"no error: {said}")
        """
    )
