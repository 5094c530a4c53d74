"""The LM's numbers are those of lm-eval's own `hf` around transformers' Arcee."""

from itertools import islice

import numpy as np
import pytest
import torch
from asking import Words, generation, rolling, shapes
from lm_eval.models.huggingface import HFLM
from transformers import ArceeForCausalLM as Reference

import arcee_lab as al
from arcee_lab.demo import stream
from arcee_lab.evals import ArceeLab
from arcee_lab.evals.scoring.scorer import _has_hooks
from arcee_lab.model.loading import DEMO

REQUESTS = shapes()


@pytest.fixture(scope="module")
def reference(demo):
    model = Reference.from_pretrained(DEMO, dtype=torch.float32)
    return HFLM(pretrained=model, tokenizer=demo[1], batch_size=8, softmax_dtype="float32")


@pytest.fixture(scope="module")
def ours(demo):
    return ArceeLab(*demo)


def differences(one, other):
    return np.abs(np.array([a for a, _ in one]) - np.array([a for a, _ in other]))


@pytest.mark.parametrize("shape", REQUESTS)
def test_log_likelihoods_and_greedy_flags(reference, ours, shape):
    requests = REQUESTS[shape]
    expected = reference.loglikelihood(requests, disable_tqdm=True)
    got = ours.loglikelihood(requests, disable_tqdm=True)
    assert differences(expected, got).max() <= 1e-4
    assert [flag for _, flag in got] == [flag for _, flag in expected]
    for document in {request.doc_id for request in requests}:
        mine = [n for n, request in enumerate(requests) if request.doc_id == document]
        best = [max(mine, key=lambda n, found=found: found[n][0]) for found in (expected, got)]
        assert best[0] == best[1]


def test_requests_of_all_tasks_together_and_any_budget(reference, demo):
    requests = [request for several in REQUESTS.values() for request in several]
    expected = reference.loglikelihood(requests, disable_tqdm=True)
    for budget in (1, 300, 100_000):
        lm = ArceeLab(*demo, batch_tokens=budget)
        got = lm.loglikelihood(requests, disable_tqdm=True)
        assert differences(expected, got).max() <= 1e-4
        assert [flag for _, flag in got] == [flag for _, flag in expected]
    longer = sum(
        len(pair[0]) + len(pair[1]) > 129
        for pair in lm._encoder().pairs([request.args for request in requests])
    )
    assert lm.cost.truncated == longer > 4


def test_truncation_is_said(demo, caplog):
    lm = ArceeLab(*demo)
    lm.loglikelihood(REQUESTS["truncated"], disable_tqdm=True)
    assert "8 of 8 requests did not fit the 128 tokens" in caplog.text
    assert lm.get_model_info()["requests_truncated"] == 8
    caplog.clear()
    lm.loglikelihood(REQUESTS["cloze"], disable_tqdm=True)  # the count is of a call
    assert "did not fit" not in caplog.text


def test_whole_texts_and_their_left_over_windows(reference, ours, monkeypatch):
    """Within 1e-4 in every window: each is one log-likelihood, and a text is the sum of its own."""
    words = Words(3)
    requests = rolling([words.some(*size) for size in ((2, 2), (300, 300), (126, 126), (40, 60))])
    windows = {"hf": [], "ours": []}

    def kept(name, own):
        def call(*args, **kwargs):
            found = own(*args, **kwargs)
            windows[name] += found
            return found

        return call

    own = kept("hf", reference._loglikelihood_tokens)
    monkeypatch.setattr(reference, "_loglikelihood_tokens", own)
    # What lm-eval does not ask of whole texts, the flags, are asked here.
    score = ours._scorer.score
    monkeypatch.setattr(
        ours._scorer,
        "score",
        kept("ours", lambda asked, **how: score(asked, **how | {"greedy": True})),
    )
    expected = reference.loglikelihood_rolling(requests, disable_tqdm=True)
    got = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    assert len(windows["hf"]) == len(windows["ours"]) > len(requests) + 1
    assert differences(windows["hf"], windows["ours"]).max() <= 1e-4
    assert [flag for _, flag in windows["ours"]] == [flag for _, flag in windows["hf"]]
    assert np.sum(got) == pytest.approx(sum(score for score, _ in windows["ours"]), abs=1e-6)
    assert np.abs(np.array(expected) - got).max() <= 1e-4 * 4  # the most windows of one text


def test_hooks_that_transformers_leaves_do_not_count():
    model, tokenizer = al.load("demo")
    batch = tokenizer("The dogs near the door", return_tensors="pt")
    assert len(model(**batch, output_hidden_states=True).hidden_states) == 5
    assert any(module._forward_hooks for module in model.modules())  # transformers' own
    assert not any(map(_has_hooks, model.modules()))
    handle = model.model.layers[0].register_forward_hook(lambda *_: None)
    assert any(map(_has_hooks, model.modules()))
    handle.remove()


def test_short_texts_share_their_beginnings(reference, demo):
    """The world's documents as they come, of which one comes again, one empty and one long text."""
    lm = ArceeLab(*demo)
    texts = [document.text for document in islice(stream(None, seed=6, split="test"), 24)]
    texts += [texts[3], "", Words(6).some(150, 150)]
    requests = rolling(texts)
    expected = reference.loglikelihood_rolling(requests, disable_tqdm=True)
    got = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    assert np.abs(np.array(expected) - got).max() <= 1e-4 * 2
    assert got[3] == got[24]
    assert lm.cost.rows < len(texts) / 2
    (alone,) = ArceeLab(*demo).loglikelihood_rolling(requests[:1], disable_tqdm=True)
    assert alone == pytest.approx(got[0], abs=1e-4)


def test_generation(reference, ours):
    words = Words(4)
    requests = generation([words.some(4, 20) for _ in range(6)])
    expected = reference.generate_until(requests, disable_tqdm=True)
    assert ours.generate_until(requests, disable_tqdm=True) == expected
    assert any(expected)


def test_a_batch_size_that_is_looked_for(demo, reference):
    words = Words(4)
    requests = generation([words.some(4, 20) for _ in range(3)])
    lm = ArceeLab(*demo, batch_size="auto", max_batch_size=2)
    assert lm.generate_until(requests, disable_tqdm=True) == reference.generate_until(
        requests, disable_tqdm=True
    )
    assert ArceeLab(*demo, batch_size="auto").max_batch_size == reference.max_batch_size


def test_exact_keeps_the_arithmetic_of_lm_eval(demo):
    plain = HFLM(pretrained=demo[0], tokenizer=demo[1], batch_size=4)
    exact = ArceeLab(*demo, exact=True, batch_size=4)
    requests = REQUESTS["arc"] + REQUESTS["truncated"]
    expected = plain.loglikelihood(requests, disable_tqdm=True)
    assert exact.loglikelihood(requests, disable_tqdm=True) == expected
    texts = rolling([Words(5).some(20, 30)])
    assert exact.loglikelihood_rolling(texts, disable_tqdm=True) == plain.loglikelihood_rolling(
        texts, disable_tqdm=True
    )
    assert exact.get_model_info()["requests_by_lm_eval"] == len(requests) + 1


def test_half_precision_errs_no_more_than_hf(demo, reference):
    half = Reference.from_pretrained(DEMO, dtype=torch.bfloat16)
    theirs = HFLM(pretrained=half, tokenizer=demo[1], batch_size=8)
    ours = ArceeLab("demo", dtype="bfloat16", device="cpu")
    requests = [r for name in ("arc", "mmlu", "race", "blimp", "cloze") for r in REQUESTS[name]]
    right = reference.loglikelihood(requests, disable_tqdm=True)
    error = {
        name: differences(right, lm.loglikelihood(requests, disable_tqdm=True)).mean()
        for name, lm in (("hf", theirs), ("ours", ours))
    }
    assert error["ours"] <= error["hf"]


def test_fewer_tokens_are_fed(demo):
    lm = ArceeLab(*demo)
    pairs = lm._encoder().pairs([request.args for request in REQUESTS["race"]])
    whole = sum(len(before) + len(after) - 1 for before, after in pairs)
    lm.loglikelihood(REQUESTS["race"], disable_tqdm=True)
    assert lm.cost.fed < whole / 3
    assert lm.cost.requests == len(pairs)


def test_special_tokens_as_lm_eval_sets_them(demo):
    model, tokenizer = demo
    bos = tokenizer.decode(tokenizer.bos_token_id)
    pairs = [("The dogs", " sleep."), (f"{bos}The dogs ", "sleep."), ("", f"{bos}The dogs")]
    for add_bos in (None, True, False):
        lm = ArceeLab(model, tokenizer, add_bos_token=add_bos)
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=add_bos)
        for context, continuation in pairs:
            ((before, after),) = lm._encoder().pairs([(context, continuation)])
            if context:
                assert (before, after) == theirs._encode_pair(context, continuation)
            else:
                ids = theirs.tok_encode(continuation, add_special_tokens=False)
                assert (before, after) == (ids[:1], ids[1:])
