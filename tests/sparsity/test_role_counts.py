"""Sparsity at the tokens of one role equals plain arithmetic over just these tokens."""

import random
import string

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import arcee_lab as al

ALPHABET = string.ascii_lowercase + " :\n"
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def letters():
    """One token per character; no BOS."""
    vocab = {letter: number for number, letter in enumerate(ALPHABET)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocab, merges=[])), pad_token=" "
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def conversations(n):
    """Texts, and who says each character."""
    draw = random.Random(2)
    texts, who = [], []
    for _ in range(n):
        said = ["".join(draw.choices("abc", k=draw.randint(3, 9))) for _ in range(2)]
        parts = [("", "user: "), ("user", said[0]), ("", "\nassistant: "), ("assistant", said[1])]
        parts.append(("", "\n"))
        texts.append("".join(part for _, part in parts))
        who.append([one for one, part in parts for _ in part])
    return texts, who


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("role", ["user", "assistant", "not user"])
def test_counts_of_one_role(tiny, tmp_path, role, side):
    torch.manual_seed(4)
    model, tokenizer = tiny(), letters()
    tokenizer.padding_side = side
    texts, who = conversations(9)
    report = al.sparsity.measure(
        model, tokenizer, texts, role=role, analyses=["core"], batch_size=4, context=64
    )
    fired = np.zeros((3, 72))
    n_tokens = n_first = 0
    with torch.no_grad():
        for text, speakers in zip(texts, who, strict=True):
            ids = torch.tensor([[ALPHABET.index(letter) for letter in text]])
            wanted = [
                (one == role.removeprefix("not ")) != role.startswith("not ") for one in speakers
            ]
            n_first += wanted[0]
            wanted[0] = False  # a first position is counted separately
            n_tokens += sum(wanted)
            with al.capture(model, "layers.*.mlp.hook_post") as acts:
                model(ids)
            for layer in range(3):
                post = acts[f"layers.{layer}.mlp.hook_post"][0][torch.tensor(wanted)]
                fired[layer] += (post != 0).sum(0).numpy()
    assert (report.n_tokens, report.n_first) == (n_tokens, n_first)
    # In fp32 a sum that is within rounding of 0 may change its sign with the batch; none is here.
    assert n_first == (9 if role == "not user" else 0)
    report.save(tmp_path)
    assert "nan" not in report.headline
    rates = report.frames["neurons"].sort_values(["layer", "unit"])["fired"].to_numpy()
    assert np.array_equal(rates.reshape(3, 72), fired)
