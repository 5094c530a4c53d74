"""`find` against transformers' own Arcee with plain hooks, planted units, and bad input."""

import itertools
import random

import numpy as np
import pytest
import torch
from neuron_models import random_model
from neuron_texts import Letters
from tiny_calls import reference_of

import arcee_lab as al
from arcee_lab.errors import ArceeLabError, SettingError, SiteError, TextError, WrongType
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.neurons import labels as sources
from arcee_lab.neurons.search import controls, curves, levels
from arcee_lab.neurons.search._find import _shuffles
from arcee_lab.neurons.search.controls import untrained_copy
from arcee_lab.neurons.search.streaming import name_of_unit, places_of

POST = "layers.*.mlp.hook_post"
HEADS = "layers.*.self_attn.hook_z"
RESID = "layers.*.hook_resid_post"


class NoBar:
    def update(self) -> None: ...


def texts_of(seed: int, n: int = 24) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice("abcdefgh ") for _ in range(draw.randint(4, 14))) + "a"
            for _ in range(n)]  # fmt: skip


def vowels(seed: int, n: int = 24):
    return sources.regex(texts_of(seed, n), {"vowel": "[ae]", "early": "[a-c]+"})


def reference_values(model, tokenizer, texts: list[str], sites: str) -> list[torch.Tensor]:
    """Text by text, [pos, column] of all layers next to each other, from transformers' Arcee."""
    reference = reference_of(model, model.config._attn_implementation)
    heads, width = model.config.num_attention_heads, model.config.head_dim
    seen: list[torch.Tensor] = []

    def add(value):
        seen.append(value[0].detach().float())

    for layer in reference.model.layers:
        if sites == POST:
            layer.mlp.act_fn.register_forward_hook(lambda m, a, out: add(out))
        elif sites == HEADS:
            layer.self_attn.o_proj.register_forward_pre_hook(
                lambda m, args: add(args[0].float().unflatten(-1, (heads, width)).norm(dim=-1))
            )
        else:
            layer.register_forward_hook(lambda m, a, out: add(torch.cat([out, -out], -1)))
    found = []
    for text in texts:
        seen.clear()
        with torch.no_grad():
            reference(**tokenizer([text], return_tensors="pt", return_token_type_ids=False))
        found.append(torch.cat(seen, dim=1))
    return found


@pytest.mark.parametrize(
    ("seed", "sites", "dtype", "attn"),
    [
        (0, POST, torch.float32, "eager"),
        (1, POST, torch.float32, "sdpa"),
        (2, HEADS, torch.float32, "sdpa"),
        (3, RESID, torch.float32, "eager"),
        (4, POST, torch.bfloat16, "eager"),
    ],
)
def test_scores_are_those_of_the_reference(seed, sites, dtype, attn):
    model, tokenizer = random_model(seed, dtype=dtype, attn=attn), Letters.tokenizer()
    labels = vowels(seed)
    tokens = labels.cut(tokenizer, context=64)
    anatomy = anatomy_of(model)
    places = places_of(anatomy, sites)
    # One text per batch: in bf16 the kernels of other shapes round differently.
    run = {"batch_size": 1 if dtype == torch.bfloat16 else 3, "bar": NoBar()}
    fake = _shuffles(tokens, 3, np.random.default_rng(0))
    found = levels.scan(anatomy, places, tokens, fake, **run)
    values = torch.cat(reference_values(model, tokenizer, list(labels.texts), sites)).numpy()
    wrong = 0
    for place in range(2):
        variants = [tokens.truth[:, place], *(fake[:, place, i] for i in range(3))]
        scores = np.array([[by_hand(x, truth) for x in values.T] for truth in variants])
        wrong += (np.abs(scores[0, :, 0] - found.f1[place]) > 1e-9).sum()
        wrong += (np.abs(scores[0, :, 1] - found.auprc[place]) > 1e-9).sum()
        wrong += (np.abs(scores[1:, :, 0].max(1) - found.shuffled_f1[place]) > 1e-9).sum()
        wrong += (np.abs(scores[1:, :, 1].max(1) - found.shuffled_auprc[place]) > 1e-9).sum()
    # Batches of other shapes may round the last bit of a value, which matters where it equals a
    # level but for that bit: of these comparisons hardly ever.
    assert wrong <= 0.01 * 4 * values.shape[1]


def by_hand(values: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """F1 at the best level and AUPRC over the levels of one column."""
    low, high = values.min(), values.max()
    points, scores = [(1.0, truth.mean())], []
    for share in levels.LEVELS:
        above = values > low + np.float32(share) * (high - low)
        hits = (above & truth).sum()
        scores.append(2 * hits / max(1, above.sum() + truth.sum()))
        points.append((hits / truth.sum(), hits / max(1, above.sum())))
    points.append((0.0, 0.0))
    area = sum((r - nxt) * p for (r, p), (nxt, _) in itertools.pairwise(points))
    return max(scores), area


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_units_found_have_the_scores_of_the_reference(batch_size):
    model, tokenizer = random_model(7), Letters.tokenizer()
    labels, other = vowels(7), vowels(8)
    found = al.neurons.find(
        model, tokenizer, labels, confirm=other, shuffles=2, batch_size=batch_size, untrained=False
    )
    texts = {"search": labels, "confirm": other}
    values = {
        side: torch.cat(reference_values(model, tokenizer, list(one.texts), POST)).numpy()
        for side, one in texts.items()
    }
    truth = {side: one.cut(tokenizer, context=64).truth for side, one in texts.items()}
    width = model.config.intermediate_size
    best = max(
        curves.best_threshold(values["search"][:, c], truth["search"][:, 0])[1]
        for c in range(values["search"].shape[1])
    )
    assert found["vowel"].best.search_f1 == pytest.approx(best)
    for place, name in enumerate(["vowel", "early"]):
        for unit in found[name].units:
            column = unit.layer * width + unit.unit
            mine, yes = values["confirm"][:, column], truth["confirm"][:, place]
            # Batches of other shapes round differently, by units of the last place.
            assert unit.f1 == pytest.approx(curves.f1(mine, yes, unit.threshold), abs=1e-6)
            assert unit.auprc == pytest.approx(curves.auprc(mine, yes), abs=1e-6)
            assert unit.auroc == pytest.approx(curves.auroc(mine, yes), abs=1e-6)


def planted(model, tokenizer, texts: list[str], sites: str, column: int, cut: float):
    """A label that holds exactly where one unit is above a value."""
    values = reference_values(model, tokenizer, texts, sites)
    where = {"planted": [[(i, i + 1) for i in range(len(text)) if x[i, column] > cut]
                         for text, x in zip(texts, values, strict=True)]}  # fmt: skip
    return sources.spans(texts, where)


@pytest.mark.parametrize(
    ("sites", "column", "name"), [(POST, 5, "L0/N5"), (HEADS, 1, "L0/H1"), (RESID, 3, "L0/D3")]
)
def test_a_planted_unit_is_found_and_confirmed(sites, column, name):
    model, tokenizer = random_model(9), Letters.tokenizer()
    texts = texts_of(3, 60)
    values = torch.cat(reference_values(model, tokenizer, texts, sites))[:, column]
    labels = planted(model, tokenizer, texts, sites, column, float(values.quantile(0.8)))
    found = al.neurons.find(model, tokenizer, labels, sites=sites)
    one = found["planted"]
    assert one.best.name == name
    assert one.best.f1 > 0.9
    assert one.best.auprc > 0.99
    assert one.confirmed
    assert found.confirmed == ("planted",)
    assert one.p == pytest.approx(1 / 21)
    assert "1 of 1 label" in found.headline
    assert len(found.frame()) == 1
    assert 1 <= len(found.units()) <= 5
    assert found.figure() is not None


def test_a_dimension_that_falls_is_found():
    model, tokenizer = random_model(9), Letters.tokenizer()
    texts, width = texts_of(3, 60), model.config.hidden_size
    values = torch.cat(reference_values(model, tokenizer, texts, RESID))[:, width + 2]
    labels = planted(model, tokenizer, texts, RESID, width + 2, float(values.quantile(0.8)))
    best = al.neurons.find(model, tokenizer, labels, sites=RESID, shuffles=2)["planted"].best
    assert best.falling
    assert best.name == "-L0/D2"
    assert best.threshold == pytest.approx(-float(values.quantile(0.8)), abs=0.1)


def test_a_label_of_nothing_is_not_confirmed():
    """Random labels: the best of all units looks better than chance and is not confirmed."""
    model, tokenizer = random_model(3), Letters.tokenizer()
    draw = random.Random(0)
    texts = texts_of(4, 60)
    lots = {"lot": [[(i, i + 1) for i in range(len(t)) if draw.random() < 0.2] for t in texts]}
    found = al.neurons.find(model, tokenizer, sources.spans(texts, lots), untrained=False)
    assert not found["lot"].confirmed
    assert found.headline.startswith("No unit beats every control on ")
    assert f"(p cannot be below {1 / (1 + found.shuffles):.2g})" in found.headline
    assert " ".join(found.figure().title.split()).startswith("No neuron of 1 label beats every")
    assert found.missing == "it was left out"


def test_groups_of_sites_and_windows_do_not_change_anything(monkeypatch):
    model, tokenizer = random_model(7), Letters.tokenizer()
    labels = vowels(5, 40)
    settings = {"shuffles": 3, "untrained": False}
    whole = al.neurons.find(model, tokenizer, labels, **settings)
    monkeypatch.setattr(levels, "_MOST_BYTES", 1)
    apart = al.neurons.find(model, tokenizer, labels, **settings)
    assert whole.units().equals(apart.units())
    assert whole.frame().equals(apart.frame())


def test_texts_longer_than_the_context_are_cut_with_their_labels():
    model, tokenizer = random_model(7), Letters.tokenizer()
    labels = sources.regex(["abcde " * 30] * 4, {"a": "a"})
    found = al.neurons.find(model, tokenizer, labels, shuffles=1, untrained=False)
    assert found.search_tokens == 2 * 180
    with pytest.raises(SettingError, match="reads 64 at most"):
        al.neurons.find(model, tokenizer, labels, context=65)


def test_the_untrained_copy_leaves_the_model_alone():
    model = random_model(1, tied=True)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    state = torch.random.get_rng_state()
    made = untrained_copy(anatomy_of(model), seed=3).model
    again = untrained_copy(anatomy_of(model), seed=3).model
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert made.lm_head.weight is made.model.embed_tokens.weight
    for (name, x), y in zip(made.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(x, y)
        assert not torch.equal(x, before[name])


def test_a_copy_that_does_not_fit_is_said_to_be_missing(monkeypatch):
    monkeypatch.setattr(controls, "_free", lambda device: 1000)
    model, tokenizer = random_model(1), Letters.tokenizer()
    found = al.neurons.find(model, tokenizer, vowels(1), shuffles=1)
    assert found["vowel"].untrained is None
    assert "no untrained copy: it needs" in found.headline
    with pytest.raises(SettingError, match="there is none"):
        al.neurons.find(model, tokenizer, vowels(1), untrained=True)


def test_inside_intervene_the_changed_model_is_searched():
    model, tokenizer = random_model(9), Letters.tokenizer()
    texts = texts_of(3, 60)
    values = torch.cat(reference_values(model, tokenizer, texts, POST))[:, 5]
    labels = planted(model, tokenizer, texts, POST, 5, float(values.quantile(0.8)))
    with al.intervene(model, [al.Ablate("layers.0.mlp.hook_post", units=[5])]):
        found = al.neurons.find(model, tokenizer, labels, shuffles=1)
    assert "L0/N5" not in [unit.name for unit in found["planted"].units]
    assert "inside an open block" in found.missing


@pytest.mark.parametrize("role", ["user", "assistant", "not user"])
def test_tokens_of_one_role(role):
    """The labels apply to a role's messages only, and scores are those of these tokens."""
    model, tokenizer = random_model(7), Letters.tokenizer(chat=True)
    draw = random.Random(1)
    texts, inside = [], []
    for _ in range(16):
        said = ["".join(draw.choice("abc ") for _ in range(7)) + "a" for _ in range(2)]
        parts = [("", "user: "), ("user", said[0]), ("", "\nassistant: "), ("assistant", said[1])]
        parts.append(("", "\n"))
        texts.append("".join(part for _, part in parts))
        inside += [who == role.removeprefix("not ") for who, part in parts for _ in part]
    wanted = np.array(inside) != role.startswith("not ")
    labels = sources.regex(texts, {"a": "a"})
    tokens = labels.cut(tokenizer, context=64, role=role)
    assert tokens.asked[:, 0].tolist() == wanted.tolist()
    is_a = np.array([c == "a" for text in texts for c in text])
    assert tokens.truth[:, 0].tolist() == (is_a & wanted).tolist()
    found = al.neurons.find(model, tokenizer, labels, role=role, shuffles=1, untrained=False)
    assert found.search_tokens + found.confirm_tokens == wanted.sum()
    with pytest.raises(TextError, match="chat template"):
        al.neurons.find(model, Letters.tokenizer(), labels, role=role)


def test_more_units_than_the_short_list_has(demo):
    labels = al.neurons.labels.demo("story", n=24)
    ask = {"names": "plural noun", "shuffles": 0, "untrained": False}
    few, many = (al.neurons.find(*demo, labels, top=top, **ask) for top in (20, 60))
    few, many = few["plural noun"].units, many["plural noun"].units
    assert len({(unit.site, unit.unit) for unit in many}) == len(many) == 60
    assert [unit.search_f1 for unit in many] == sorted((u.search_f1 for u in many), reverse=True)
    assert many[0] == few[0]
    # What is on the shorter list is on the longer one, unless a unit from further down is better.
    assert all(one.search_f1 <= other.search_f1 for one, other in zip(few, many, strict=False))


def test_names_of_units():
    assert name_of_unit("layers.1.mlp.hook_post", 32) == "L1/N32"
    assert name_of_unit("layers.2.self_attn.hook_z", 3) == "L2/H3"
    assert name_of_unit("layers.0.hook_resid_post", 7) == "L0/D7"
    assert name_of_unit("hook_embed", 7) == "hook_embed/D7"


A = ["ab", "ba", "aa", "bb"]
BAD = {
    "no labels": (WrongType, {"labels": ["a"]}),
    "other confirmation": (WrongType, {"confirm": 3}),
    "unknown label": (SettingError, {"names": "vowels"}),
    "label that never holds": (SettingError, {"labels": sources.regex(A, {"z": "z"})}),
    "label that always holds": (SettingError, {"labels": sources.regex(A, {"any": "."})}),
    "too few documents": (SettingError, {"labels": sources.regex(A[:3], {"a": "a"})}),
    "one document": (
        SettingError,
        {
            "labels": sources.regex(A, {"a": "a"}, documents=[1, 1, 1, 1]),
            "confirm": sources.regex(A, {"a": "a"}),
        },
    ),
    "confirmation without the label": (SettingError, {"confirm": sources.regex(A, {"b": "b"})}),
    "ranking by AUROC": (SettingError, {"rank_by": "auroc"}),
    "too many units": (SettingError, {"top": 501}),
    "no batch": (SettingError, {"batch_size": 0}),
    "shuffles": (SettingError, {"shuffles": -1}),
    "context": (SettingError, {"context": 1}),
    "role": (SettingError, {"role": "robot"}),
    "unknown site": (SiteError, {"sites": "layers.9.mlp.hook_post"}),
    "pattern": (SiteError, {"sites": "layers.0.self_attn.hook_pattern"}),
    "logits": (SiteError, {"sites": "hook_logits"}),
    "scale": (SiteError, {"sites": "norm.hook_scale"}),
    "slow tokenizer": (TextError, {"tokenizer": object()}),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_searches_are_one_sentence(what):
    error, given = BAD[what]
    settings = {"tokenizer": Letters.tokenizer(), "labels": vowels(0), **given}
    model = random_model(0)
    with pytest.raises(ArceeLabError) as caught:
        al.neurons.find(model, settings.pop("tokenizer"), settings.pop("labels"), **settings)
    assert isinstance(caught.value, error)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_an_unknown_label_is_told_the_nearest():
    with pytest.raises(SettingError, match="nearest: vowel"):
        al.neurons.find(random_model(0), Letters.tokenizer(), vowels(0), names="vowels")


def test_activations_that_are_not_finite():
    model = random_model(0)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0] = torch.nan
    with pytest.raises(ArceeLabError, match="NaN or infinite"):
        al.neurons.find(model, Letters.tokenizer(), vowels(0), untrained=False)
