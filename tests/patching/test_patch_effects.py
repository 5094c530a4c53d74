"""What a sweep found: frames, pictures, and what does not fit."""

import dataclasses

import pytest
import torch
from patch_cases import metric, pair_of

import arcee_lab as al
from arcee_lab.patching import LogitDifference, Spot

RESID, POST, Z = (
    "layers.*.hook_resid_post",
    "layers.*.mlp.hook_post",
    "layers.*.self_attn.hook_z",
)


@pytest.fixture(scope="module")
def sweeps(tiny):
    model, (base, source) = tiny(), pair_of(padding="right")
    run = (model, base, source, metric)
    return {
        "positions": al.patch_sweep(*run, RESID, over="positions"),
        "heads": al.patch_sweep(*run, Z, over=("heads", "positions")),
        "units": al.patch_sweep(*run, POST, over="units"),
        "estimate": al.patch_attribution(*run, POST, over="units"),
        "whole": al.patch_sweep(*run, ["hook_embed", RESID]),
    }


def test_frames_hold_the_means(sweeps):
    found = sweeps["positions"]
    frame = found.frame()
    assert list(frame.columns) == [
        "site", "layer", "position", "effect", "standard_error", "recovered", "n",
    ]  # fmt: skip
    assert frame["n"].tolist() == [3, 3, 3, 3, 2, 2, 2] * 3
    row = frame[(frame.layer == 1) & (frame.position == 5)].iloc[0]
    pairs = found.effects.view(3, 7, 3)[1, 5, :2]
    assert row["effect"] == pytest.approx(float(pairs.mean()))
    assert row["standard_error"] == pytest.approx(float(pairs.std() / 2**0.5))
    gap = (found.source - found.base)[:2].mean()
    assert row["recovered"] == pytest.approx(float(pairs.mean() / gap))
    assert found.grid("effect").shape == (3, 7)
    assert sweeps["heads"].grid().shape == (3, 4, 7)
    assert sweeps["whole"].frame()["layer"].isna().tolist() == [True, False, False, False]
    best = found.frame().effect.abs().idxmax()
    assert found.top(1)[0] == found.spots[best]
    for sweep in sweeps.values():
        assert list(sweep.spots) == [sweep.spots[i] for i in range(len(sweep.spots))]


def test_they_have_a_face(sweeps):
    for name, found in sweeps.items():
        html = found._repr_html_()
        assert "N = 3 pairs" in html
        assert html.count("<tr") == 1 + min(10, len(found.spots))
        png = found.figure(dark=name == "heads")._repr_png_()
        assert png.startswith(b"\x89PNG")
    found = sweeps["positions"]
    figure = found.figure(labels=["$a", "b", "c", "d", "e", "f", "<g>"], what="effect")
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "1", "2"]
    assert [tick.get_text() for tick in axes.get_xticklabels()][-1] == "<g>"
    cells = [text.get_text().replace("−", "-") for text in axes.texts]
    written = [0.0 if cell == "-0.00" else float(cell) for cell in cells]
    assert written == pytest.approx(found.grid("effect").flatten().tolist(), abs=0.0051)
    rows = sweeps["heads"].figure().axes[0].get_yticklabels()
    assert rows[5].get_text() == "1.1"


def test_a_title_says_where_the_effect_is_largest(sweeps):
    found = sweeps["positions"]
    grid = found.grid("effect")
    layer, position = divmod(int(grid.abs().argmax()), 7)
    said = " ".join(found.figure(what="effect", labels=list("abcdefg")).title.split())
    value = f"{float(grid[layer, position]):+.2f}".replace("-", "−")
    assert said.startswith("Patching the residual stream (hook_resid_post) changes metric ")
    assert f" at layer {layer}, position {'abcdefg'[position]}, " in said
    assert f" {value} (95% interval for the largest of {int(grid.isfinite().sum())}: " in said
    assert said.endswith("; N = 3 pairs)")
    share = found.grid("recovered")
    row, column = divmod(int(share.abs().argmax()), 7)
    said = " ".join(found.figure().title.split())
    assert f"layer {row}, position {column}, " in said
    assert f" {float(share[row, column]):.0%} of the difference (".replace("-", "−") in said
    assert found.figure(title="mine").title == "mine"
    assert "layer . head " in sweeps["heads"].figure().title


def test_noise_is_no_finding_and_a_clear_effect_is_one(sweeps):
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(21, 24, generator=draws).double()
    sides = {"base": torch.zeros(24).double(), "source": torch.ones(24).double()}
    found = dataclasses.replace(sweeps["positions"], effects=noise, **sides)
    for what in ("effect", "recovered"):
        said = " ".join(found.figure(what=what).title.split())
        assert "changes metric clearly nowhere; the largest, at layer " in said
        assert "95% interval for the largest of 21" in said
    clear = noise.clone()
    clear[4] -= 9
    said = " ".join(dataclasses.replace(found, effects=clear).figure(what="effect").title.split())
    mean, error = float(clear[4].mean()), float(clear[4].std()) / 24**0.5
    half = error * 3.41322  # of Student's t with 23 degrees of freedom, at 1 - .05 / 42
    low, high = (f"{end:+.2f}".replace("-", "−") for end in (mean - half, mean + half))
    assert f"most at layer 0, position 4, by {mean:+.2f}".replace("-", "−") in said
    assert f"{low} to {high}; N = 24 pairs" in said
    one = dataclasses.replace(
        found, effects=noise[:, :1], base=sides["base"][:1], source=sides["source"][:1]
    )
    assert "(the largest of 21; N = 1 pair)" in " ".join(one.figure(what="effect").title.split())


def test_one_method_against_the_other(sweeps):
    measured, estimated = sweeps["units"], sweeps["estimate"]
    figure = measured.figure_against(estimated)
    dots = torch.cat([torch.tensor(c.get_offsets().data) for c in figure.axes[0].collections])
    assert torch.equal(dots[:, 0].float(), estimated.mean)
    assert torch.equal(dots[:, 1].float(), measured.mean)
    assert f"with r = {measured.correlation(estimated):.3f} over 216" in figure.axes[0].get_title(
        "left"
    )
    assert measured.correlation(measured) == pytest.approx(1)
    with pytest.raises(ValueError, match="expected alike"):
        measured.figure_against(sweeps["positions"])


def test_a_list_has_no_grid(tiny):
    model, (base, source) = tiny(), pair_of()
    spots = [Spot("layers.1.mlp.hook_post", unit=3), Spot("layers.0.mlp.hook_post", unit=4)]
    found = al.patch_sweep(model, base, source, metric, spots)
    assert [found.spots[i].unit for i in range(2)] == [4, 3]
    with pytest.raises(ValueError, match="fill no grid"):
        found.figure()
    other = al.patch_sweep(model, base, source, metric, [spots[0], spots[1]._replace(unit=5)])
    with pytest.raises(ValueError, match="lacks 1 spots"):
        other.correlation(found)


def test_one_pair_has_no_standard_error(tiny):
    base, source = pair_of(pairs=1)
    frame = al.patch_sweep(tiny(), base, source, metric, RESID).frame()
    assert frame["standard_error"].isna().all()
    assert frame["effect"].notna().all()


def test_metrics_by_name():
    logits = torch.arange(12.0).view(3, 4)
    assert LogitDifference(3, 1)(logits).tolist() == [2, 2, 2]
    assert LogitDifference([3, 0, 2], 1)(logits).tolist() == [2, -1, 1]
    with pytest.raises(ValueError, match="right has 2 token ids for 3 pairs"):
        LogitDifference([1, 2], 3)(logits)
    with pytest.raises(ValueError, match=r"wrong \[4\] out of range: expected 0 to 3"):
        LogitDifference(1, 4)(logits)
    with pytest.raises(ValueError, match="right must be one or more whole numbers"):
        LogitDifference([], 2)


@pytest.mark.parametrize(
    ("sites", "options", "message"),
    [
        ("layers.9.mlp.hook_post", {}, "matches no hook point"),
        ("hook_logits", {}, "hook_logits is what the metric reads"),
        (POST, {"over": "neurons"}, "expected some of positions, heads, units"),
        (POST, {"over": ("units", "units")}, "each once"),
        (POST, {"over": "heads"}, "heads cut the head axis"),
        ("layers.0.self_attn.hook_pattern", {"over": "units"}, "units cut a feature axis"),
        (POST, {"over": "units", "units": [72]}, r"units \[72\] out of range"),
        (Z, {"heads": [4]}, r"heads \[4\] out of range"),
        (RESID, {"over": "positions", "positions": [7]}, "longest sequence has 7 attended tokens"),
        (RESID, {"over": "positions", "positions": [1, 1]}, "positions names an index twice"),
        (
            ["layers.0.self_attn.hook_q", "layers.0.self_attn.hook_k"],
            {"over": "heads"},
            "differ in the number of heads: layers.0.self_attn.hook_q has 4",
        ),
        (RESID, {"at": 7}, r"at=7: the sequences \[0, 1, 2\] have no such attended token"),
        (RESID, {"batch_size": 0}, "batch_size is the rows of a forward"),
        ([Spot("hook_embed")], {"over": "positions"}, "leave out over"),
        ([Spot("hook_embed"), "hook_embed"], {}, "leave out the names"),
        ([Spot("hook_embed", 0), Spot("hook_embed")], {}, "cut the same way"),
        ([Spot(POST.replace("*", "0"), unit=72)], {}, r"units \[72\] out of range"),
        ([Spot("nothing", 0)], {}, "nothing"),
    ],
)
def test_what_does_not_fit(tiny, sites, options, message):
    base, source = pair_of()
    with pytest.raises(ValueError, match=message):
        al.patch_sweep(tiny(), base, source, metric, sites, **options)


def test_batches_that_are_not_aligned(tiny):
    shared, (base, source) = tiny(), pair_of()
    shorter = {name: x[:, :6] for name, x in source.items()}
    padded = pair_of(padding="left")[1]

    def sweep(one, two, model=None, read=metric, **options):
        return al.patch_sweep(model or shared, one, two, read, RESID, **options)

    with pytest.raises(ValueError, match=r"base is \[3, 7\] tokens and source \[3, 6\]"):
        sweep(base, shorter)
    with pytest.raises(ValueError, match="attend different tokens"):
        sweep(base, padded)
    with pytest.raises(ValueError, match=r"source must hold input_ids.*labels"):
        sweep(base, source | {"labels": source["input_ids"]})
    lists = {name: x.tolist() for name, x in base.items()}
    said = "base must hold tensors; got input_ids list, attention_mask list"
    with pytest.raises(ValueError, match=said):
        sweep(lists, source)
    with pytest.raises(ValueError, match=r"base must be \[pair, pos\]"):
        sweep({"input_ids": base["input_ids"][0]}, source)
    with pytest.raises(ValueError, match="this model has no head"):
        sweep(base, source, model=tiny("base"))
    with pytest.raises(ValueError, match="has logits at the last token only; got at=2"):
        sweep(base, source, model=tiny("sequence"), at=2)
    with pytest.raises(ValueError, match=r"one number per pair, a tensor \[3\]; got shape \[\]"):
        sweep(base, source, read=lambda logits: logits.mean())
    with pytest.raises(ValueError, match="got float for logits"):
        sweep(base, source, read=lambda logits: float(logits.mean()))
    with pytest.raises(ValueError, match="The metric has no gradient"):
        al.patch_attribution(shared, base, source, lambda x: x.argmax(-1).float(), RESID)
    # Without a mask every token is attended.
    bare = al.patch_sweep(shared, {"input_ids": base["input_ids"]}, source, metric, RESID)
    assert torch.equal(bare.effects, sweep(base, source).effects)
