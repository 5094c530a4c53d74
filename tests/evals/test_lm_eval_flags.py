"""lm-eval's flags in every way in: prompts, arguments, answers and scores are those of lm-eval."""

import itertools
import json
import math
import sys

import pytest
from flagged import (
    SCHOOL,
    SPECIFIC,
    WAYS,
    flag_words,
    read_sample,
    theirs,
    write_checkpoint,
    write_tasks,
)
from lm_eval._cli import HarnessCLI

import arcee_lab as al

CHOICES, ALL = ["choice"], ["choice", "cloze", "pairs", "pages", "school", "again"]
SYSTEM = "Be brief."
FEW = [
    ({}, ALL),
    ({"num_fewshot": 2, "limit": 2}, ["choice", "cloze", "school"]),
    ({"apply_chat_template": True, "system_instruction": SYSTEM}, ["choice", "school"]),
    ({"apply_chat_template": "short", "num_fewshot": 1, "limit": 0.5}, CHOICES),
    (
        {"apply_chat_template": True, "num_fewshot": 2, "fewshot_as_multiturn": False, "limit": 1},
        CHOICES,
    ),
    ({"samples": {"choice": [0, 2]}, "seed": 3, "num_fewshot": 1}, CHOICES),
    ({"gen_kwargs": {"max_gen_toks": 3}, "limit": 2}, ["school"]),
    ({"predict_only": True, "limit": 2}, ["choice", "school"]),
]


def many():
    """Thirty-two combinations of prompting, and what else a flag changes."""
    found = []
    prompting = itertools.product(
        (False, True, "short"), (None, SYSTEM), (0, 1, 2), (None, True, False)
    )
    for number, (chat, system, shots, turns) in enumerate(prompting):
        if turns and not chat:
            continue
        flags = {"num_fewshot": shots}
        flags |= {"apply_chat_template": chat} if chat else {}
        flags |= {"system_instruction": system} if system else {}
        flags |= {"fewshot_as_multiturn": turns} if turns is not None else {}
        flags |= ({"limit": 2}, {"limit": 0.3}, {"seed": 7}, {})[number % 4]
        tasks = ["choice", "school"] if number % 2 else ["cloze", "again", "pairs"]
        found.append((flags, tasks))
    more = [
        ({"repeats": 2}, ["school"]),
        ({"gen_kwargs": {"max_gen_toks": 2, "until": ["."]}}, ["school"]),
        ({"use_cache": "answers"}, ["choice", "pages"]),
        ({"cache_requests": True, "num_fewshot": 1}, ["choice", "cloze"]),
        ({"predict_only": True}, ALL),
        ({"write_out": True}, CHOICES),
        ({"samples": {"pages": [1], "choice": [2]}}, ["pages", "choice"]),
    ]
    return found + more


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint with chat templates, and the tasks."""
    place = tmp_path_factory.mktemp("flags")
    folder = place / "tasks"
    folder.mkdir()
    write_tasks(folder)
    write_tasks(folder, {"again": SCHOOL}, {"again": f"{SPECIFIC['school']}repeats: 2\n"})
    return write_checkpoint(place / "checkpoint"), folder, al.load(place / "checkpoint")


def seeds(flags):
    """lm-eval's Python call names its seeds, its command has one flag."""
    rest = {name: value for name, value in flags.items() if name != "seed"}
    if "seed" in flags:
        names = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
        rest |= dict.fromkeys(names, flags["seed"])
    return rest


def check(place, out, flags, tasks, ways=WAYS, kept=None):
    checkpoint, folder, (model, tokenizer) = place
    kept = kept or out
    flags = {
        name: str(kept / value) if name == "use_cache" else value for name, value in flags.items()
    }
    results, samples = theirs(model, tokenizer, folder, tasks, seeds(flags))
    for way in ways:
        if "repeats" in flags and way is WAYS[2]:
            continue  # lm-eval's command has no such flag; the task "again" has it in its file
        got_results, got_samples = way(checkpoint, folder, tasks, flags, out / way.__name__)
        for task in tasks:
            where = f"{way.__name__}, {task}, {flags}"
            compare_samples(samples[task], got_samples[task], where)
            compare_results(results[task], got_results[task], where)


def compare_samples(expected, got, where):
    assert len(got) == len(expected), where
    by_key = {(sample["doc_id"], sample["filter"]): sample for sample in got}
    for sample in expected:
        wanted = read_sample(sample)
        found = read_sample(by_key[sample["doc_id"], sample["filter"]])
        assert found[2] == wanted[2], where  # prompts and settings, to the letter
        assert found[4] == wanted[4], where
        # One log-likelihood per window; the longest text has this many windows of 128 tokens.
        windows = 1 + len(wanted[2][0][0]) // 128 if len(wanted[2][0]) == 1 else 1
        for one, other in zip(wanted[3], found[3], strict=True):
            if isinstance(one, str):
                assert one == other, where
            else:
                assert one[0] == pytest.approx(other[0], abs=1e-4 * windows), where
                assert one[1] == other[1], where
        keys = {"doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
        keys |= {"doc_hash", "prompt_hash", "target_hash", "doc_id"}
        here = by_key[sample["doc_id"], sample["filter"]]
        assert keys <= set(here), where
        assert here["doc_hash"] == sample["doc_hash"], where
        assert here["prompt_hash"] == sample["prompt_hash"], where


def compare_results(expected, got, where):
    for key, value in expected.items():
        if "_stderr," in key or key.startswith("bypass"):
            continue
        if isinstance(value, float) and math.isfinite(value):
            # A perplexity is e to a mean of log-likelihoods, each within 1e-4.
            assert got[key] == pytest.approx(value, rel=2e-4), f"{where}, {key}"
        else:
            assert got[key] == value, f"{where}, {key}"


@pytest.mark.parametrize("number", range(len(FEW)))
def test_flags_give_what_lm_eval_gives(place, tmp_path, number):
    flags, tasks = FEW[number]
    # The slow test takes all ways; here each flag takes one, and the plain run all.
    ways = WAYS if number == 0 else (WAYS[number % 3],)
    check(place, tmp_path, flags, tasks, ways)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(many())))
def test_every_combination_from_every_way_in(place, tmp_path, monkeypatch, number):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags, tasks = many()[number]
    check(place, tmp_path, flags, tasks)
    if {"use_cache", "cache_requests"} & set(flags):  # and again, from what was kept
        check(place, tmp_path / "again", flags, tasks, kept=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_plain_lm_eval_takes_them_too(place, tmp_path, monkeypatch, number):
    """The command `lm-eval run`, which knows nothing of ours but the model."""
    checkpoint, folder, (model, tokenizer) = place
    flags, tasks = FEW[number]
    words = ["lm-eval", "run", "--model", "arcee-lab", "--model_args", f"pretrained={checkpoint}"]
    words += ["--tasks", *(str(folder / f"{task}.yaml") for task in tasks), "--log_samples"]
    words += ["--output_path", str(tmp_path), "--device", "cpu", *flag_words(flags, "_")]
    monkeypatch.setattr(sys, "argv", words)
    cli = HarnessCLI()
    cli.execute(cli.parse_args())
    results, samples = theirs(model, tokenizer, folder, tasks, flags)
    (file,) = tmp_path.glob("*/results_*.json")
    for task in tasks:
        (logged,) = tmp_path.glob(f"*/samples_{task}_*.jsonl")
        got = [json.loads(line) for line in logged.read_text().splitlines()]
        compare_samples(samples[task], got, task)
        compare_results(results[task], json.loads(file.read_text())["results"][task], task)


def test_metrics_are_plain_arithmetic_of_the_answers(place):
    checkpoint, folder, _ = place
    told = al.evals.run(
        checkpoint, tasks=ALL, include=[folder], progress=False, device="cpu", num_fewshot=0
    )

    def answers(task):
        return [one["filtered_resps"] for one in told.samples[task] if one["filter"] == "none"]

    # Cloze: greedy or not, and e to the mean of negative log-likelihoods.
    cloze = [one[0] for one in answers("cloze")]
    score = told.score
    assert score("cloze", "acc").value == pytest.approx(sum(g for _, g in cloze) / 3, abs=1e-6)
    mean = -sum(ll for ll, _ in cloze) / len(cloze)
    assert score("cloze", "perplexity").value == pytest.approx(math.exp(mean), rel=1e-6)
    # Minimal pairs: the good sentence comes first.
    wins = [float(good[0] > bad[0]) for good, bad in answers("pairs")]
    assert score("pairs", "acc").value == pytest.approx(sum(wins) / 3, abs=1e-6)
    # Whole texts: nats over words and over bytes of all texts together.
    texts = [sample["doc"]["page"] for sample in told.samples["pages"]]
    nats = -sum(ll for sample in told.samples["pages"] for ll in sample["filtered_resps"])
    words = sum(len(text.split(" ")) for text in texts)  # one space between words, as re.split
    bytes_ = sum(len(text.encode()) for text in texts)
    expected = {
        "word_perplexity": math.exp(nats / words),
        "byte_perplexity": math.exp(nats / bytes_),
        "bits_per_byte": nats / bytes_ / math.log(2),
    }
    for name, value in expected.items():
        assert score("pages", name).value == pytest.approx(value, rel=1e-6), name
    # School questions: the first number of what was generated, word for word.
    said = [one for one in told.samples["school"] if one["filter"] == "number"]
    right = [float(one["filtered_resps"][0] == one["target"]) for one in said]
    assert score("school", "exact_match", "number").value == pytest.approx(sum(right) / 3, abs=1e-6)
    # Several choices: the likeliest, and the likeliest per character.
    lls = [[ll for ll, _ in one] for one in answers("choice")]
    golds = [sample["doc"]["gold"] for sample in told.samples["choice"]]
    names = [sample["doc"]["choices"] for sample in told.samples["choice"]]
    right = [float(max(range(3), key=lls[n].__getitem__) == golds[n]) for n in range(3)]
    assert score("choice", "acc").value == pytest.approx(sum(right) / 3, abs=1e-6)
    per = [[lls[n][c] / len(names[n][c]) for c in range(3)] for n in range(3)]
    right = [float(max(range(3), key=per[n].__getitem__) == golds[n]) for n in range(3)]
    assert score("choice", "acc_norm").value == pytest.approx(sum(right) / 3, abs=1e-6)
    # lm-eval's standard error of a mean.
    spread = math.sqrt(sum((w - sum(wins) / 3) ** 2 for w in wins) / 2 / 3)
    assert score("pairs", "acc").stderr == pytest.approx(spread, abs=1e-9)
