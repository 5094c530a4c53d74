"""What notebooks show of captures, plans, statistics and interventions, and what Tab completes."""

import copy
import io
import pickle

import pytest
import torch
from tiny_calls import POST, batch_of
from torch import nn

import arcee_lab as al
from arcee_lab.errors import ModelError, SiteError, UnknownName, WrongType
from arcee_lab.results import Result
from arcee_lab.sites import Legend

SITES = ["layers.0.mlp.hook_post", "layers.1.mlp.hook_post", "layers.2.mlp.hook_post"]
RATE = al.reducers.FiringRate()


def shown(block, *words):
    html = block._repr_html_()
    assert "style" not in html.replace('style="text-align: right;"', "")
    assert html.startswith("<p>")
    for word in words:
        assert word in html, word


def test_a_capture_is_a_result(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, POST) as acts:
        assert acts.frame()["forwards"].tolist() == [0, 0, 0]
        shown(acts, "3 sites, 0 forwards", *SITES)
        model(**batch)
        assert acts.headline == "3 sites, 1 forward"
        model(batch["input_ids"][:, :4])
    assert isinstance(acts, Result)
    assert acts.headline == "3 sites, 2 forwards"
    assert acts.frame().to_dict("list") == {
        "site": SITES,
        "shape": ["[2, 9, 72]; [2, 4, 72]"] * 3,
        "dtype": ["torch.float32"] * 3,
        "forwards": [2] * 3,
    }
    shown(acts, "3 sites, 2 forwards", "[2, 9, 72]; [2, 4, 72]", *SITES)


def test_the_frame_of_a_capture_shows_what_indexing_gives(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, SITES[0], units=[1, 5], positions=-1, grad=True) as acts:
        model(**batch)
    assert list(acts[SITES[0]].shape) == [2, 1, 2]
    assert acts.frame()["shape"].tolist() == ["[2, 1, 2]"]
    with al.capture(model, SITES[0]) as acts:
        for length in (9, 8, 7, 6, 6):
            model(batch["input_ids"][:, :length])
    assert acts.frame()["shape"].tolist() == ["[2, 9, 72]; [2, 8, 72]; [2, 7, 72]; ..."]
    assert acts.frame()["forwards"].tolist() == [5]


def test_statistics_are_a_result(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, {POST: [RATE, al.reducers.Moments()]}) as stats:
        shown(stats, "Statistics of 3 sites: FiringRate, Moments", "nothing yet")
        model(**batch)
    assert isinstance(stats, Result)
    shown(stats, "Statistics of 3 sites: FiringRate, Moments", "N = 18 tokens", *SITES)
    with al.capture(model, {SITES[1]: RATE}) as one:
        model(**batch)
    assert one.headline == "Statistics of 1 site: FiringRate"


def test_plans_and_interventions_have_tables(tiny):
    model = tiny()
    plan = al.plan(model, SITES[:1], batch=1, length=1)
    assert isinstance(plan, Result)
    assert plan.headline == "1 site, batch 1 x 1 token: 288 bytes"
    shown(plan, "1 site, batch 1", SITES[0], "288")
    half = al.Scale("layers.0.self_attn.hook_z", 0.5, heads=[0], positions=-1)
    shown(half, "Scale", "layers.0.self_attn.hook_z", "factor=0.5", "heads=[0]")
    block = al.intervene(model, [half, al.Ablate(SITES[:2], units=[17])])
    shown(block, "2 interventions, in the order in which they act.", "Ablate", "units=[17]")
    shown(block, f"{SITES[0]}, {SITES[1]}")
    shown(
        al.intervene(model, al.Replace("hook_embed", lambda x: x)), "1 intervention,", "&lt;lambda"
    )


def test_every_mapping_completes_its_keys(tiny):
    model, batch = tiny(), batch_of()
    grouped = al.reducers.Grouped(RATE, groups=2)
    entropy = al.attention.Entropy()
    with (
        al.capture(model, POST) as acts,
        al.capture(model, {POST: RATE}) as stats,
        al.capture(model, {SITES[0]: grouped}) as by_label,
        al.attention.heads(model, [entropy]) as heads,
    ):
        by_label.set_labels(torch.zeros(2, 9, dtype=torch.int64))
        model(**batch)
    sites = Legend(3, "causal").sites()
    for found in (acts, stats, by_label, by_label[SITES[0]], heads, sites, stats.merge(stats)):
        assert found._ipython_key_completions_() == list(found)
    assert acts._ipython_key_completions_() == SITES
    assert heads._ipython_key_completions_() == ["entropy"]


def test_keys_that_are_not_there(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, SITES[1:]) as acts, al.capture(model, {SITES[1]: RATE}) as stats:
        model(**batch)
    for found, verb, nearest in ((acts, "captured", SITES[1]), (stats, "reduced", SITES[1])):
        with pytest.raises(
            UnknownName, match=f"{SITES[0]} was not {verb}; of the .*{nearest}"
        ) as e:
            found[SITES[0]]
        assert str(e.value).endswith(".")
        assert "..." not in str(e.value)
        with pytest.raises(KeyError, match=r"'nonsense' matches no hook point.*\.$"):
            found["nonsense"]
        assert found.get(SITES[0]) is found.get("nonsense") is None
    with pytest.raises(KeyError, match="3 is no name of a site"):
        Legend(3, "causal").key(3, SITES, are="captured")


def test_the_table_of_sites_is_read_only():
    sites = Legend(2, "causal").sites()
    with pytest.raises(WrongType, match="read-only"):
        sites["mine"] = sites["hook_embed"]  # type: ignore[index]
    for change in (sites.clear, sites.popitem, lambda: sites.update({}), lambda: sites.pop("norm")):
        with pytest.raises(TypeError, match="read-only"):
            change()
    assert pickle.loads(pickle.dumps(sites)) == copy.deepcopy(sites) == sites
    assert Legend(2, "causal").sites() is sites


@pytest.mark.parametrize("site", [SITES[0], "hook_logits"])
def test_a_model_is_not_pickled_inside_a_block(tiny, site):
    model, batch = tiny(), batch_of()
    blocks = (
        lambda: al.capture(model, site),
        lambda: al.capture(model, site, stop_at=True),
        lambda: al.intervene(model, al.Scale(site, 2.0)),
    )
    for block in blocks:
        before = pickle.dumps(model.state_dict())
        with block():
            model(**batch)
            for write in (pickle.dumps, lambda it: torch.save(it, io.BytesIO())):
                with pytest.raises(SiteError, match=r"cannot be pickled inside al\..*\.$"):
                    write(model)
            assert pickle.dumps(model.state_dict()) == before
        pickle.loads(pickle.dumps(model))


class Wrapped(nn.Module):
    """As TransformerLens puts in place of a module that it wraps."""

    def __init__(self, inner):
        super().__init__()
        self.original_component = inner


def test_a_model_whose_modules_were_replaced(tiny):
    model = tiny()
    model.model.layers[1].mlp = Wrapped(model.model.layers[1].mlp)
    for sites in (SITES[1], {SITES[1]: RATE}):
        block = al.capture(model, sites)
        with pytest.raises(ModelError, match=rf"{SITES[1]} is no longer a module.*\.$"):
            block.__enter__()
    assert not model.model._forward_pre_hooks
    assert not model.model.layers[0].mlp.hook_post._forward_hooks


def test_small_results(tiny):
    from arcee_lab.model.checks.selfcheck import self_check
    from arcee_lab.trace.stock import stock_path

    path = stock_path("layers.1.self_attn.hook_pattern")
    assert repr(path) == "StockPath(model.layers.1.self_attn.output[1])"
    assert path.frame().to_dict("records") == [
        {"path": "model.layers.1.self_attn.output", "item": 1, "flat_heads": False}
    ]
    found = self_check(tiny())
    assert found is not None
    assert found.headline.startswith("passed: relative errors output ")
    assert found.frame()["error"].tolist() == [found.output, found.residual, found.mlp]
    shown(found, "tolerance", "residual")
