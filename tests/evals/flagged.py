"""Tasks in the formats of well-known data sets, asked with lm-eval's flags in every way in."""

import json
import shutil
from pathlib import Path

from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

import arcee_lab.evals.__main__ as command
from arcee_lab.cli import main
from arcee_lab.evals import Evaluation, run
from arcee_lab.model.loading import DEMO

TEMPLATES = {
    "default": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    "short": "{% for m in messages %}{{ m.content }} | {% endfor %}",
}
QUESTIONS = [
    {"question": f"The {who} near the {where}", "choices": ["sleep.", "sleeps.", "run."], "gold": n}
    for n, (who, where) in enumerate([("dogs", "tree"), ("cat", "house"), ("birds", "lake")])
]
CLOZE = [  # as LAMBADA's jsonl
    {"text": "The dogs near the house sleep."},
    {"text": "A cat sees the birds."},
    {"text": "The birds sing."},
]
PAIRS = [  # as BLiMP's jsonl
    {"sentence_good": "The dogs sleep.", "sentence_bad": "The dogs sleeps."},
    {"sentence_good": "The cat sings.", "sentence_bad": "The cat sing."},
    {"sentence_good": "The birds run.", "sentence_bad": "The birds runs."},
]
PAGES = [  # as WikiText's pages
    {"page": "The dogs sleep. " * 12},
    {"page": "A cat sees the birds. The birds sing."},
    {"page": "The tree is old. " * 40},  # several windows
]
SCHOOL = [  # as GSM8K's jsonl
    {"question": "Tom has 2 apples and buys 3.", "answer": "2 + 3 = 5\n#### 5"},
    {"question": "Ann has 7 pens and loses 4.", "answer": "7 - 4 = 3\n#### 3"},
    {"question": "Sam has 1 dog and gets 1.", "answer": "1 + 1 = 2\n#### 2"},
]
FILES = {"choice": QUESTIONS, "cloze": CLOZE, "pairs": PAIRS, "pages": PAGES, "school": SCHOOL}
SPECIFIC = {
    "choice": """output_type: multiple_choice
description: "Choose an ending.\\n"
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "cloze": """output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' ' + text.split(' ')[-1]}}"
metric_list: [{metric: acc}, {metric: perplexity}]
""",
    "pairs": """output_type: multiple_choice
doc_to_text: ""
doc_to_choice: "{{[sentence_good, sentence_bad]}}"
doc_to_target: 0
num_fewshot: 0
metric_list: [{metric: acc}]
""",
    "pages": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: page
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "school": """output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: "{{answer.split('#### ')[-1]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, ignore_case: true}]
filter_list:
- name: number
  filter: [{function: regex, regex_pattern: "(-?[0-9]+)"}, {function: take_first}]
- name: words
  filter: [{function: take_first}]
""",
}
HEADED = [{"head": "sequence", "text": f"Review: The soup was {w}. Verdict:", "label": n}
          for n, w in enumerate(("bad", "good"))]  # fmt: skip
FOR_HEADS = """output_type: multiple_choice
doc_to_text: text
doc_to_choice: ["bad", "good"]
doc_to_target: label
target_delimiter: ""
metric_list: [{metric: acc}]
"""
READER = """
import json
from pathlib import Path
from datasets import Dataset

def rows(file, **settings):
    found = [json.loads(line) for line in (Path(__file__).parent / file).open()]
    return {"test": Dataset.from_list(found), "train": Dataset.from_list(found[::-1])}
"""


def write_tasks(folder: Path, files=FILES, specific=SPECIFIC) -> None:
    """Task files with their data next to them."""
    (folder / "reader.py").write_text(READER)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ncustom_dataset: !function reader.rows\n"
            f"dataset_kwargs: {{file: {name}.jsonl}}\ntest_split: test\n"
            f"training_split: train\nfewshot_split: train\n{specific[name]}"
        )


def write_checkpoint(folder: Path) -> Path:
    """The demo with two chat templates."""
    shutil.copytree(DEMO, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = dict(TEMPLATES)
    tokenizer.save_pretrained(folder)
    return folder


def theirs(model, tokenizer, folder, tasks, flags):
    """lm-eval's own run with its own model: its results, and what it logged."""
    flags = dict(flags)
    name = flags.get("apply_chat_template")
    if isinstance(name, str):  # 0.4.13 would render with the default template
        tokenizer.chat_template = TEMPLATES[name]
        flags["apply_chat_template"] = True
    elif name:
        tokenizer.chat_template = dict(TEMPLATES)
    flags.setdefault("fewshot_as_multiturn", bool(name))
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    repeats = flags.pop("repeats", None)
    loaded = manager.load(list(tasks))["tasks"]
    for task in loaded.values():
        if repeats and task.OUTPUT_TYPE == "generate_until":
            task.set_config(key="repeats", value=repeats)
    flags.pop("use_cache", None), flags.pop("cache_requests", None), flags.pop("write_out", None)
    found = simple_evaluate(
        lm, tasks=list(loaded.values()), task_manager=manager, bootstrap_iters=0, **flags
    )
    return found["results"], found["samples"]


def by_python(checkpoint, folder, tasks, flags, out):
    """`al.evals.run`."""
    found = run(checkpoint, tasks=tasks, include=[folder], progress=False, device="cpu", **flags)
    told = found.to_lm_eval()
    return told["results"], told["samples"]


def by_our_command(checkpoint, folder, tasks, flags, out):
    """`arcee-lab eval`."""
    words = ["eval", str(checkpoint), "--tasks", *tasks, "--include", str(folder)]
    assert main([*words, "--out", str(out), *flag_words(flags, "-")]) == 0
    found = Evaluation.load(out)
    results = json.loads((out / "results.json").read_text())["results"]
    return results, found.samples


def by_lm_evals_command(checkpoint, folder, tasks, flags, out):
    """lm-eval's own command line, with our model."""
    words = ["run", "--model", "arcee-lab", "--model_args", f"pretrained={checkpoint}"]
    words += ["--tasks", *tasks, "--include_path", str(folder), "--output_path", str(out)]
    flags = {name: value for name, value in flags.items() if name != "repeats"}
    assert command.main([*words, "--log_samples", "--device", "cpu", *flag_words(flags, "_")]) == 0
    (file,) = out.glob("*/results_*.json")
    samples = {
        task: [json.loads(line) for line in next(out.glob(f"*/samples_{task}_*.jsonl")).open()]
        for task in tasks
    }
    return json.loads(file.read_text())["results"], samples


WAYS = (by_python, by_our_command, by_lm_evals_command)


def flag_words(flags, joint):
    """Flags as words of a command line, their parts joined by `-` or `_`."""
    words = []
    for name, value in flags.items():
        flag = f"--{name.replace('_', joint)}"
        if value is True:
            words.append(flag)
        elif isinstance(value, dict):
            words += [flag, json.dumps(value)]
        else:
            words += [flag, str(value).lower() if isinstance(value, bool) else str(value)]
    return words


def read_sample(sample):
    """What a logged document asks and holds, whether in memory or from a file."""
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        arguments = [list(one.values()) for one in arguments.values()]
    answers = [read_answer(one) for one in sample["filtered_resps"]]
    asked = [[str(part) for part in request] for request in arguments]
    return sample["doc_id"], sample["filter"], asked, answers, str(sample["target"])


def read_answer(answer):
    if isinstance(answer, (list, tuple)) and len(answer) == 2:
        return float(answer[0]), str(answer[1])
    try:
        return float(answer), ""
    except (TypeError, ValueError):
        return answer
