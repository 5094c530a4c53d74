"""delphi and SAELens run on our exports as they come from the default call.

Each program gets an environment of its own, so these tests need the package registry and minutes.
Without it `test_exports.py` holds the schemas that these programs rely on.
"""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.dump import DumpConfig

_log = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.net]
NEURONS, RESID = "layers.1.mlp.hook_relu", "layers.1.hook_resid_post"
CONFIG = DumpConfig(sites=(NEURONS, RESID), batch_size=32, max_tokens=20_000)
# The part of eai-delphi that explains and scores; vLLM and the embeddings are stand-ins below.
DELPHI = (
    "aiofiles",
    "anyio",
    "asyncer",
    "beartype",
    "blobfile",
    "datasets",
    "eai-sparsify",
    "faiss-cpu",
    "fire",
    "httpx",
    "jaxtyping",
    "orjson",
    "safetensors",
    "simple_parsing",
    "tiktoken",
    "transformers",
)
# Put before each program: nothing but this machine is reached.
OFFLINE = """
import socket

def refuse(*args, **options):
    raise AssertionError(f"the network was asked for {args[:2]}")

socket.getaddrinfo = refuse
socket.socket.connect = refuse
"""


def short_documents(n):
    """Sentences of the demo's world, each a document of its own."""
    return [
        sentence.strip() + "."
        for document in documents(n=n, seed=5, split="test")
        for sentence in document.text.split(".")
        if len(sentence.split()) > 2
    ]


@pytest.fixture(scope="module", params=["demo", "many short documents"])
def store(request, demo, tmp_path_factory):
    model, tokenizer = demo
    if request.param == "demo":
        texts = [document.text for document in documents(n=900, seed=4, split="test")]
    else:
        texts = short_documents(900)
    folder = tmp_path_factory.mktemp("store") / "s"
    store = al.dump.write(model, tokenizer, texts, folder, CONFIG)
    assert len(store) == CONFIG.max_tokens
    return store


def environment(folder, *installs):
    """Makes an environment and installs into it, one call of pip after the other; its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    for words in installs:
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return python


def answer(python, code, given, folder):
    """Runs a program in an environment; what it prints last, as JSON."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    env |= {"HF_HOME": str(folder / "hf"), "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [python, "-c", OFFLINE + code, json.dumps(given)],
        capture_output=True,
        text=True,
        env=env,
        cwd=folder,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------- delphi


@pytest.fixture(scope="module")
def with_delphi(tmp_path_factory):
    return environment(
        tmp_path_factory.mktemp("environment") / "delphi",
        ["torch==2.13.0"],
        ["--no-deps", "eai-delphi==0.1.3"],
        DELPHI,
    )


EXPLAIN = """
import asyncio, json, sys
from unittest.mock import MagicMock

for name in ("", ".distributed", ".distributed.parallel_state", ".inputs"):
    sys.modules["vllm" + name] = MagicMock()
sys.modules["sentence_transformers"] = MagicMock()

from delphi.clients.client import Client, Response
from delphi.config import ConstructorConfig, SamplerConfig
from delphi.explainers import DefaultExplainer
from delphi.latents import LatentDataset
from delphi.scorers import DetectionScorer, FuzzingScorer

given = json.loads(sys.argv[1])


class Fake(Client):
    def __init__(self, text):
        super().__init__("fake")
        self.text, self.asked = text, 0

    async def generate(self, prompt, **options):
        self.asked += 1
        return Response(text=self.text)


async def score(record):
    explainer = Fake("[EXPLANATION]: words of the world")
    record.explanation = (await DefaultExplainer(explainer)(record)).explanation
    scores = {"explained": record.explanation}
    for scorer in (DetectionScorer, FuzzingScorer):
        client = Fake("[1]")
        done = (await scorer(client)(record)).score
        scores[scorer.name] = {
            "asked": client.asked,
            "activating": sum(one.activating for one in done),
            "others": sum(not one.activating for one in done),
            "right": sum(one.correct for one in done),
        }
    return scores


dataset = LatentDataset(given["raw_dir"], SamplerConfig(), ConstructorConfig())
rows = dataset.tokens
records = {}
pad = dataset.tokenizer.pad_token_id
for record in dataset:
    scored = None
    if len(records) < 40 and len(record.not_active) == 50:
        scored = asyncio.run(score(record))
    records[record.latent.latent_index] = {
        "examples": len(record.examples),
        "train": len(record.train),
        "test": len(record.test),
        "not_active": len(record.not_active),
        "padding": sum(bool((e.tokens == pad).all()) for e in record.not_active),
        "any_padding": sum(bool((e.tokens == pad).any()) for e in record.not_active),
        "largest": float(record.examples[0].activations.max()),
        "not_active_ids": [e.tokens.tolist() for e in record.not_active[:3]],
        "scores": scored,
    }
print(json.dumps({"rows": list(rows.shape), "records": records}))
"""


def test_delphi_explains_and_scores(store, with_delphi, demo, tmp_path):
    store.tokenizer = demo[1]
    done = store.export("delphi", tmp_path / "out")
    given = {"raw_dir": str(tmp_path / "out" / "latents")}
    got = answer(with_delphi, EXPLAIN, given, tmp_path)

    # What delphi has to find, by plain arithmetic on the store.
    n_rows = len(store) // 256
    assert got["rows"] == [n_rows, 256]
    assert done.lost["tokens after the last full row"] == len(store) - 256 * n_rows
    acts = store.tokens(slice(0, 256 * n_rows), NEURONS).float()
    ids = store.token_data().ids[: 256 * n_rows].reshape(-1, 32)
    fires = (acts > 1e-5).reshape(-1, 32, acts.shape[1]).any(dim=1)
    counts = fires.sum(dim=0)
    assert sorted(map(int, got["records"])) == (counts >= 200).nonzero()[:, 0].tolist()
    assert len(got["records"]) >= 40
    n_scored = 0
    for name, record in got["records"].items():
        unit = int(name)
        free = len(fires) - int(counts[unit])
        assert record["examples"] == int(counts[unit])
        assert (record["train"], record["test"]) == (40, 50)
        assert record["not_active"] == (50 if free >= 50 else 0)
        assert record["padding"] == record["any_padding"] == 0
        assert record["largest"] == float(acts[:, unit].max().half())
        for example in record["not_active_ids"]:
            same = (ids == torch.tensor(example)).all(dim=1)
            assert (same & ~fires[:, unit]).any(), "it fires there, or the text is another one"
        if record["scores"] is not None:
            n_scored += 1
            assert record["scores"]["explained"] == "words of the world"
            for scorer in ("detection", "fuzz"):
                assert record["scores"][scorer] == {
                    "asked": 100,
                    "activating": 50,
                    "others": 50,
                    "right": 50,  # the client says yes to all
                }
    assert n_scored >= 10
    _log.info(
        f"delphi: {len(got['records'])} latents, {n_scored} explained and scored, "
        f"{sum(r['not_active'] for r in got['records'].values())} non-activating examples, none of "
        f"them padding; lost: {dict(done.lost)}"
    )


# ---------------------------------------------------------------------- SAELens


@pytest.fixture(scope="module")
def with_saelens(tmp_path_factory):
    return environment(
        tmp_path_factory.mktemp("environment") / "saelens",
        ["torch==2.13.0"],
        ["sae-lens==6.54.12", "transformer-lens==3.9.0"],
    )


TRAIN = """
import json, sys
import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.training.sae_trainer import SAETrainer
from transformer_lens import HookedTransformer, HookedTransformerConfig

given = json.loads(sys.argv[1])
model = HookedTransformer(
    HookedTransformerConfig(n_layers=1, d_model=8, n_ctx=128, d_head=4, d_vocab=32, act_fn="relu")
)
steps = []


class Trainer(SAETrainer):
    def step(self, batch):
        out = super().step(batch)
        steps.append([list(batch.shape), float(out.loss)])
        return out


answers = {}
for name, width in given["sites"].items():
    cfg = LanguageModelSAERunnerConfig(
        sae=StandardTrainingSAEConfig(d_in=width, d_sae=64),
        model_name="ours",
        hook_name=name,
        dataset_path="ours",
        use_cached_activations=True,
        cached_activations_path=given["folder"] + "/" + name,
        train_batch_size_tokens=1024,
        training_tokens=3 * 1024,
        device="cpu",
    )
    nothing = Dataset.from_dict({"tokens": [[0] * cfg.context_size]})
    raw = ActivationsStore.from_config(model, cfg, override_dataset=nothing)
    acts, ids = raw.get_raw_llm_batch()
    store = ActivationsStore.from_config(model, cfg, override_dataset=nothing)
    Trainer(cfg.to_sae_trainer_config(), StandardTrainingSAE(cfg.sae), store).fit()
    answers[name] = {
        "rows": len(raw.cached_activation_dataset),
        "context": cfg.context_size,
        "shape": list(acts.shape),
        "ids": ids.long().tolist(),
        "sums": acts.double().sum(dim=1).tolist(),
        "steps": [*steps],
    }
    steps.clear()
print(json.dumps(answers))
"""


def test_saelens_trains(store, with_saelens, tmp_path):
    done = store.export("saelens", tmp_path / "out")
    widths = {site.name: site.width for site in store.manifest.sites}
    given = {"folder": str(tmp_path / "out"), "sites": widths}
    got = answer(with_saelens, TRAIN, given, tmp_path)
    n_rows = len(store) // 128
    assert done.lost["tokens after the last full row"] == len(store) - 128 * n_rows
    for name, width in widths.items():
        said = got[name]
        assert (said["rows"], said["context"]) == (n_rows, 128)
        assert said["shape"] == [32 * 128, width]
        assert said["ids"] == store.token_data().ids[: 32 * 128].tolist()
        sums = store.tokens(slice(0, 32 * 128), name).double().sum(dim=1)
        # The same float32 values, added in float64: at most `width` roundings of each sum.
        bound = width * 2.0**-52 * float(store.tokens(slice(0, 4096), name).abs().sum(dim=1).max())
        assert np.abs(np.array(said["sums"]) - sums.numpy()).max() <= bound
        assert [shape for shape, _ in said["steps"]] == [[1024, width]] * 3
        assert np.isfinite([loss for _, loss in said["steps"]]).all()
    losses = {name: [round(loss, 1) for _, loss in got[name]["steps"]] for name in widths}
    _log.info(
        f"SAELens: {n_rows} rows of 128 from {len(store):,} tokens; losses of three steps: {losses}"
    )
