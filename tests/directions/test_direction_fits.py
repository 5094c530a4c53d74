"""How directions are found, against numpy and scikit-learn on transformers' own activations."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from transformers import ArceeForCausalLM, ArceeModel

import arcee_lab as al
from arcee_lab import bootstrap
from arcee_lab.directions.auroc import auroc, resampled
from arcee_lab.directions.reading import activations, find_places
from arcee_lab.neurons.labels import spans

SITE = "layers.1.hook_resid_post"
WORDS = ["dog", "dogs", "cat", "cats", "near", "the", "sleep", "sleeps", "soup", "bad"]


def labelled(n: int, seed: int = 0):
    """Random words; the label is true of every word after the first "dog" or "dogs"."""
    draw = np.random.default_rng(seed)
    texts, where = [], []
    for _ in range(n):
        words = draw.choice(WORDS, size=draw.integers(4, 12)).tolist()
        text, found, seen, at = " ".join(words), [], False, 0
        for word in words:
            if seen:
                found.append((at, at + len(word)))
            seen = seen or word.startswith("dog")
            at += len(word) + 1
        texts.append(text)
        where.append(found)
    return spans(texts, {"behind": where})


def reference(model, rows):
    """transformers' own backbone: what its second layer gives, one text at a time, unpadded."""
    twin = ArceeForCausalLM(model.config).eval()
    twin.load_state_dict(model.state_dict())
    backbone: ArceeModel = twin.model
    found = []
    for row in rows:
        with torch.no_grad():
            states = backbone(torch.tensor([row]), output_hidden_states=True).hidden_states
        found.append(states[2][0].numpy())  # hidden_states[0] is the embedding
    return found


@pytest.fixture(scope="module")
def case(demo):
    model, tokenizer = demo
    labels = labelled(30)
    places = find_places(model, tokenizer, labels, "behind")
    states = reference(model, places.rows)
    x = np.stack([states[row][at] for row, at in zip(places.row, places.at, strict=True)])
    return labels, places, x.astype(np.float64)


def test_places_are_the_labelled_tokens(demo, case):
    _, tokenizer = demo
    labels, places, _ = case
    known = []
    for document, text in enumerate(labels.texts):
        ids = tokenizer(text).input_ids
        truth = labels.tokens(tokenizer, "behind")[document]
        known += [(tuple(ids), at, bool(truth[at]), document) for at in range(1, len(ids))]
    found = [
        (tuple(places.rows[row]), int(at), bool(said), int(document))
        for row, at, said, document in zip(
            places.row, places.at, places.truth, places.document, strict=True
        )
    ]
    assert sorted(found) == sorted(known)
    assert not set(places.document[places.fit]) & set(places.document[~places.fit])
    sizes = [len(np.unique(places.document[places.fit == half])) for half in (True, False)]
    assert abs(sizes[0] - sizes[1]) <= 1


@pytest.mark.parametrize("batch_size", [1, 7])
def test_activations_are_those_of_transformers(demo, case, batch_size):
    model, _ = demo
    _, places, x = case
    got = activations(model, places.rows, places.row, places.at, [SITE], batch_size=batch_size)
    # Padding changes the order of sums inside the kernels, not what is summed.
    np.testing.assert_allclose(got[SITE], x, rtol=1e-4, atol=1e-4 * np.abs(x).max())


def by_hand(method: str, x, y):
    """The vector of length 1, and the score at which the method says yes."""
    if method == "mean_difference":
        high, low = x[y].mean(0), x[~y].mean(0)
        w, b = high - low, -(high + low) @ (high - low) / 2
    else:
        scaler = StandardScaler().fit(x)
        z = scaler.transform(x)
        if method == "logistic":
            probe = LogisticRegression(C=0.5, max_iter=300).fit(z, y)
            w, b = probe.coef_[0], probe.intercept_[0]
        else:
            probe = Ridge(alpha=2.0).fit(z, np.where(y, 1.0, -1.0))
            w, b = probe.coef_, probe.intercept_
        w, b = w / scaler.scale_, b - (w / scaler.scale_) @ scaler.mean_
    return w / np.linalg.norm(w), -b / np.linalg.norm(w)


@pytest.mark.parametrize("method", ["mean_difference", "logistic", "ridge"])
def test_fits_are_those_of_scikit_learn(demo, case, method):
    model, tokenizer = demo
    labels, places, x = case
    more = {} if method == "mean_difference" else {"strength": 0.5}
    find = getattr(al.directions, method)
    found = find(model, tokenizer, labels, "behind", site=SITE, shuffles=2, progress=False, **more)
    here, there = places.fit, ~places.fit
    vector, threshold = by_hand(method, x[here], places.truth[here])
    scores = x[there] @ vector
    # fp32 activations that differ in the last bits; the optimum of a logistic fit is flat, so its
    # weights are compared by what they say.
    tight = 1e-4 if method != "logistic" else 2e-2
    np.testing.assert_allclose(found.vectors[0].numpy(), vector, atol=tight)
    spread = scores.std()
    assert found.threshold == pytest.approx(threshold, abs=tight * np.abs(scores).max())
    gap = x[here][places.truth[here]] @ vector
    gap = gap.mean() - (x[here][~places.truth[here]] @ vector).mean()
    assert float(found.scale[0]) == pytest.approx(gap, rel=10 * tight)
    check = found.checks[0]
    assert check.value == pytest.approx(roc_auc_score(places.truth[there], scores), abs=5e-3)
    assert check.low <= check.value <= check.high
    assert (check.n, found.n) == (there.sum(), here.sum())
    got = found.score(torch.from_numpy(x[there])).numpy()
    np.testing.assert_allclose(got, scores - threshold, atol=20 * tight * spread)
    assert found.fingerprint == al.directions.neuron(model, 0, 0).fingerprint


def test_the_area_is_that_of_scikit_learn_also_with_ties():
    draw = np.random.default_rng(0)
    for _ in range(20):
        n = int(draw.integers(5, 60))
        truth = draw.random(n) < 0.4
        truth[:2] = True, False
        scores = draw.integers(0, 8, n).astype(float) if n % 2 else draw.normal(size=n)
        assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))


def test_resampling_draws_whole_documents():
    draw = np.random.default_rng(1)
    document = np.repeat(np.arange(6), [3, 1, 4, 2, 5, 3])
    truth = draw.random(len(document)) < 0.5
    scores = draw.normal(size=len(document)).round(1)
    got = resampled(scores, truth, document, draws=40, seed=3)
    weights = np.concatenate(list(bootstrap.weights(6, draws=40, seed=3)))
    for value, row in zip(got, weights, strict=True):
        taken = np.concatenate(
            [np.flatnonzero(document == d) for d in range(6) for _ in range(int(row[d]))]
        )
        if len(set(truth[taken])) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(roc_auc_score(truth[taken], scores[taken]))


def test_components_of_contrast_pairs(demo):
    model, tokenizer = demo
    things = ["soup", "bread", "room", "wine", "garden", "music", "table", "price", "staff"]
    pairs = [
        [f"The {thing} was {word} and {other} ." for thing in things for other in ("warm", "clean")]
        for word in ("lovely", "nasty")
    ]
    found = al.directions.contrast_pca(
        model, tokenizer, *pairs, site=SITE, rank=3, seed=5, shuffles=2, progress=False
    )
    states = [
        np.stack([s[-1] for s in reference(model, [tokenizer(t).input_ids for t in texts])])
        for texts in pairs
    ]
    order = np.random.default_rng(5).permutation(18)
    here, there = np.sort(order[:9]), np.sort(order[9:])
    gap = (states[0] - states[1])[here].astype(np.float64)
    rows = np.linalg.svd(gap, full_matrices=False)[2][:3]
    # Rows are the same up to their sign, which is that of the mean difference.
    np.testing.assert_allclose(np.abs((found.vectors.numpy() * rows).sum(1)), 1, atol=1e-3)
    along = found.vectors.numpy() @ gap.mean(0)
    assert (along > 0).all()
    np.testing.assert_allclose(found.scale.numpy(), along, rtol=1e-3, atol=1e-3)
    axis = along @ found.vectors.numpy()
    scores = np.concatenate([states[0][there], states[1][there]]) @ axis
    assert found.checks[0].value == pytest.approx(roc_auc_score([1] * 9 + [0] * 9, scores))
    assert found.checks[0].documents == 9


@pytest.mark.parametrize("bias", [False, True])
def test_neurons_are_columns_and_rows(tiny, bias):
    model = tiny(mlp_bias=bias)
    unit = 40
    mlp = model.model.layers[2].mlp
    if bias:
        torch.nn.init.normal_(mlp.up_proj.bias, std=0.1)
        mlp.up_proj.bias.data[unit] = 0.05
    written = al.directions.neuron(model, 2, unit)
    torch.testing.assert_close(written.step, mlp.down_proj.weight[:, unit].detach())
    read = al.directions.neuron(model, 2, unit, part="reads")
    with torch.no_grad(), al.capture(model, [read.site, "layers.2.mlp.hook_post"]) as acts:
        model(torch.randint(3, 50, (2, 9)))
    fires = acts["layers.2.mlp.hook_post"][..., unit] > 0
    assert 0 < fires.sum() < fires.numel()
    assert torch.equal(read.score(acts[read.site]) > 0, fires)
    # Strength 1 raises u by 1.
    row = mlp.up_proj.weight[unit].detach()
    assert float(row @ read.step) == pytest.approx(1.0, abs=1e-5)
