"""Early stopping, class weights and calibration: against plain arithmetic, killed and resumed."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize_scalar
from sklearn.utils.class_weight import compute_class_weight

import arcee_lab as al
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.heads.token import label_words, score_words
from arcee_lab.training.heads import HeadRecipe, fitting, read_labelled, resuming, train_head
from arcee_lab.training.heads.calibration import fit_temperature
from arcee_lab.training.heads.encoding import balanced_weights, weighted_loss
from arcee_lab.training.heads.held_out import KeepBest, split
from arcee_lab.training.heads.labelled import part_of


class Killed(BaseException):
    """What no handler of ours may catch."""


@pytest.fixture(scope="module")
def reviews():
    return read_labelled("demo:train", head="sequence", limit=48)


@pytest.fixture(scope="module")
def others():
    return read_labelled("demo:validation", head="sequence", limit=24)


def fit(data, recipe, **more):
    model, tokenizer = al.load("demo", head="base")
    return train_head(model, tokenizer, data, recipe=recipe, progress=False, **more)


def test_a_part_is_held_out(reviews):
    train, held = split(reviews, 0.1, seed=0)
    assert (len(train), len(held)) == (43, 5)
    assert sorted(train.texts + held.texts) == sorted(reviews.texts)
    again, other = split(reviews, 0.1, seed=0)[1], split(reviews, 0.1, seed=1)[1]
    assert held == again != other
    for text, label in zip(held.texts, held.labels, strict=True):
        assert reviews.labels[reviews.texts.index(text)] == label
    with pytest.raises(ValueError, match="48 training texts, and 48 would be held out"):
        split(reviews, 0.99, seed=0)


class Steps:
    """What the trainer says to a callback."""

    def __init__(self):
        self.global_step, self.should_training_stop = 0, False

    def run(self, callback, n):
        for _ in range(n):
            self.global_step += 1
            callback.on_step_end(None, self, self)
            if self.should_training_stop:
                break
        return self.global_step


@pytest.mark.parametrize(
    ("metric", "values", "patience", "ends", "best"),
    [
        ("acc", [0.5, 0.6, 0.6, 0.4, 0.9], 2, 8, 2),  # an equal score is no better one
        ("nll", [0.9, 0.7, 0.8, 0.6, 0.5], 2, 10, 5),  # less is better
        ("nll", [math.nan, 0.9, math.nan, math.nan], 2, 8, 2),
        ("acc", [0.5, 0.4, 0.3, 0.2, 0.1], None, 10, None),  # the last one is kept
    ],
)
def test_when_it_stops_and_what_it_keeps(metric, values, patience, ends, best):
    weight, scores, steps = torch.zeros(1), iter(values), Steps()

    def score():
        weight.fill_(steps.global_step)
        return {metric: next(scores)}

    keep = KeepBest(
        every=2, score=score, metric=metric, patience=patience, trained=lambda: {"w": weight}
    )
    assert steps.run(keep, 2 * len(values)) == ends
    assert [look["step"] for look in keep.looks] == list(range(2, ends + 1, 2))
    weight.fill_(-1)
    keep.restore_best()
    assert weight.item() == (-1 if best is None else 2 * best)


def test_the_kept_weights_are_those_of_the_best_epoch(reviews, others):
    recipe = HeadRecipe(epochs=6, batch_size=16, learning_rate=0.3, patience=2)
    stopped = fit(reviews, recipe, validation=others)
    best = min(stopped.held_out, key=lambda look: look["nll"])
    assert len(stopped.held_out) < 6, "such a rate overshoots"
    assert stopped.settings["kept"] == best["step"] < stopped.held_out[-1]["step"]
    logs = score_sequence(stopped.model, stopped.tokenizer, others.texts)
    nll = -logs[range(len(others)), list(others.labels)].mean().item()
    assert nll == pytest.approx(best["nll"], abs=1e-6)


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_a_killed_run_with_early_stopping_goes_on(monkeypatch, tmp_path, reviews, others, tune):
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    reviews, others = part_of(reviews, range(24)), part_of(others, range(12))
    recipe = HeadRecipe(
        tune=tune, epochs=6, batch_size=8, learning_rate=0.1, patience=3, calibrate=True
    )
    whole = fit(reviews, recipe, validation=others)  # 3 steps per epoch, states at 10, 20, ...
    killed, state = 14, tmp_path / "run" / "unfinished" / "state.safetensors"

    def on_step_end(self, args, trainer, control, **kwargs):
        if trainer.global_step == killed:
            raise Killed

    assert whole.held_out[-1]["step"] >= 15, "it is killed before it stops"
    monkeypatch.setattr(fitting._ProgressBar, "on_step_end", on_step_end)
    with pytest.raises(Killed):
        fit(reviews, recipe, validation=others, out=tmp_path / "run")
    with safe_open(state, "pt") as file:
        told, names = file.metadata(), set(file.keys())
    assert json.loads(told["looks"]) == list(whole.held_out[:3])
    assert any(name.startswith("best.") for name in names)
    tensors = {name: one.clone() for name, one in load_file(state).items()}
    damaged = ([], [{}] * 3, json.loads(told["looks"])[:2], [{"nll": "x"}] * 3, 3)
    for looks in damaged if tune == "head" else ():
        save_file(tensors, state, metadata=told | {"looks": json.dumps(looks)})
        with pytest.raises(ValueError, match="is damaged"):
            fit(reviews, recipe, validation=others, out=tmp_path / "run")
    save_file(tensors, state, metadata=told)
    killed = 0
    resumed = fit(reviews, recipe, validation=others, out=tmp_path / "run")
    assert resumed.held_out == whole.held_out
    assert resumed.losses == whole.losses
    assert resumed.calibration == whole.calibration
    parameters = dict(resumed.model.named_parameters())
    for name, weight in whole.model.named_parameters():
        assert torch.equal(weight, parameters[name]), name


def test_weights_are_those_of_scikit_learn(reviews):
    flat = np.array(reviews.labels)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=flat)
    assert balanced_weights(reviews).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    news = read_labelled("demo:train", head="token", limit=6)
    flat = np.concatenate([np.array(row) for row in news.labels])
    there = np.unique(flat)
    weights = dict(zip(there, compute_class_weight("balanced", classes=there, y=flat), strict=True))
    expected = [weights.get(label, 1.0) for label in range(len(news.names))]
    assert balanced_weights(news).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_weighted_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([0.5, 2.0, 1.0])
    for shape in ((5,), (4, 6)):

        class Output:
            logits = torch.randn(*shape, 3, generator=generator)

        labels = torch.randint(3, shape, generator=generator)
        if len(shape) == 2:
            labels[0, 3:] = -100
        sums, counted = 0.0, 0.0
        rows = zip(Output.logits.reshape(-1, 3).tolist(), labels.flatten().tolist(), strict=True)
        for row, label in rows:
            if label != -100:
                nats = math.log(sum(map(math.exp, row))) - row[label]
                sums, counted = sums + weights[label].item() * nats, counted + weights[label].item()
        found = weighted_loss(Output, labels, weights).item()
        assert found == pytest.approx(sums / counted, rel=1e-5)


def test_the_temperature_is_the_minimum():
    generator = np.random.default_rng(0)
    for scale in (0.3, 1.0, 4.0):
        logits = scale * generator.normal(size=(200, 4))
        gold = np.array(
            [generator.choice(4, p=np.exp(x) / np.exp(x).sum()) for x in logits / scale]
        )

        def loss(log_temperature, logits=logits, gold=gold):
            scaled = logits / math.exp(log_temperature)
            rows = np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(gold)), gold]
            return rows.mean()

        best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
        assert fit_temperature(logits, gold) == pytest.approx(math.exp(best.x), rel=1e-4)
    assert fit_temperature(np.eye(3), np.arange(3)) == 0.05, "always right: as sure as is allowed"
    assert fit_temperature(np.eye(3), np.array([1, 2, 0])) == 20.0, "always wrong"


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_calibrated_head(tmp_path, head):
    train, held, test = (
        read_labelled(f"demo:{part}", head=head, limit=n)
        for part, n in (("train", 24), ("validation", 16), ("test", 16))
    )
    given = {"validation": held, "test": test}
    plain = fit(train, HeadRecipe(epochs=6, learning_rate=0.05), **given)
    found = fit(train, HeadRecipe(epochs=6, learning_rate=0.05, calibrate=True), **given)
    temperature = found.calibration.temperature
    assert temperature != 1
    torch.testing.assert_close(
        found.model.score.weight * temperature, plain.model.score.weight, rtol=1e-5, atol=1e-7
    )
    loaded, tokenizer = al.load(found.save(tmp_path / "checkpoint"), head=head)
    before = probabilities(plain.model, tokenizer, test)
    after = probabilities(loaded, tokenizer, test)
    assert [row.argmax(-1).tolist() for row in before] == [row.argmax(-1).tolist() for row in after]
    effect = found.calibration.effects[1]
    gold = np.concatenate([np.atleast_1d(label) for label in test.labels])
    assert effect.n == len(gold)
    for rows, nll, ece in (
        (before, effect.nll_before, effect.ece_before),
        (after, effect.nll_after, effect.ece_after),
    ):
        logs = torch.cat([row.reshape(-1, row.shape[-1]) for row in rows]).double().numpy()
        assert nll == pytest.approx(-logs[np.arange(len(gold)), gold].mean(), abs=1e-5)
        sure, right = np.exp(logs.max(1)), logs.argmax(1) == gold
        bins = np.ceil(sure * 15)
        expected = sum(
            abs((sure - right)[bins == one].sum()) / len(gold) for one in np.unique(bins)
        )
        # A confidence at the edge of a bin may round to either side: one label of all.
        assert ece == pytest.approx(expected, abs=1e-5 + 1 / len(gold) * (head == "token"))
    on_held_out = found.calibration.effects[0]
    assert on_held_out.nll_after < on_held_out.nll_before, "it is the minimum there"
    told = json.loads((tmp_path / "checkpoint" / "scores.json").read_text())["calibration"]
    assert told["temperature"] == temperature
    assert "before" in found.calibration.headline
    if head == "sequence":
        assert {one.metric: one.value for one in found.scores}["ece"] == pytest.approx(
            effect.ece_after, abs=1e-5
        )


def probabilities(model, tokenizer, data):
    if data.words is None:
        return list(score_sequence(model, tokenizer, data.texts))
    return score_words(model, tokenizer, data.words, texts=data.texts)


def test_scores_of_words_are_those_of_their_labels():
    model, tokenizer = al.load("demo", head="token")
    news = read_labelled("demo:test", head="token", limit=9)
    labels = label_words(model, tokenizer, news.words, texts=news.texts)
    scores = score_words(model, tokenizer, news.words, texts=news.texts, batch_size=2)
    for words, given, rows in zip(news.words, labels, scores, strict=True):
        assert rows.shape == (len(words), model.config.num_labels)
        assert [model.config.id2label[best] for best in rows.argmax(-1).tolist()] == given
        torch.testing.assert_close(rows.exp().sum(-1), torch.ones(len(words)))


def test_refused_settings(reviews, others):
    for settings, said in (
        ({"patience": 0}, "patience=0; expected from 1"),
        ({"metric": "acc"}, "metric='acc' has no effect without patience"),
        ({"held_out": 1.0}, "held_out=1.0; expected between 0 and 1"),
        ({"class_weights": "even"}, "class_weights='even'; expected one of none, balanced"),
    ):
        with pytest.raises(ValueError, match=said):
            HeadRecipe(**settings)
    with pytest.raises(ValueError, match=r"metric='em' is no score of these .* acc, macro_f1"):
        fit(reviews, HeadRecipe(patience=1, metric="em"))
    with pytest.raises(ValueError, match=r"held_out=0.5 has no effect next to validation texts"):
        fit(reviews, HeadRecipe(held_out=0.5), validation=others)
