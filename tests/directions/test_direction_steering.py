"""Steering curves against plain hooks and losses, and what the heads predict as labels."""

import numpy as np
import pytest
import torch
from worlds import number_case

import arcee_lab as al
from arcee_lab.directions import Direction
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.neurons.labels import spans

SITE = "layers.2.hook_resid_post"
TEXTS = ["The dogs near the barn sleep .", "Port Gazis flooded .", "The soup was very good ."]


@pytest.fixture(scope="module")
def case():
    return number_case(12)


def direction_for(model, **changes) -> Direction:
    base = vars(al.directions.neuron(model, 2, 7))
    vector = torch.randn(1, 128, generator=torch.Generator().manual_seed(4))
    settings = {"site": SITE, "vectors": vector / vector.norm(), "scale": torch.tensor([30.0])}
    return Direction(**(base | settings | changes))


@pytest.mark.parametrize("batch_size", [1, 5])
def test_success_and_cost_are_those_of_plain_hooks(demo, case, batch_size):
    model, tokenizer = demo
    found = direction_for(model)
    curve = al.directions.steer(
        model,
        tokenizer,
        found,
        case.prompts,
        target=case.target,
        versus=case.versus,
        sources=case.sources,
        strengths=(-1.0, 2.0),
        neutral=TEXTS,
        batch_size=batch_size,
        progress=False,
    )
    assert curve.strengths == (0.0, -1.0, 2.0)
    layer = model.model.layers[2]

    def run(text, change):
        handle = layer.register_forward_hook(lambda m, args, out: change(out))
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            output = model(ids, labels=ids)
        handle.remove()
        return output, ids.shape[1] - 1

    def answers(logits, n):
        right, wrong = (
            tokenizer(words[n], add_special_tokens=False).input_ids[0]
            for words in (case.target, case.versus)
        )
        return bool(logits[0, -1, right] > logits[0, -1, wrong])

    def last(step):
        def change(x):
            new = x.clone()
            new[:, -1] = step if step.ndim == 2 else new[:, -1] + step
            return new

        return change

    step = found.scale[0] * found.vectors[0]
    for column, strength in enumerate(curve.strengths):
        said = [
            answers(run(text, last(strength * step))[0].logits, n)
            for n, text in enumerate(case.prompts)
        ]
        assert curve.success[column] == np.mean(said)
        losses = [run(text, lambda x, s=strength: x + s * step) for text in TEXTS]
        total = sum(float(output.loss) * n for output, n in losses)
        count = sum(n for _, n in losses)
        assert curve.nll[column] == pytest.approx(total / count, rel=1e-4)
    assert curve.n_tokens == count
    np.testing.assert_allclose(curve.cost, curve.nll - curve.nll[0])
    replaced = []
    for n, (one, two) in enumerate(zip(case.prompts, case.sources, strict=True)):
        with torch.no_grad():
            ids = torch.tensor([tokenizer(two).input_ids])
            there = model(ids, output_hidden_states=True).hidden_states[3][:, -1]
        replaced.append(answers(run(one, last(there))[0].logits, n))
    assert curve.whole == np.mean(replaced)
    assert len(curve.frame()) == 3
    assert curve.figure()._repr_png_().startswith(b"\x89PNG")
    assert "random direction" in curve.headline


def test_a_label_of_a_sequence_head_is_steered():
    model, tokenizer = al.load("demo", head="sequence")
    texts = ["Review: The soup was good. Verdict:", "Review: The room was not nasty. Verdict:"]
    found = direction_for(model)
    settings = {"target": "bad", "versus": "good", "strengths": [1.0], "progress": False}
    curve = al.directions.steer(model, tokenizer, found, texts, **settings)
    for column, strength in enumerate(curve.strengths):
        said = []
        for text in texts:
            edit = [found.add(strength, positions=-1)] if strength else []
            with torch.no_grad(), al.intervene(model, edit):
                logits = model(torch.tensor([tokenizer(text).input_ids])).logits[0]
            said.append(bool(logits[0] > logits[1]))
        assert curve.success[column] == np.mean(said)
    with pytest.raises(al.errors.ModelError, match="read from a causal head"):
        al.directions.steer(model, tokenizer, found, texts, neutral=texts, **settings)


def test_whole_sequences_of_one_length_are_replaced(demo, case):
    model, tokenizer = demo
    curve = al.directions.steer(
        model,
        tokenizer,
        direction_for(model),
        case.prompts[:5],
        target=case.target[:5],
        versus=case.versus[:5],
        sources=case.sources[:5],
        positions=None,
        strengths=[0.5],
        batch_size=2,
        progress=False,
    )
    # With all tokens of the source in place at a layer, the rest of the model runs on the source.
    said = []
    for text, right, wrong in zip(case.sources, case.target, case.versus, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(text).input_ids])).logits[0, -1]
        ids = [tokenizer(w, add_special_tokens=False).input_ids[0] for w in (right, wrong)]
        said.append(bool(logits[ids[0]] > logits[ids[1]]))
    assert curve.whole == np.mean(said[:5])
    assert curve.cost is None
    assert "its cost was not measured" in curve.headline


BAD = [
    ({"strengths": []}, "different finite numbers"),
    ({"strengths": [1.0, 1.0]}, "different finite numbers"),
    ({"strengths": [float("nan")]}, "different finite numbers"),
    ({"strengths": [1e38]}, "give a smaller"),
    ({"prompts": []}, "There are no prompts"),
    ({"prompts": ["The dog", " "]}, "prompts 1 is empty"),
    ({"sources": ["The dogs"]}, "There are 1 sources and 2 prompts"),
    ({"sources": ["The dogs", "The big cats"], "positions": None}, "Source 1 has 4 tokens"),
    ({"positions": 9}, "Prompt 0 has 3 tokens and no token at position 9"),
    ({"positions": [0, -4]}, "no token at position -4"),
    ({"sources": ["The dogs", "The"], "positions": 2}, "Source 1 has no token at positions"),
    ({"target": "keep the"}, "expected an answer of one token"),
    ({"target": ["sleep"] * 3}, "answers for 3 prompts and 2 prompts"),
    ({"versus": None}, "give versus="),
    ({"neutral": [" "]}, "no token"),
    ({"max_tokens": 3, "neutral": ["The"]}, "max_tokens asks for 3"),
]


@pytest.mark.parametrize(("changes", "said"), BAD)
def test_what_cannot_be_steered_is_refused(demo, changes, said):
    model, tokenizer = demo
    settings = {"prompts": ["The dog", "The cat"], "target": "sleep", "versus": "sleeps"}
    settings |= {"strengths": [1.0], "progress": False} | changes
    prompts = settings.pop("prompts")
    with pytest.raises(al.errors.ArceeLabError, match=said) as caught:
        al.directions.steer(model, tokenizer, direction_for(model), prompts, **settings)
    assert str(caught.value).endswith(".")


def test_a_direction_of_another_model_or_site_is_refused(demo, tiny):
    model, tokenizer = demo
    asked = {"target": "sleep", "versus": "sleeps", "progress": False}
    other = direction_for(model, fingerprint="f" * 64)
    with pytest.raises(al.errors.ModelError, match="find it anew in this model"):
        al.directions.steer(model, tokenizer, other, ["The dog"], **asked)
    elsewhere = direction_for(model, site="layers.9.hook_resid_post")
    with pytest.raises(al.errors.SiteError, match="matches no hook point"):
        al.directions.steer(model, tokenizer, elsewhere, ["The dog"], **asked)
    wide = direction_for(model, site="layers.2.mlp.hook_post")
    with pytest.raises(al.errors.SiteError, match="belongs to another site"):
        al.directions.steer(model, tokenizer, wide, ["The dog"], **asked)
    for head, kind, said in (
        ("qa", al.errors.WrongType, "must be pairs of texts, a question and its context"),
        ("base", al.errors.ModelError, "has no head"),
    ):
        with pytest.raises(kind, match=said):
            al.directions.steer(tiny(head), tokenizer, direction_for(model), ["The dog"], **asked)


DETECT = [
    ({"concept": "behynd"}, "There is no label 'behynd'"),
    ({"method": "svm"}, "expected one of mean difference, logistic, ridge"),
    ({"sites": "layers.0.self_attn.hook_pattern"}, "one vector per token"),
    ({"sites": "layers.0.input_layernorm.hook_scale"}, "one vector per token"),
    ({"shuffles": 1}, "shuffles=1; expected 2"),
    ({"strength": 0.0}, "expected a positive number"),
    ({"max_positions": 2}, "expected 4 or more"),
    ({"context": 4096}, "the model reads 128 at most"),
    (
        {
            "labels": spans(
                ["The dog"] * 9, {"behind": [[(0, 3)]] * 9}, asked={"behind": [[(0, 3)]] * 9}
            )
        },
        "is true of 5 of 5 tokens to fit on; expected both classes",
    ),
    ({"labels": spans(["The dog"], {"behind": [[(0, 3)]]})}, "expected both classes"),
    (
        {
            "labels": spans(["a b"] * 4, {"behind": [[(0, 1)]] * 4}),
            "confirm": spans(["a b"], {"behind": [[(0, 1)]]}),
        },
        "1 of the texts to confirm on are also",
    ),
]


@pytest.mark.parametrize(("changes", "said"), DETECT)
def test_what_cannot_be_detected_is_refused(demo, changes, said):
    texts = [f"The dog and the cat {n}" for n in range(8)]
    settings = {"labels": spans(texts, {"behind": [[(4, 7)]] * 8}), "concept": "behind"}
    settings |= {"progress": False} | changes
    with pytest.raises(al.errors.ArceeLabError, match=said) as caught:
        al.directions.detect(*demo, settings.pop("labels"), settings.pop("concept"), **settings)
    assert str(caught.value).endswith(".")


def test_a_missing_control_is_said(demo, monkeypatch):
    from arcee_lab.neurons.search import controls

    labels = al.neurons.labels.demo("review", n=12)
    own = controls.untrained_copy(anatomy_of(demo[0]), seed=1).model
    monkeypatch.setattr(controls, "_free", lambda device: 1000)
    settings = {"sites": ["hook_embed", SITE], "shuffles": 2, "progress": False}
    found = al.directions.detect(*demo, labels, "negated", **settings)
    assert "no untrained copy to compare with: it needs" in found.headline
    assert "untrained" not in found.frame()
    with pytest.raises(al.errors.SettingError, match="asks for a copy of the model, and there is"):
        al.directions.detect(*demo, labels, "negated", untrained=True, **settings)
    found = al.directions.detect(*demo, labels, "negated", untrained=own, **settings)
    assert set(found.frame()) >= {"untrained", "gap", "gap_low"}
    assert found.figure()._repr_png_().startswith(b"\x89PNG")


def test_what_a_head_predicts_becomes_labels(demo):
    _, tokenizer = demo
    texts = ["Port Gazis flooded .", "Ann smiled in Lower Barn ."]
    for head in ("sequence", "token", "qa"):
        model, _ = al.load("demo", head=head)
        labels = al.directions.predicted_labels(model, tokenizer, texts, batch_size=1)
        names = ["start", "end"] if head == "qa" else list(model.config.id2label.values())
        for row, text in enumerate(texts):
            ids = tokenizer(text).input_ids
            with torch.no_grad():
                output = model(torch.tensor([ids]))
            if head == "qa":
                said = {
                    name: [int(getattr(output, f"{name}_logits")[0, 1:].argmax()) + 1]
                    for name in names
                }
                if any(int(getattr(output, f"{n}_logits")[0].argmax()) == 0 for n in names):
                    continue  # BOS has no characters
            elif head == "sequence":
                said = {names[int(output.logits[0].argmax())]: [len(ids) - 1]}
            else:
                best = output.logits[0].argmax(-1).tolist()
                said = {n: [i for i, b in enumerate(best) if names[b] == n and i] for n in names}
            for name in labels.names:
                got = np.flatnonzero(labels.tokens(tokenizer, name)[row]).tolist()
                assert got == said.get(name, [])
    with pytest.raises(al.errors.ModelError, match="predicts no labels"):
        al.directions.predicted_labels(*demo, texts)
    with pytest.raises(al.errors.TextError, match="text 0 is empty"):
        al.directions.predicted_labels(model, tokenizer, [" "])


def test_labels_of_whole_texts_are_at_their_last_token(demo):
    _, tokenizer = demo
    labels = al.directions.whole_texts(["It was good. ", "No"], {"good": [True, False]})
    tokens = labels.cut(tokenizer, context=64)
    assert tokens.asked[:, 0].sum() == 2
    assert tokens.truth[:, 0].sum() == 1
    last = tokens.windows.bounds[1:] - 1
    assert tokens.asked[last[1], 0]
    with pytest.raises(al.errors.TextError, match="given for 1 of 2 texts"):
        al.directions.whole_texts(["a", "b"], {"good": [True]})


PAIRS = [
    ({"positive": ["a"] * 3, "negative": ["b"] * 3}, "four pairs or more"),
    ({"negative": ["b"] * 5}, "as many, and four pairs"),
    ({"positive": ["a", "", "a", "a"]}, "positive text 1 is empty"),
    ({"rank": 0}, "expected a rank of 1 to 2"),
    ({"rank": 3}, "expected a rank of 1 to 2"),
    ({"site": "layers.*.hook_resid_post"}, "names 4 hook points"),
    ({"negative": ["The dog"] * 4}, "differ in fewer than 1 directions"),
]


@pytest.mark.parametrize(("changes", "said"), PAIRS)
def test_pairs_without_a_difference_are_refused(demo, changes, said):
    settings = {"positive": ["The dog"] * 4, "negative": ["The cat", "A cat", "The goat", "It"]}
    settings |= {"site": SITE, "progress": False} | changes
    with pytest.raises(al.errors.ArceeLabError, match=said):
        al.directions.contrast_pca(
            *demo, settings.pop("positive"), settings.pop("negative"), **settings
        )


@pytest.mark.parametrize(
    ("layer", "unit", "part", "said"),
    [(9, 0, "writes", "There is no neuron"), (0, -1, "writes", "There is no neuron")],
)
def test_neurons_that_are_not_there_are_refused(tiny, layer, unit, part, said):
    model = tiny()
    with pytest.raises(al.errors.SettingError, match=said):
        al.directions.neuron(model, layer, unit, part=part)
    torch.nn.init.zeros_(model.model.layers[1].mlp.down_proj.weight)
    with pytest.raises(al.errors.SettingError, match="weights of 0 only"):
        al.directions.neuron(model, 1, 3)
