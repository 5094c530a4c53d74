"""How far evaluation in bf16 is from fp32: our `arcee-lab` beside lm-eval's `hf`.

    python3 run.py bench evals_half [--out FILE]

All score the same requests on the demo: `hf` in fp32, which is taken for right, `hf` in bf16 as it
comes, and ours in bf16. Every question whose best answer is another one than in fp32 is listed.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lm_eval.models.huggingface import HFLM
from results import RESULTS, write_section
from transformers import ArceeForCausalLM as ReferenceForCausalLM

import arcee_lab as al
from arcee_lab.evals import ArceeLab
from arcee_lab.model.loading import DEMO
from evals import Task, tasks

HEAD = "| task | requests | hf, mean error in nats | ours | |\n|---|---:|---:|---:|---|"
FLIPS = (
    "| task | question | whose | best in fp32 | best in bf16 | fp32 margin | tie in bf16 |"
    "\n|---|---:|---|---:|---:|---:|---|"
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


def flips(task: Task, scores: dict[str, torch.Tensor]) -> list[str]:
    """A row for each question whose best answer changed."""
    questions: dict[int, list[int]] = {}
    for number, request in enumerate(task.requests):
        questions.setdefault(request.doc_id, []).append(number)
    rows = []
    for question, mine in questions.items():
        if len(mine) < 2:
            continue
        right = scores["fp32"][mine]
        best = int(right.argmax())
        for name in ("hf", "ours"):
            half = scores[name][mine]
            chosen = int(half.argmax())
            if chosen != best:
                tie = "yes" if half[chosen] == half[best] else "no"
                margin = float(right[best] - right[chosen])
                rows.append(
                    f"| {task.name} | {question} | {name} | {best} | {chosen} | {margin:.4f} "
                    f"| {tie} |"
                )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails if our mean error over all requests is the larger."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="Evaluation in bf16.")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    lms = models()
    lines, listed = [HEAD], [FLIPS]
    errors: dict[str, list[torch.Tensor]] = {"hf": [], "ours": []}

    def add(title: str, found: dict[str, torch.Tensor], *verdicts: str) -> bool:
        means = {name: float(one.mean()) for name, one in found.items()}
        met = means["ours"] <= means["hf"]
        lines.append(
            f"| {title} | {len(found['hf'])} | {means['hf']:.4f} | {means['ours']:.4f} "
            f"| {verdicts[met]} |"
        )
        return met

    for task in tasks():
        if task.call != "loglikelihood":
            continue
        scores = {
            name: torch.tensor(
                [score for score, _ in lm.loglikelihood(task.requests, disable_tqdm=True)]
            )
            for name, lm in lms.items()
        }
        error = {name: (scores[name] - scores["fp32"]).abs() for name in errors}
        for name, kept in errors.items():
            kept.append(error[name])
        add(task.name, error, "larger", "")
        listed += flips(task, scores)
    met = add("all", {name: torch.cat(kept) for name, kept in errors.items()}, "MISS", "pass")
    write_section(
        "Evaluation in bf16",
        ["\n".join(lines), "Best answers that differ from fp32's:", "\n".join(listed)],
        command="python3 run.py bench evals_half",
        method="the demo; log-likelihoods against hf in fp32 with softmax_dtype=float32; hf in "
        "bf16 has its default log-softmax, in bf16. Contexts longer than the 128 tokens that the "
        "demo reads are cut from the left, by all three alike.",
        packages=("torch", "transformers", "lm_eval"),
        path=args.out,
    )
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
