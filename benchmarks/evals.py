"""How fast evaluation is: our `arcee-lab` next to lm-eval's `hf`, same requests, same process.

    python3 run.py bench evals [--rounds N] [--out FILE]

Both score the same requests with the same weights, texts in and numbers out, tokenising included.
The reference is lm-eval's `hf` around transformers' Arcee with log-softmax in fp32, which is what
our numbers are held to. It runs at batch size 1, which pads nothing, and at batch size 16, about
the rows that our batches hold; each ratio has a target. The requests are made of the demo's world
in the shapes of well-known tasks. Whole texts come in two kinds: the world's documents as they
come, which is what the tasks of the demo score, and longer ones whose lengths are spread as those
of paragraphs are, by a log-normal law.
"""

import argparse
import itertools
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from idle import twin
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from paired import Paired, measure
from results import RESULTS, keep_pages, write_section
from transformers import ArceeConfig as ReferenceConfig
from transformers import ArceeForCausalLM as ReferenceForCausalLM

import arcee_lab as al
from arcee_lab.demo import stream
from arcee_lab.evals import ArceeLab
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

BATCHES = (1, 16)  # of hf
TARGETS = {  # least ratio to hf at each of these
    "ARC-like, 5 shots": (3.0, 3.0),
    "ARC-like, 25 shots": (3.5, 3.5),
    "RACE-like": (3.0, 3.0),
    "MMLU-like letters, 5 fixed shots": (4.0, 4.0),
    "whole texts: documents of the world": (1.0, 1.6),
    # A long text alone pads nothing and computes nothing twice: there is little to save.
    "whole texts: paragraphs": (1.0, 1.6),
    "BLiMP-like": (1.2, 1.2),
    "LAMBADA-like": (1.0, 1.0),
}
SHAPES = {
    "the demo's shape (head: 14 % of a token's work)": {
        "num_hidden_layers": 4,
        "hidden_size": 128,
        "intermediate_size": 896,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1384,
    },
    "AFM-4.5B's proportions (head: 7 % of a token's work)": {
        "num_hidden_layers": 6,
        "hidden_size": 256,
        "intermediate_size": 1843,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "vocab_size": 2048,
    },
}
PARAGRAPH = (math.log(60), 1.0)  # words: half have 60 or fewer, a sixth over 160
ERROR = 1e-4  # nats that a log-likelihood may differ by,
ULP = 2.0**-23  # in addition to the rounding of the sum itself, which hf makes in fp32


@dataclass(frozen=True)
class Task:
    """Requests in the shape of a task, and which of lm-eval's calls takes them."""

    name: str
    call: str
    requests: list[Instance]


class Words:
    """Endless words of the demo's world."""

    def __init__(self, seed: int):
        texts = (document.text.split() for document in stream(None, seed=seed, split="test"))
        self.words: Iterator[str] = itertools.chain.from_iterable(texts)
        self.rng = random.Random(seed)

    def some(self, low: int, high: int) -> str:
        """A text of n words."""
        return " ".join(itertools.islice(self.words, self.rng.randint(low, high)))


def tasks(seed: int = 0) -> list[Task]:
    """The tasks of the comparison."""
    words = Words(seed)

    def question(answer: bool) -> str:
        asked = f"Question: {words.some(12, 24)}\nAnswer:"
        return f"{asked} {words.some(2, 6)}\n\n" if answer else asked

    def letters(answer: bool) -> str:
        lines = [words.some(14, 30)] + [f"{one}. {words.some(3, 8)}" for one in "ABCD"]
        return "\n".join(lines) + "\nAnswer:" + (" B\n\n" if answer else "")

    def choices(name: str, contexts: list[str], answers: Callable[[], list[str]]) -> Task:
        found = []
        for number, context in enumerate(contexts):
            for index, answer in enumerate(answers()):
                pair = (context, answer)
                found.append(Instance("loglikelihood", {}, pair, index, (name, number, 1)))
        return Task(name, "loglikelihood", found)

    def texts() -> list[str]:
        return [f" {words.some(2, 8)}" for _ in range(4)]

    def shots(count: int, documents: int) -> list[str]:
        return [
            "".join(question(True) for _ in range(count)) + question(False)
            for _ in range(documents)
        ]

    fixed = "".join(letters(True) for _ in range(5))
    pairs: list[str] = []

    def minimal_pair() -> list[str]:
        sentence = words.some(6, 14).split()
        other = [*sentence]
        other[-words.rng.randint(1, 4)] = words.some(1, 1)
        return [" ".join(sentence), " ".join(other)]

    def whole(texts: list[str]) -> list[Instance]:
        return [
            Instance("loglikelihood_rolling", {}, (text,), 0, ("texts", number, 1))
            for number, text in enumerate(texts)
        ]

    documents = itertools.islice(stream(None, seed=seed, split="test"), 160)
    sizes = (round(words.rng.lognormvariate(*PARAGRAPH)) for _ in range(32))
    paragraphs = [min(max(size, 2), 500) for size in sizes]
    passages = [f"Article: {words.some(220, 340)}\n{question(False)}" for _ in range(3)]
    pairs = [""] * 40
    return [
        choices("ARC-like, 5 shots", shots(5, 6), texts),
        choices("ARC-like, 25 shots", shots(25, 2), texts),
        choices("RACE-like", passages, texts),
        choices(
            "MMLU-like letters, 5 fixed shots",
            [fixed + letters(False) for _ in range(10)],
            lambda: [" A", " B", " C", " D"],
        ),
        Task(
            "whole texts: documents of the world",
            "loglikelihood_rolling",
            whole([document.text for document in documents]),
        ),
        Task(
            "whole texts: paragraphs",
            "loglikelihood_rolling",
            whole([words.some(size, size) for size in paragraphs]),
        ),
        choices("BLiMP-like", pairs, minimal_pair),
        choices("LAMBADA-like", [words.some(40, 80) for _ in range(16)], lambda: texts()[:1]),
    ]


def models(shape: dict[str, int]) -> tuple[ReferenceForCausalLM, ArceeForCausalLM]:
    """Transformers' Arcee and ours, on the same random weights."""
    config = ReferenceConfig(
        **shape,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    reference = ReferenceForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(0.08 * torch.randn(parameter.shape, generator=generator))
    ours = ArceeConfig(**config.to_dict())
    ours._attn_implementation = "sdpa"
    return reference, twin(reference, ArceeForCausalLM, ours)


class Counted:
    """What `hf` feeds and how many bytes of logits it holds at once, counted in one run."""

    def __init__(self, lm: HFLM):
        self.fed = self.bytes = 0
        own = lm._model_call

        def call(inps, *args, **kwargs):
            logits = own(inps, *args, **kwargs)
            self.fed += inps.numel()
            # log_softmax in fp32 exists next to the logits.
            self.bytes = max(self.bytes, logits.numel() * (logits.element_size() + 4))
            return logits

        lm._model_call = call


def compare(
    task: Task, reference: ReferenceForCausalLM, model: ArceeForCausalLM, rounds: int
) -> tuple[str, bool]:
    """One row of the table, and whether the target is met."""
    tokenizer = al.load("demo")[1]
    peers = {
        size: HFLM(
            pretrained=reference, tokenizer=tokenizer, batch_size=size, softmax_dtype="float32"
        )
        for size in BATCHES
    }
    ours = ArceeLab(model, tokenizer)

    def runs(lm: HFLM) -> Callable[[], list]:
        return lambda: getattr(lm, task.call)(task.requests, disable_tqdm=True)

    counts = {size: Counted(lm) for size, lm in peers.items()}
    expected = {size: runs(lm)() for size, lm in peers.items()}
    fed = {f"hf {size}": (one.fed, one.bytes) for size, one in counts.items()}
    got = runs(ours)()
    fed["ours"] = (ours.cost.fed, ours.cost.logits_bytes)
    for size, numbers in expected.items():
        error, allowed = worst(numbers, got)
        assert error <= allowed, f"{task.name}: {error} nats from hf {size}, over {allowed}"
    results = measure(
        runs(ours),
        {f"hf {size}": runs(lm) for size, lm in peers.items()} | {"again": runs(ours)},
        rounds=rounds,
        calls=1,
        warm=0,  # each has just run
    )
    return row(task, results, fed)


def worst(expected: list, got: list) -> tuple[float, float]:
    """The difference of log-likelihoods that is largest compared with its bound, and the bound."""
    pairs = [
        [one[0] if isinstance(one, tuple) else one for one in pair]
        for pair in zip(expected, got, strict=True)
    ]
    found = [(abs(a - b), ERROR + ULP * abs(a)) for a, b in pairs]
    return max(found, key=lambda pair: pair[0] / pair[1])


def row(
    task: Task, results: dict[str, Paired], fed: dict[str, tuple[int, int]]
) -> tuple[str, bool]:
    """A task's row in Markdown, and whether the targets are met."""
    peers = [results[f"hf {size}"] for size in BATCHES]
    targets = TARGETS[task.name]
    met = all(peer.median >= least for peer, least in zip(peers, targets, strict=True))
    ratios = [(peer.median, *peer.quartiles) for peer in peers]
    cells = [
        task.name,
        *(f"{one.milliseconds:,.0f}" for one in (*peers, results["again"])),
        *(f"**{middle:.2f}** ({low:.2f} to {high:.2f})" for middle, low, high in ratios),
        ", ".join(f">= {least:.1f}" for least in targets),
        "pass" if met else "MISS",
        f"{results['again'].median:.3f}",
        " / ".join(f"{tokens:,}" for tokens, _ in fed.values()),
        " / ".join(f"{size / 2**20:.1f}" for _, size in fed.values()),
    ]
    return f"| {' | '.join(cells)} |", met


HEAD = (
    "| task | hf 1, CPU ms | hf 16 | ours | hf 1 / ours (quartiles) | hf 16 / ours (quartiles) "
    "| targets | | A/A | tokens fed: hf 1 / hf 16 / ours "
    "| MiB of logits: hf 1 / hf 16 / ours |\n|---|" + "---:|" * 3 + "---|---|---|---|---:|---|---|"
)


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="How fast evaluation is.")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    kept = keep_pages()
    tables, missed = [], False
    for title, shape in SHAPES.items():
        reference, model = models(shape)
        lines = [f"### {title}", "", HEAD]
        for task in tasks():
            line, met = compare(task, reference, model, args.rounds)
            missed |= not met
            lines.append(line)
            print(line, flush=True)
        tables.append("\n".join(lines))
    write_section(
        "Evaluation compared with lm-eval's hf",
        tables,
        command=f"python3 run.py bench evals --rounds {args.rounds}",
        method=f"CPU time of the process; median of {args.rounds} ratios, each of two runs side by "
        "side in random order, tokenising included. hf 1 and hf 16 are hf at these batch sizes, "
        "with softmax_dtype=float32. Documents of the world have 7 to 52 tokens; the "
        "lengths of paragraphs are log-normal, half of them up to 60 words and a sixth over 160. "
        "On whole texts hf at batch size 1 pads nothing: there is only its time for each call to "
        "save, some of the head's, and what short texts share from their start; at batch size 16 "
        "its padding, which the tokens fed show, comes to that. "
        f"Every log-likelihood is within {ERROR:g} nats of both, plus one unit in the last place "
        "of the fp32 sum that hf returns, or the command fails. The A/A column is ours "
        "against itself." + (" The allocator keeps freed pages." if kept else ""),
        packages=("torch", "transformers", "lm_eval"),
        path=args.out,
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
