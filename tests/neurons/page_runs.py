"""Runs and tokenizers for the tests of pages: of a tiny model, of AFM's size, with hostile text."""

from functools import lru_cache

import numpy as np
import torch

NASTY = '<script>document.title="owned"</script><img src=x onerror=alert(1)>&"\''


class Hostile:
    """A tokenizer whose every token is an attack; ids follow from letters."""

    bos_token_id, pad_token_id = 1, 0
    special_tokens_map: dict = {}  # noqa: RUF012

    def __call__(self, texts, verbose=True):
        return {"input_ids": [[1, *(3 + ord(c) % 40 for c in text)] for text in texts]}

    def decode(self, ids):
        return NASTY * len(ids)

    def get_vocab(self):
        return {}

    init_kwargs: dict = {}  # noqa: RUF012


class Plain(Hostile):
    """One letter per token."""

    def decode(self, ids):
        return "".join(chr(45 + i) for i in ids)  # A to W for a to w


def run_of(model, tokenizer, *, n=30, seed=0, **settings):
    """A run over random words, each letter a token."""
    import arcee_lab as al

    random = np.random.default_rng(seed)
    sizes = random.integers(9, 30, n)
    texts = ["".join(map(chr, random.integers(97, 122, size))) for size in sizes]
    settings = {"top": 4, "strata": 3, "per_stratum": 2, "negatives": 3, **settings}
    return al.neurons.exemplars(model, tokenizer, texts, progress=False, **settings)


@lru_cache(maxsize=1)
def large_run(n_layers=36, d_mlp=18_432, n_windows=2_000, context=1_024, top=20):
    """A run with the shape of AFM-4.5B's, built from random state: no model was ever run.

    All layers share the same tensors, so that it fits a test machine; a page reads one layer only.
    """
    from arcee_lab.data.windows import Windows
    from arcee_lab.neurons.reading.domains import Corpus
    from arcee_lab.neurons.reading.facts import Facts
    from arcee_lab.neurons.reading.result import Exemplars
    from arcee_lab.neurons.reading.state import new_state

    random = np.random.default_rng(0)
    ids = random.integers(3, 1_000, n_windows * context).astype(np.int32)
    windows = Windows(
        ids=ids,
        bounds=np.arange(n_windows + 1) * context,
        documents=np.arange(n_windows) // 3,
        bos_id=1,
        pad_id=0,
    )
    facts = Facts(
        model="as large as AFM",
        fingerprint="0" * 64,
        tokenizer="0" * 64,
        dtype="bfloat16",
        layers=tuple(range(n_layers)),
        d_mlp=d_mlp,
        context=context,
        n_tokens=n_windows * (context - 1),
        n_windows=n_windows,
        top=top,
        strata=10,
        per_stratum=5,
        n_negatives=20,
        pool=200,
        role=None,
        seed=0,
    )
    state = new_state(facts.places, d_mlp, torch.device("cpu"))
    for name in ("top", "drawn"):
        shape = state[f"{name}_values"].shape
        values = torch.rand(shape).sort(dim=1, descending=True).values
        state[f"{name}_values"] = values.to(torch.bfloat16)
        state[f"{name}_windows"] = torch.randint(0, n_windows, shape, dtype=torch.int32)
        state[f"{name}_positions"] = torch.randint(1, context, shape, dtype=torch.int16)
    state["fired"] = torch.randint(70, facts.n_tokens, (d_mlp,))
    state["silent"] = torch.randint(0, 256, state["silent"].shape, dtype=torch.uint8)
    state["histogram"] = torch.randint(0, 50, state["histogram"].shape, dtype=torch.int32)
    counted = np.ones(len(ids), dtype=bool)
    counted[windows.bounds[:-1]] = False
    corpus = Corpus(windows, ("",), np.zeros(n_windows, dtype=np.int16))
    pool = np.sort(random.choice(n_windows, 200, replace=False))
    return Exemplars(facts, corpus, counted, pool, dict.fromkeys(facts.layers, state))
