"""What a user can get wrong: said before the forward where it can be, and never miscounted."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import arcee_lab as al
from arcee_lab.reducers import (
    ActiveCount,
    CoActivation,
    FiringRate,
    Grouped,
    Histogram,
    MeanCovariance,
    Moments,
    Quantile,
    Reducer,
    TopK,
)

SITE = "layers.1.mlp.hook_post"
IDS = torch.arange(3, 21).view(2, 9)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny()


@dataclass(frozen=True)
class Asking(Reducer):
    @property
    def asks(self):
        return ("weather",)

    def init(self, shape, device):
        return {}

    def update(self, state, x, token_mask, **asked):
        raise AssertionError("never called")


@dataclass(frozen=True)
class Untensored(Reducer):
    def init(self, shape, device):
        return {"n": 0}

    def update(self, state, x, token_mask, **asked):
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "No site was given"),
        ({"layers.*.nothing": FiringRate()}, "matches no hook point"),
        ({SITE: FiringRate}, "expected a reducer such as"),
        ({SITE: "FiringRate"}, "expected a reducer such as"),
        ({SITE: []}, "expected a reducer such as"),
        ({SITE: [FiringRate(), 3]}, "expected a reducer such as"),
        ({"layers.0.self_attn.hook_pattern": FiringRate()}, "read attention with al.attention"),
        ({SITE: CoActivation([3, 72])}, r"hook_post: units \[72\] out of range: expected 0 to 71"),
        ({SITE: CoActivation([-1])}, r"units \[-1\] out of range"),
        ({"*hook_z": CoActivation([0])}, r"takes a site without heads; this one is \(4, 8\)"),
        ({"*hook_z": MeanCovariance()}, "takes a site without heads"),
        ({SITE: Grouped(CoActivation([99]), 2)}, r"units \[99\] out of range"),
        ({SITE: Asking()}, "asks for 'weather'; expected some of labels, positions, seen"),
        ({SITE: Untensored()}, "expected a dict of tensors"),
    ],
)
def test_what_cannot_be_reduced_is_an_error_before_the_forward(model, asked, said):
    with pytest.raises(ValueError, match=said) as error:
        al.capture(model, asked)
    assert "\n" not in str(error.value)
    assert not any(m._forward_hooks for m in model.modules())


def test_a_sequence_head_has_no_tokens_to_count(tiny):
    with pytest.raises(ValueError, match="hook_logits is batch n_labels; capture it instead"):
        al.capture(tiny("sequence"), {"hook_logits": Moments()})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ActiveCount(keep=-1), "keep=-1"),
        (lambda: TopK(0), "k=0"),
        (lambda: Histogram(4, 4), "low=4, high=4"),
        (lambda: Histogram(-200, 4), "-150 <= low < high <= 150"),
        (lambda: Quantile(error=0.5), "error=0.5"),
        (lambda: Quantile(error=0.0), "error=0.0"),
        (lambda: CoActivation([]), "units must be one or more whole numbers"),
        (lambda: CoActivation([1, 1]), "each once"),
        (lambda: Grouped(FiringRate(), 0), "groups=0"),
        (lambda: Grouped(FiringRate(), 2, names=["a", "a"]), "expected 2 different ones"),
        (lambda: Grouped(FiringRate(), 2, names=["a"]), "expected 2 different ones"),
        (lambda: Grouped(FiringRate(first="only"), 2), "Give first= to Grouped"),
        (lambda: Grouped(Grouped(FiringRate(), 2), 2), "asks for no labels"),
    ],
)
def test_settings_out_of_range(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_words_among_which_one_may_choose(run_forked):
    """Without the shape checks, which would speak first."""
    said = run_forked(
        """
        from arcee_lab.reducers import FiringRate, Quantile
        for make in (lambda: FiringRate(first="never"), lambda: Quantile(by="layer")):
            try:
                make()
            except ValueError as error:
                print(error)
        """
    ).splitlines()
    assert said == [
        "first='never': expected one of include, exclude, only.",
        "by='layer': expected one of site, unit.",
    ]


def test_settings_of_another_kind(run_forked):
    """Without the shape checks; a unit 3.7 is not taken for unit 3."""
    said = run_forked(
        """
        import numpy as np
        from arcee_lab.reducers import *
        for make in (
            lambda: CoActivation([3.7]), lambda: CoActivation("12"), lambda: CoActivation(True),
            lambda: TopK(2.5), lambda: TopK("3"), lambda: ActiveCount(1.5),
            lambda: Grouped(FiringRate(), 2.5), lambda: Histogram(1.5, 3), lambda: Quantile("x"),
            lambda: Quantile(low="x"),
        ):
            try:
                print("accepted", make())
            except ValueError as error:
                print(error)
        print(CoActivation(5).units, CoActivation(np.array([4, 2])).units)
        """
    ).splitlines()
    units = "units must be one or more whole numbers, e.g. units=[0, 5]; got"
    assert said == [
        f"{units} [3.7].",
        f"{units} '12'.",
        f"{units} True.",
        "k=2.5: expected a whole number from 1 up.",
        "k='3': expected a whole number from 1 up.",
        "keep=1.5: expected a whole number from 0 up.",
        "groups=2.5: expected a whole number from 1 up.",
        "low=1.5, high=3: expected whole octaves, -150 <= low < high <= 150.",
        "error='x': expected 0.0001 to 0.3.",
        "low='x', high=24: expected whole octaves, -150 <= low < high <= 150.",
        "(5,) (4, 2)",
    ]


@pytest.mark.parametrize(
    "cut",
    [{"device": "cpu"}, {"dtype": torch.float16}, {"positions": 0}, {"heads": 0}, {"units": 3},
     {"grad": True}],
)  # fmt: skip
def test_cuts_do_not_go_with_reducers(model, cut):
    with pytest.raises(ValueError, match=f"leave {next(iter(cut))}= out"):
        al.capture(model, {SITE: FiringRate()}, **cut)


def test_labels(model):
    asked = {SITE: Grouped(FiringRate(), 2)}
    with pytest.raises(ValueError, match="Grouped needs labels"), al.capture(model, asked):
        model(IDS)
    with al.capture(model, asked) as stats:
        for wrong in (torch.zeros(2, 9), torch.zeros(2, 9).bool(), torch.zeros(9).long()):
            with pytest.raises(ValueError, match=r"whole numbers \[batch, columns\]"):
                stats.set_labels(wrong)
        stats.set_labels(torch.zeros(3, 9, dtype=torch.long))
        with pytest.raises(ValueError, match="set_labels got 3 rows and the call has 2"):
            model(IDS)
        stats.set_labels(torch.zeros(1, 9, dtype=torch.long))
        model(IDS)
    assert stats[SITE][0].tokens == 18  # nothing was counted by the calls that were refused


def test_logits_of_some_tokens_only(model):
    asked = {"hook_logits": Moments()}
    said = r"2 x 9 tokens of a call, but hook_logits holds \(2, 1\)"
    with pytest.raises(ValueError, match=said), al.capture(model, asked):
        model(IDS, logits_to_keep=1)


def test_a_site_that_never_fired(model):
    asked, said = {SITE: FiringRate()}, "1 of 1 sites never fired"
    with pytest.raises(ValueError, match=said), al.capture(model, asked):
        pass


def test_a_block_runs_once(model):
    block = al.capture(model, {SITE: FiringRate()})
    with block:
        model(IDS)
    with pytest.raises(ValueError, match="has run already"):
        block.__enter__()


@pytest.mark.parametrize("where", ["layer", "head"])
def test_tokens_are_not_counted_twice_after_a_failure(tiny, tmp_path, where):
    """A forward that fails half way, e.g. without memory, and is tried again by its caller."""
    model = tiny()
    place = model.model.layers[2] if where == "layer" else model.lm_head
    fails = {"now": True}

    def hook(module, args):
        if fails.pop("now", False):
            raise MemoryError("no memory")

    place.register_forward_pre_hook(hook)
    with al.capture(model, {"layers.*.mlp.hook_post": FiringRate()}) as stats:
        with pytest.raises(MemoryError):
            model(IDS)
        model(IDS)
    for read in (lambda: stats[SITE], lambda: stats.save(tmp_path / "x"), stats.merge):
        with pytest.raises(ValueError, match="A forward failed after some sites had counted"):
            read()
    assert not (tmp_path / "x").exists()


def test_a_failure_before_any_site_does_no_harm(tiny):
    model = tiny()
    with al.capture(model, {SITE: FiringRate()}) as stats:
        with pytest.raises(ValueError, match="exactly one of"):
            model()
        with pytest.raises(IndexError):
            model(torch.tensor([[99]]))
        model(IDS)
        with pytest.raises(TypeError):
            model(IDS, input_ids=IDS)  # fails before the backbone is called
        model(IDS)
    assert stats[SITE].tokens == 36


def test_no_token_at_all(model):
    """Rates of nothing are NaN, and quantiles of nothing say so."""
    with al.capture(model, {SITE: [FiringRate(first="only"), ActiveCount(), Quantile()]}) as stats:
        model(IDS, attention_mask=torch.zeros(2, 1, 9, 9).bool())
    rates, active, quantiles = stats[SITE]
    assert rates.tokens == active.tokens == 0
    assert rates.rates.isnan().all()
    assert quantiles.quantile(0.5).isnan()
    with pytest.raises(ValueError, match="No token was counted"):
        active.quantile(0.5)
    assert all("N = 0 tokens" in repr(result) for result in stats[SITE])
    assert "nan" in repr(active)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        active.quantile(-0.1)
    with al.capture(model, {SITE: Histogram()}) as stats:
        model(IDS)
    with pytest.raises(ValueError, match=r"threshold=0\.0: expected above 0"):
        stats[SITE].at_least(0.0)


def test_the_rows_of_the_page_are_what_errors_say():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "errors.md").read_text(
        encoding="utf-8"
    )
    section = page[page.index("## Reducing") :].split("\n## ")[0]
    folder = Path(al.reducers.__file__).parent
    files = [*folder.rglob("*.py"), *(folder.parent / "recording").glob("*.py")]
    files.append(folder.parent / "sites.py")
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings in pieces
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert len(rows) == 20
    for text in re.findall(r"`([^`]+)`", "".join(rows)):
        for part in re.split(r"\.\.\.|\bN\b|B x N", text):
            words = part.strip(" :;'[]")
            assert words in code, words
