"""How far evaluation in bf16 is from fp32: our `arcee-lab` next to lm-eval's `hf`.

    python3 run.py bench evals_half [--seeds N] [--out FILE]

All score the same requests on the demo: `hf` in fp32, which is taken for right, `hf` in bf16 as it
comes, and ours in bf16. The tasks are drawn from several seeds, since the difference of the errors
is small compared with each of them. Every question whose best answer is another one than in fp32 is
listed.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from results import RESULTS, write_section
from transformers import ArceeForCausalLM as ReferenceForCausalLM

import arcee_lab as al
from arcee_lab.evals import ArceeLab
from arcee_lab.model.loading import DEMO
from evals import Task, tasks

HEAD = (
    "| task | requests | hf, mean error in nats | ours | ours - hf, 95 % interval | |"
    "\n|---|---:|---:|---:|---|---|"
)
DRAWS = 10_000
FLIPS = (
    "| task | whose | of questions | differ | seed.question, with how much fp32's best is ahead in "
    "nats; * where bf16 ties |\n|---|---|---:|---:|---|"
)


def models() -> dict[str, HFLM]:
    """The three that answer."""
    tokenizer = al.load("demo")[1]
    wide = ReferenceForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    half = ReferenceForCausalLM.from_pretrained(DEMO, dtype=torch.bfloat16)
    return {
        "fp32": HFLM(pretrained=wide, tokenizer=tokenizer, batch_size=16, softmax_dtype="float32"),
        "hf": HFLM(pretrained=half, tokenizer=tokenizer, batch_size=16),
        "ours": ArceeLab("demo", dtype="bfloat16", device="cpu"),
    }


class Errors:
    """Errors of a task's requests in nats, with their questions, over all seeds."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {"hf": [], "ours": []}
        self.questions: list[tuple] = []

    def add(self, scores: dict[str, torch.Tensor], questions: list[tuple]) -> None:
        """More requests."""
        for name, kept in self.of.items():
            kept += (scores[name] - scores["fp32"]).abs().tolist()
        self.questions += questions

    def row(self, title: str) -> tuple[str, bool]:
        """A row of the table, and whether ours is no larger."""
        hf, ours = np.array(self.of["hf"]), np.array(self.of["ours"])
        # Choices of a question share its context, so whole questions are redrawn.
        _, of = np.unique([str(one) for one in self.questions], return_inverse=True)
        sums, counts = np.bincount(of, ours - hf), np.bincount(of)
        drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
        low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
        verdict = "larger" if low > 0 else "smaller" if high < 0 else "no difference seen"
        return (
            f"| {title} | {len(hf)} | {hf.mean():.4f} | {ours.mean():.4f} "
            f"| {(ours - hf).mean():+.4f} ({low:+.4f} to {high:+.4f}) | {verdict} |",
            bool(ours.mean() <= hf.mean()),
        )


def flips(task: Task, seed: int, scores: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Of each contestant the questions whose best answer is not that of fp32."""
    questions: dict[int, list[int]] = {}
    for number, request in enumerate(task.requests):
        questions.setdefault(request.doc_id, []).append(number)
    found: dict[str, list[str]] = {"hf": [], "ours": []}
    for question, mine in questions.items():
        right = scores["fp32"][mine]
        best = int(right.argmax())
        for name, listed in found.items():
            half = scores[name][mine]
            chosen = int(half.argmax())
            if chosen != best:
                tie = "*" if half[chosen] == half[best] else ""
                listed.append(f"{seed}.{question} {float(right[best] - right[chosen]):.3f}{tie}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails if our mean error over all requests is the larger."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="Evaluation in bf16.")
    parser.add_argument("--seeds", type=int, default=24, metavar="N", help="default: 24")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    lms = models()
    errors: dict[str, Errors] = {}
    differing: dict[tuple[str, str], list[str]] = {}
    for seed in range(args.seeds):
        for task in tasks(seed):
            if task.call != "loglikelihood":
                continue
            scores = {
                name: torch.tensor(
                    [score for score, _ in lm.loglikelihood(task.requests, disable_tqdm=True)]
                )
                for name, lm in lms.items()
            }
            for title in (task.name, "all"):
                questions = [(task.name, seed, one.doc_id) for one in task.requests]
                errors.setdefault(title, Errors()).add(scores, questions)
            for name, found in flips(task, seed, scores).items():
                differing.setdefault((task.name, name), []).extend(found)
    everything = errors.pop("all")
    lines = [HEAD, *(one.row(title)[0] for title, one in errors.items())]
    last, met = everything.row("all")
    listed = [FLIPS]
    for (task, name), found in differing.items():
        if found:
            asked = len(set(errors[task].questions))
            listed.append(f"| {task} | {name} | {asked} | {len(found)} | {', '.join(found)} |")
    write_section(
        "Evaluation in bf16",
        ["\n".join([*lines, last]), "Best answers that differ from fp32's:", "\n".join(listed)],
        command=f"python3 run.py bench evals_half --seeds {args.seeds}",
        method="the demo; log-likelihoods against hf in fp32 with softmax_dtype=float32; hf in "
        "bf16 has its default log-softmax, in bf16. The interval is of the mean difference of "
        "errors, request by request, with whole questions redrawn. Contexts longer than the 128 "
        "tokens that the demo reads are cut from the left, by all three alike.",
        packages=("torch", "transformers", "lm_eval"),
        path=args.out,
    )
    print(last)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
