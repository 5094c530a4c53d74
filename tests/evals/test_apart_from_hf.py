"""Where lm-eval's `hf` is not the truth: two exceptions to "within 1e-4 of `hf`"."""

import copy

import numpy as np
import pytest
import torch
from asking import Words, choices, plain_answer, rolling
from lm_eval.models.huggingface import HFLM
from transformers import ArceeConfig as ReferenceConfig
from transformers import ArceeForCausalLM as Reference

from arcee_lab.errors import SettingError
from arcee_lab.evals import ArceeLab
from arcee_lab.evals.scoring.rolling_windows import rolling_windows
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.model.loading import DEMO

LENGTH = 4096


def test_one_token_behind_a_context_that_another_request_continues(demo):
    """`hf` looks the one token up where the other request's continuation begins."""
    model, tokenizer = demo
    hf = HFLM(
        pretrained=Reference.from_pretrained(DEMO, dtype=torch.float32),
        tokenizer=tokenizer,
        softmax_dtype="float32",
    )
    ours = ArceeLab(model, tokenizer)
    requests = choices([("The", [" dogs"]), ("", ["The dogs"])])
    theirs, other = (score for score, _ in hf.loglikelihood(requests, disable_tqdm=True))
    ((alone, _),) = hf.loglikelihood(requests[:1], disable_tqdm=True)
    mine, mine_other = (score for score, _ in ours.loglikelihood(requests, disable_tqdm=True))
    encoder = ours._encoder()
    plain, _ = plain_answer(model, encoder, "The", " dogs")
    assert mine == pytest.approx(plain, abs=1e-4)
    assert alone == pytest.approx(plain, abs=1e-4)
    assert mine_other == pytest.approx(other, abs=1e-4)
    assert plain == pytest.approx(-4.096, abs=5e-4)  # what the documentation says
    assert theirs == pytest.approx(-12.374, abs=5e-4)
    # That is the log-likelihood of " dogs" where the text begins.
    ((before, after),) = encoder.pairs([("The", " dogs")])
    with torch.no_grad():
        first = model(torch.tensor([before[:1]])).logits[0, -1].log_softmax(-1)
    assert theirs == pytest.approx(first[after[0]].item(), abs=1e-4)


@pytest.fixture(scope="module")
def long(demo):
    """A model that reads 4,096 tokens, in both implementations, with untrained weights."""
    tokenizer = demo[1]
    settings = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    reference = Reference(ReferenceConfig(**settings)).eval()
    model = ArceeForCausalLM(ArceeConfig(**settings)).eval()
    model.load_state_dict(reference.state_dict())
    return reference, model, tokenizer


def test_whole_texts_of_thousands_of_tokens(long):
    """`hf` adds a window's log-likelihoods in fp32, whose numbers lie 2 in 1,000 apart there."""
    reference, model, tokenizer = long
    hf = HFLM(pretrained=reference, tokenizer=tokenizer, softmax_dtype="float32")
    ours = ArceeLab(model, tokenizer)
    words = Words(3)
    requests = rolling([words.some(size, size) for size in (2000, 2200, 2400, 2600, 2800)])
    theirs = hf.loglikelihood_rolling(requests, disable_tqdm=True)
    mine = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    texts = ours._encoder().texts([request.args[0] for request in requests])
    windows = rolling_windows(
        list(texts.values()), prefix=ours.prefix_token_id, longest=ours.max_length
    )
    truth = []
    model.double()
    for (window,) in windows:  # each text is one window
        with torch.no_grad():
            logits = model(torch.tensor([window.tokens])).logits[0, window.first :]
        rows = torch.arange(len(window.targets))
        truth.append(logits.log_softmax(-1)[rows, torch.tensor(window.targets)].sum().item())
    model.float()
    off_theirs, off_mine = (np.abs(np.array(one) - truth) for one in (theirs, mine))
    sizes = np.array([len(window.targets) for (window,) in windows])
    assert min(map(abs, truth)) > 2**14  # fp32 has steps of 2^-9 there, and of 2^-8 above 2^15
    assert theirs == [float(np.float32(one)) for one in theirs]
    # A token's log-likelihood, below 16 nats, is rounded by half of fp32's step of 2^-20 there; n
    # of them, at random, add to sqrt(n) * 2^-21, here below 3e-5.
    assert np.sqrt(sizes).max() * 2.0**-21 < 3e-5
    assert off_mine.max() < 1e-4 < off_theirs.max()


def test_without_bos_and_eos_a_text_alone_has_no_beginning(demo):
    """lm-eval ends in a TypeError; a context is a beginning, so what has one is scored."""
    model, tokenizer = demo
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = bare.eos_token = None
    ours = ArceeLab(model, bare)
    ((score, _),) = ours.loglikelihood(choices([("The", [" dogs"])]), disable_tqdm=True)
    assert np.isfinite(score)
    for ask in (
        lambda: ours.loglikelihood(choices([("", ["The dogs"])]), disable_tqdm=True),
        lambda: ours.loglikelihood_rolling(rolling(["The dogs"]), disable_tqdm=True),
    ):
        with pytest.raises(SettingError, match="neither a BOS nor an EOS token"):
            ask()
