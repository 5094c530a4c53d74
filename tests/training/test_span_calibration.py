"""Calibration of QA heads: temperature, NLL and ECE against plain arithmetic over single rows."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import arcee_lab as al
from arcee_lab.errors import TextError
from arcee_lab.evals.metrics.answers import exact
from arcee_lab.training.heads import (
    HeadRecipe,
    LabelledQuestions,
    fitting,
    read_labelled,
    train_head,
)
from arcee_lab.training.heads.calibration import calibrate, fit_temperature
from arcee_lab.training.heads.span_calibration import judged_spans

LONGEST = 30  # tokens of an answer


@pytest.fixture(scope="module")
def parts():
    """Training, held-out and test questions."""
    return [
        read_labelled(f"demo:{part}", head="qa", limit=n)
        for part, n in (("train", 64), ("validation", 40), ("test", 40))
    ]


def fit(parts, **more):
    model, tokenizer = al.load("demo", head="base")
    train, held, test = parts
    recipe = HeadRecipe(epochs=2, learning_rate=0.03, **more)
    return train_head(
        model, tokenizer, train, validation=held, test=test, recipe=recipe, progress=False
    )


def read(model, tokenizer, question, context):
    """One unpadded row: logits `[side, choice]` in double precision, and the choices' characters.

    The first choice is the first token of the row, which stands for no answer.
    """
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    choices = [0, *(n for n, part in enumerate(encoded.sequence_ids(0)) if part == 1)]
    with torch.no_grad():
        output = model(**encoded)
    logits = torch.stack([output.start_logits[0], output.end_logits[0]])[:, choices].double()
    return logits, [offsets[n] for n in choices]


def gold_of(data, number, offsets):
    """First and last choice of the first right answer; 0 and 0 where there is none."""
    if not data.answers[number]:
        return 0, 0
    start = data.starts[number][0]
    end = start + len(data.answers[number][0])
    held = [n for n, (a, b) in enumerate(offsets) if n and a < end and b > start]
    return held[0], held[-1]


def given_of(data, number, logits, offsets):
    """The best span by two loops: its choices and its text."""
    pairs = [
        (i, j) for i in range(1, len(offsets)) for j in range(i, min(i + LONGEST, len(offsets)))
    ]
    i, j = max(pairs, key=lambda pair: float(logits[0, pair[0]] + logits[1, pair[1]]))
    if data.may_be_empty and logits[:, 0].sum() > logits[0, i] + logits[1, j]:
        return (0, 0), ""
    return (i, j), data.contexts[number][offsets[i][0] : offsets[j][1]].strip()


def plain(model, tokenizer, data, temperature=1.0):
    """NLL, the probability of each given answer, whether it is right, and all rows."""
    rows, sure, right, nll = [], [], [], 0.0
    for number, question in enumerate(data.questions):
        logits, offsets = read(model, tokenizer, question, data.contexts[number])
        gold = gold_of(data, number, offsets)
        (i, j), text = given_of(data, number, logits, offsets)
        probs = (logits / temperature).exp()
        probs /= probs.sum(1, keepdim=True)
        nll -= math.log(probs[0, gold[0]]) + math.log(probs[1, gold[1]])
        sure.append(float(probs[0, i] * probs[1, j]))
        right.append(any(exact(one, text) for one in data.answers[number] or ("",)))
        rows.append((logits, gold))
    return nll / len(data), np.array(sure), np.array(right, dtype=float), rows


def plain_ece(sure, right):
    """In 15 bins, each with its upper edge."""
    bins = np.ceil(sure * 15)
    return sum(abs((sure - right)[bins == one].sum()) for one in np.unique(bins)) / len(sure)


def near_an_edge(sure):
    """How much the ECE may change where a probability is at an edge between two bins in fp32."""
    edges = np.round(sure * 15)
    near = (np.abs(sure * 15 - edges) < 1e-3) & (edges > 0) & (edges < 15)
    return 2 * float(near.sum()) / len(sure)


def minimum(rows):
    """The temperature with the smallest loss, by scipy."""

    def loss(log_temperature):
        total = 0.0
        for logits, gold in rows:
            logs = (logits / math.exp(log_temperature)).log_softmax(1)
            total -= float(logs[0, gold[0]] + logs[1, gold[1]])
        return total

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x)


def test_the_temperature_of_rows_of_unequal_length():
    generator = np.random.default_rng(0)
    logs, gold, rows = np.full((120, 9), -np.inf), [], []
    for row in range(120):
        choices = np.sort(generator.choice(9, size=generator.integers(2, 9), replace=False))
        drawn = generator.normal(size=len(choices))
        right = generator.choice(len(choices), p=np.exp(drawn) / np.exp(drawn).sum())
        logs[row, choices] = 3 * drawn  # three times too sure
        gold.append(choices[right])
        two = torch.tensor(3 * np.stack([drawn, drawn]))
        rows.append((two, (right, right)))
    found = fit_temperature(logs, np.array(gold))
    # The loss is flat at its minimum, so scipy's is known to the root of the machine's precision.
    assert found == pytest.approx(minimum(rows), rel=1e-6)


def test_a_calibrated_head(parts, tmp_path):
    before, found = fit(parts), fit(parts, calibrate=True)
    _, held, test = parts
    temperature = found.calibration.temperature
    *_, rows = plain(before.model, before.tokenizer, held)
    assert temperature == pytest.approx(minimum(rows), rel=1e-4)  # fp32 logits in other batches
    assert 0.05 < temperature < 20
    assert abs(temperature - 1) > 0.01
    for name in ("weight", "bias"):
        torch.testing.assert_close(
            getattr(found.model.qa_outputs, name) * temperature,
            getattr(before.model.qa_outputs, name),
            rtol=1e-5,
            atol=1e-7,
        )
    loaded, tokenizer = al.load(found.save(tmp_path / "checkpoint"), head="qa")
    assert [effect.part for effect in found.calibration.effects] == ["held-out", "test"]
    for effect, data in zip(found.calibration.effects, (held, test), strict=True):
        assert effect.n == len(data)
        for model, nll, ece in (
            (before.model, effect.nll_before, effect.ece_before),
            (loaded, effect.nll_after, effect.ece_after),
        ):
            expected, sure, right, _ = plain(model, tokenizer, data)
            assert nll == pytest.approx(expected, abs=1e-4)
            assert ece == pytest.approx(plain_ece(sure, right), abs=1e-4 + near_an_edge(sure))
    effect = found.calibration.effects[0]
    assert effect.nll_after < effect.nll_before, "it is the minimum there"
    told = json.loads((tmp_path / "checkpoint" / "scores.json").read_text())["calibration"]
    assert told["temperature"] == temperature
    assert found.scores == before.scores, "the answers stay as they are"


def test_probabilities_of_answers(parts):
    """`al.answer` says what the calibration is about."""
    model, tokenizer = al.load("demo", head="qa")
    data = parts[2]
    _, sure, *_ = plain(model, tokenizer, data)
    for number in range(8):
        (best,) = al.answer(model, tokenizer, data.questions[number], data.contexts[number])
        assert best.probability == pytest.approx(sure[number], abs=1e-5)
    several = al.answer(model, tokenizer, data.questions[0], data.contexts[0], top_k=9)
    assert [one.probability for one in several] == sorted(
        (one.probability for one in several), reverse=True
    )
    assert sum(one.probability for one in several) <= 1 + 1e-6


def test_questions_without_an_answer_and_long_contexts(parts):
    """ "" is an answer, and each window of a long context counts for the likelihood."""
    model, tokenizer = al.load("demo", head="qa")
    with torch.no_grad():  # so that the head answers nothing now and then
        model.qa_outputs.bias.zero_()
    data = parts[2]
    count = 16
    asked = replace(
        data,
        questions=data.questions[:count],
        contexts=data.contexts[:count],
        answers=tuple(one if n % 2 else () for n, one in enumerate(data.answers[:count])),
        starts=tuple(one if n % 2 else () for n, one in enumerate(data.starts[:count])),
        may_be_empty=True,
    )
    found = judged_spans("test", model, tokenizer, asked, batch_size=5)
    for temperature in (1.0, 2.5):
        expected, sure, right, _ = plain(model, tokenizer, asked, temperature)
        nll, ece = found.nll_and_ece(temperature)
        assert nll == pytest.approx(expected, abs=1e-4)
        assert ece == pytest.approx(plain_ece(sure, right), abs=1e-4 + near_an_edge(sure))
    assert found.n == count

    sentence = "Bovork visited the mill. "
    context = sentence * 8 + "Zavim visited the barn. " + sentence * 8
    long = LabelledQuestions(
        ("Where did Zavim go?",), (context,), (("barn",),), ((context.index("barn"),),), False
    )
    config = model.config
    longest, config.max_position_embeddings = config.max_position_embeddings, 64
    try:
        windows = judged_spans("test", model, tokenizer, long, batch_size=2)
    finally:
        config.max_position_embeddings = longest
    assert len(windows.gold) > 4, "two windows or more, each with a first and a last token"
    assert windows.n == 1
    logs = torch.tensor(windows.logs).log_softmax(1)
    half = len(windows.gold) // 2
    nll = -sum(float(logs[n, gold]) for n, gold in enumerate(windows.gold.tolist())) / half
    assert windows.nll_and_ece(1.0)[0] == pytest.approx(nll, abs=1e-9)
    ((window, first, last),) = windows.given.tolist()
    sure = float((logs[window, first] + logs[half + window, last]).exp())
    ece = windows.nll_and_ece(1.0)[1]
    assert ece == pytest.approx(abs(sure - float(windows.right[0])), abs=1e-9)
    own = calibrate(model, windows)
    assert own.temperature == fit_temperature(windows.logs, windows.gold)


def test_an_answer_in_no_window_is_an_error_before_training(parts, monkeypatch):
    def refuse(*args, **settings):
        raise AssertionError("it was trained")

    monkeypatch.setattr(fitting, "_fit", refuse)
    train, held, test = parts
    word = "visited "
    far = replace(
        held,
        questions=("Where?",),
        contexts=(word * 300,),
        answers=(((word * 200).strip(),),),
        starts=((0,),),
    )
    for given, said in (((train, far, test), "held-out"), ((train, held, far), "test")):
        with pytest.raises(TextError, match=f"The {said} question 0: no window of its context"):
            fit(given, calibrate=True)
