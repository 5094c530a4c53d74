"""The legend: spellings, globs, ranges, order, and the table against the real modules."""

import pytest
import torch

from arcee_lab.sites import LAYER, Legend, site_label

LEGEND = Legend(n_layers=4, head="causal")


@pytest.mark.parametrize(
    ("spelling", "names"),
    [
        ("layers.2.mlp.hook_post", ["layers.2.mlp.hook_post"]),
        ("model.layers.2.mlp.hook_post", ["layers.2.mlp.hook_post"]),
        ("transformer.layers.2.mlp.hook_post", ["layers.2.mlp.hook_post"]),
        ("blocks.2.mlp.hook_post", ["layers.2.mlp.hook_post"]),
        ("blocks.0.ln2.hook_out", ["layers.0.post_attention_layernorm.hook_normalized"]),
        ("ln_final.hook_out", ["norm.hook_normalized"]),
        ("blocks.-1.ln1.hook_out", ["layers.3.input_layernorm.hook_normalized"]),
        (
            "blocks.*.ln1.hook_out",
            [f"layers.{i}.input_layernorm.hook_normalized" for i in range(4)],
        ),
        ("layers.1:3.hook_resid_mid", ["layers.1.hook_resid_mid", "layers.2.hook_resid_mid"]),
        ("layers.-1.hook_mlp_out", ["layers.3.hook_mlp_out"]),
        ("layers.-2:.hook_mlp_out", ["layers.2.hook_mlp_out", "layers.3.hook_mlp_out"]),
        ("layers.*.mlp.hook_relu", [f"layers.{i}.mlp.hook_relu" for i in range(4)]),
        ("layers.1.self_attn.*pattern", ["layers.1.self_attn.hook_pattern"]),
        ("hook_logits", ["hook_logits"]),
    ],
)
def test_spellings(spelling, names):
    assert LEGEND.resolve(spelling) == names


def test_result_is_in_forward_order_whatever_was_asked():
    asked = ["hook_logits", "layers.3.hook_resid_post", "layers.0.mlp.*", "hook_embed"]
    assert LEGEND.resolve(asked) == [
        "hook_embed",
        "layers.0.mlp.hook_pre",
        "layers.0.mlp.hook_relu",
        "layers.0.mlp.hook_post",
        "layers.3.hook_resid_post",
        "hook_logits",
    ]


def test_wildcards_do_not_reach_attention_matrices_unless_spelled():
    everything = LEGEND.resolve("*")
    assert not [n for n in everything if n.endswith(("hook_scores", "hook_pattern"))]
    assert len(everything) == 1 + 4 * (len(LAYER) - 2) + 2 + 1
    assert len(LEGEND.resolve(["*", "*scores", "*pattern"])) == len(everything) + 8


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("layers.7.mlp.hook_post", r"layers 0 to 3.*nearest: layers\.\d\.mlp\.hook_post"),
        ("layers.*.mlp.hook_pst", "nearest: layers"),
        ("layers.9:.mlp.hook_post", "matches no hook point"),
        ("blocks.0.ln1.hook_scale", "divides, ours multiplies"),
        ("blocks.0.ln1.hook_normalized", r"before the norm's weight.*ln1\.hook_out"),
        ("blocks.*.ln2.hook_normalized", "before the norm's weight"),
        ("ln_final.hook_normalized", "before the norm's weight"),
        ("blocks.0.ln1.*", "other quantities"),
        ("blocks.0.mlp.hook_out", "matches no hook point"),
        ("blocks.0.attn.hook_attn_scores", "scores are masked"),
        ([], "at least one"),
    ],
)
def test_filters_that_match_nothing_say_what_is_near(wrong, said):
    with pytest.raises(ValueError, match=said):
        LEGEND.resolve(wrong)


def test_base_model_has_no_logits():
    with pytest.raises(ValueError, match="'base'"):
        Legend(2, "base").resolve("hook_logits")


@pytest.mark.parametrize("head", ["base", "causal", "sequence", "token", "qa"])
def test_table_is_the_model(tiny, head):
    """Every hook point of the model is in the table under its path, and the other way round."""
    from arcee_lab.model import HookPoint
    from arcee_lab.model.anatomy import anatomy_of

    model = tiny(head)
    anatomy = anatomy_of(model)
    assert anatomy.legend == Legend(model.config.num_hidden_layers, head)
    paths = {n for n, m in anatomy.backbone.named_modules() if isinstance(m, HookPoint)}
    paths |= {n for n, m in model.named_children() if isinstance(m, HookPoint)}
    assert paths == set(anatomy.legend.sites())
    assert all(isinstance(anatomy.hook_point(n), HookPoint) for n in anatomy.legend.sites())


@pytest.mark.parametrize("head", ["base", "causal", "sequence", "token", "qa"])
def test_order_and_shapes_are_those_of_a_forward(tiny, head):
    from arcee_lab.model.anatomy import anatomy_of

    model = tiny(head, attn="eager")
    anatomy = anatomy_of(model)
    for layer in anatomy.backbone.layers:
        layer.self_attn.pattern_mode = "read"
    seen = {}
    for name in anatomy.legend.sites():
        hook = lambda m, a, out, name=name: seen.setdefault(name, out)  # noqa: E731
        anatomy.hook_point(name).register_forward_hook(hook)
    model(input_ids=torch.randint(3, 50, (2, 7)))
    assert sorted(seen) == sorted(anatomy.legend.sites())
    read = [n for n in seen if not n.endswith(("hook_scores", "hook_pattern"))]
    assert read == [n for n, s in anatomy.legend.sites().items() if not s.on_request]
    calls = {"batch": 2, "pos": 7, "q_pos": 7, "k_pos": 7}
    for name, site in anatomy.legend.sites().items():
        expected = tuple(calls[a] if a in calls else anatomy.size(a) for a in site.axes)
        assert tuple(seen[name].shape) == expected, name


def test_docs_hold_the_table():
    from pathlib import Path

    from arcee_lab.sites import markdown_table

    docs = Path(__file__).parent.parent / "docs" / "reference" / "sites.md"
    assert markdown_table() in docs.read_text(encoding="utf-8")


def test_labels_of_figures_are_short_and_tell_all_sites_apart():
    assert [site_label(f"layers.3.hook_resid_{point}") for point in ("pre", "mid", "post")] == [
        "L3/pre",
        "L3/mid",
        "L3/post",
    ]
    assert site_label("hook_embed") == "embed"
    assert site_label("layers.3.mlp.hook_post") == "L3/mlp.post"
    assert site_label("norm.hook_scale") == "norm.scale"
    sites = LEGEND.sites()
    assert len({site_label(name) for name in sites}) == len(sites)
