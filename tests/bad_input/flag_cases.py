"""Bad words on the command line, for every command."""

from typing import Any
from unittest import mock

from cases import Case, Ended, command, commands

LINES = [
    "''",
    "nonsense",
    "--nonsense",
    "info nonsense",
    "info no/such/folder/at/all",
    "info ''",
    "info {text}",
    "info a\0b",
    "info demo more",
    "info /dev/null",
    "sparsity",
    "sparsity demo",
    "sparsity demo --world all",
    "sparsity no/such/path --world all --out {out}",
    "sparsity a\0b --world all --out {out}",
    "sparsity demo --world nonsense --max-tokens 50 --out {out}",
    "sparsity demo --world '' --out {out}",
    "sparsity demo --world all --device foo --out {out}",
    "sparsity demo --world all --device '' --out {out}",
    "sparsity demo --world all --device cuda:-1 --out {out}",
    "sparsity demo --world all --device cuda:99 --out {out}",
    "sparsity demo --world all --device meta --out {out}",
    "sparsity demo --world all --device cpu:7x --out {out}",
    "sparsity demo --world all --device cuda --out {out}",
    "sparsity demo --world all --dtype int8 --out {out}",
    "sparsity demo --world all --dtype '' --out {out}",
    "sparsity demo --world all --batch-size 0 --out {out}",
    "sparsity demo --world all --batch-size 1e3 --out {out}",
    "sparsity demo --world all --batch-size '' --out {out}",
    "sparsity demo --world all --max-tokens -5 --out {out}",
    "sparsity demo --world all --max-tokens nan --out {out}",
    "sparsity demo --world all --context 100000 --out {out}",
    "sparsity demo --world all --context 1 --max-tokens 50 --out {out}",
    "sparsity demo --world all --analyses nonsense --out {out}",
    "sparsity demo --world all --analyses '' --out {out}",
    "sparsity demo --world all --sample-every 0 --out {out}",
    "sparsity demo --world all --seed -1 --out {out}",
    "sparsity demo --text {text} --seed 5 --out {out}",
    "sparsity demo --text absent.txt --out {out}",
    "sparsity demo --text '' --out {out}",
    "sparsity demo --text a\0b --out {out}",
    "sparsity demo --text {text} --text-column nonsense --out {out}",
    "sparsity demo --world all --text-column text --out {out}",
    "sparsity demo --text {text} --max-tokens 100000 --out {out}",
    "sparsity demo --text {text} --world all --out {out}",
    "sparsity demo --domains a={text} --out {out}",
    "sparsity demo --domains a --out {out}",
    "sparsity demo --domains ../a={text} b={text} --out {out}",
    "sparsity demo --domains $\\frac$={text} b={text} --out {out}",
    "sparsity demo --domains a=absent.txt b={text} --out {out}",
    "sparsity demo --dataset '' --out {out}",
    "sparsity demo --dataset no/such/data/set --out {out}",
    "sparsity demo --dataset nobody/nothing:train --out {out}",
    "sparsity demo --dataset :train --out {out}",
    "sparsity demo --dataset a\0b --out {out}",
    "sparsity demo --world all --out {text}",
    "sparsity demo --world all --out {checkpoint}",
    "sparsity demo --world all --out s3://bucket/out",
    "sparsity demo --world all --out a\0b",
    "sparsity demo --world all --out /proc/nothing/here",
    "sparsity demo --world all --out ''",
    "dump",
    "dump demo --world all",
    "dump no/such/path --world all --out {out}",
    "dump demo --world nonsense --max-tokens 50 --out {out}",
    "dump demo --world all --device foo --out {out}",
    "dump demo --world all --device '' --out {out}",
    "dump demo --world all --device cuda:-1 --out {out}",
    "dump demo --world all --device meta --out {out}",
    "dump demo --world all --sites nonsense --out {out}",
    "dump demo --world all --sites '' --out {out}",
    "dump demo --world all --sites layers.99.mlp.hook_post --out {out}",
    "dump demo --world all --sites layers.0.self_attn.hook_pattern --out {out}",
    "dump demo --world all --layout nonsense --out {out}",
    "dump demo --world all --others nonsense --out {out}",
    "dump demo --world all --store-dtype int8 --out {out}",
    "dump demo --world all --overlap 127 --context 64 --max-tokens 50 --out {out}",
    "dump demo --world all --context 100000 --out {out}",
    "dump demo --world all --shard-tokens 5 --max-tokens 50 --out {out}",
    "dump demo --world all --max-tokens 0 --out {out}",
    "dump demo --world all --split nonsense --out {out}",
    "dump demo --world all --threads 0 --out {out}",
    "dump demo --text absent.txt --out {out}",
    "dump demo --text a\0b --out {out}",
    "dump demo --text {text} --out {checkpoint}",
    "dump demo --text {text} --out {text}",
    "dump demo --text {text} --out a\0b",
    "dump demo --text {text} --out nonsense://bucket/store",
    "dump demo --text {text} --out /proc/nothing/here",
    "dump demo --text {text} --seed 3 --out {out}",
    "verify",
    "verify absent",
    "verify ''",
    "verify {text}",
    "verify {checkpoint}",
    "verify a\0b",
    "verify nonsense://bucket/store",
    "verify {store} --model demo",
    "verify {store} --world all",
    "verify {store} --device foo",
    "eval",
    "eval demo",
    "eval demo --out {out}",
    "eval demo --tasks --out {out}",
    "eval demo --tasks arcee_al --out {out}",
    "eval demo --tasks '' --out {out}",
    "eval demo --tasks absent.yaml --out {out}",
    "eval demo --tasks {text} --out {out}",
    "eval demo --tasks a\0b --out {out}",
    "eval demo --tasks arcee_demo_copy --limit 0 --out {out}",
    "eval demo --tasks arcee_demo_copy --limit 1.5 --out {out}",
    "eval demo --tasks arcee_demo_copy --samples absent.json --out {out}",
    "eval demo --tasks arcee_demo_copy --samples [] --out {out}",
    "eval demo --tasks arcee_demo_copy --apply-chat-template --out {out}",
    "eval demo --tasks arcee_demo_copy --fewshot-as-multiturn maybe --out {out}",
    "eval demo --tasks arcee_demo_copy --fewshot-as-multiturn --out {out}",
    "eval demo --tasks arcee_demo_copy --gen-kwargs temperature --out {out}",
    "eval demo --tasks arcee_demo_copy --repeats 0 --out {out}",
    "eval demo --tasks arcee_demo_copy --cache-requests always --out {out}",
    "eval demo --tasks arcee_demo_copy --num-fewshot -1 --out {out}",
    "eval demo --tasks arcee_demo_copy --seed x --out {out}",
    "eval demo --tasks arcee_demo_copy --seed 1,2 --out {out}",
    "eval demo --tasks arcee_demo_copy --intervention absent.json --out {out}",
    "eval demo --tasks arcee_demo_copy --intervention {text} --out {out}",
    "eval demo --tasks arcee_demo_copy --include absent --out {out}",
    "eval demo --tasks arcee_demo_copy --data absent.txt --out {out}",
    "eval demo --tasks arcee_demo_copy --data a=b c --out {out}",
    "eval demo --tasks arcee_demo_copy --seqcls absent --out {out}",
    "eval demo --tasks arcee_demo_copy --device foo --out {out}",
    "eval demo --tasks arcee_demo_copy --device '' --out {out}",
    "eval demo --tasks arcee_demo_copy --device cuda:-1 --out {out}",
    "eval demo --tasks arcee_demo_copy --out {text}",
    "eval demo --tasks arcee_demo_copy --out {checkpoint}",
    "eval no/such/path --tasks arcee_demo_copy --out {out}",
    "train-head",
    "train-head demo --head sequence --out {out}",
    "train-head demo --head nonsense --train {labelled} --out {out}",
    "train-head demo --head sequence --train '' --out {out}",
    "train-head demo --head sequence --train absent.jsonl --out {out}",
    "train-head demo --head sequence --train a\0b --out {out}",
    "train-head demo --head sequence --train {text} --out {out}",
    "train-head demo --head token --train {labelled} --out {out}",
    "train-head demo --head sequence --train demo:nonsense --out {out}",
    "train-head demo --head sequence --train arcee_nonsense:absent --out {out}",
    "train-head demo --head sequence --train {labelled} --test {labelled} --out {out}",
    "train-head demo --head sequence --train {labelled} --test '' --out {out}",
    "train-head demo --head sequence --train {labelled} --probes --out {out}",
    "train-head demo --head sequence --train {labelled} --text-column nope --out {out}",
    "train-head demo --head sequence --train {labelled} --label-column nope --out {out}",
    "train-head demo --head sequence --train {labelled} --tune nonsense --out {out}",
    "train-head demo --head sequence --train {labelled} --learning-rate nan --out {out}",
    "train-head demo --head sequence --train {labelled} --learning-rate x --out {out}",
    "train-head demo --head sequence --train {labelled} --learning-rate 1e300 --out {out}",
    "train-head demo --head sequence --train {labelled} --lora-rank 9e9 --out {out}",
    "train-head demo --head sequence --train {labelled} --lora-rank 4 --out {out}",
    "train-head demo --head sequence --train {labelled} --epochs 0 --out {out}",
    "train-head demo --head sequence --train {labelled} --device foo --out {out}",
    "train-head demo --head sequence --train {labelled} --device cuda:-1 --out {out}",
    "train-head demo --head sequence --train {labelled} --out {text}",
    "train-head demo --head sequence --train {labelled} --columns a a --out {out}",
    "train-head demo --head sequence --train {labelled} --columns text label --out {out}",
    "train-head demo --head sequence --train demo --columns text label --out {out}",
    "train-head demo --head sequence --train {labelled} --held-out nan --out {out}",
    "train-head demo --head sequence --train {labelled} --held-out 2 --out {out}",
    "train-head demo --head sequence --train {labelled} --patience 0 --out {out}",
    "train-head demo --head sequence --train {labelled} --metric acc --out {out}",
    "train-head demo --head sequence --train {labelled} --patience 1 --metric em --out {out}",
    "train-head demo --head sequence --train {labelled} --class-weights even --out {out}",
    "train-head demo --head sequence --train {labelled} --validation {labelled} --out {out}",
    "train-head demo --head sequence --train {labelled} --validation absent.csv --out {out}",
    "train-head demo --head token --train {text} --out {out}",
    "train-head demo --head qa --train {labelled} --out {out}",
    "train-head demo --head qa --train {text} --out {out}",
    "train-head demo --head qa --train demo --limit 4 --calibrate --held-out 0.99 --out {out}",
    "train-head demo --head qa --train demo --limit 4 --class-weights balanced --out {out}",
    "train-head demo --head qa --train demo --limit 4 --text-column text --out {out}",
    "train-head demo --head qa --train demo --test demo:test --limit 4 --probes --out {out}",
    "train-head demo --head qa --train arcee_sst2:{labelled} --out {out}",
    "train-head demo --head token --train arcee_squad:{labelled} --out {out}",
    "neurons demo --world story --label nonsense --out {out}",
    "neurons demo --world story --label PER --label-file absent.conll --out {out}",
    "neurons demo --world story --label PER --label-file {text} --out {out}",
    "neurons demo --world story --label-file {text} --out {out}",
    "neurons demo --world story --label a=( --out {out}",
    "neurons demo --world story --label a= --out {out}",
    "eval-head",
    "eval-head demo --head sequence --out {out}",
    "eval-head demo --head nonsense --data {labelled} --out {out}",
    "eval-head demo --head sequence --data {labelled} --out {out}",
    "eval-head demo --head sequence --data '' --out {out}",
    "eval-head demo --head qa --data {labelled} --out {out}",
    "eval-head {checkpoint} --head sequence --data {labelled} --out {out}",
    "eval-head no/such/path --head sequence --data {labelled} --out {out}",
    "eval-head demo --head sequence --data demo:test --device foo --out {out}",
    "eval-head demo --head sequence --data demo:test --intervention absent.json --out {out}",
    "eval-head demo --head sequence --data demo:test --out {text}",
    "train-demo",
    "train-demo --out s3://bucket/demo",
    "train-demo --seed x --out {out}",
    "train-demo --threads 0 --out {out}",
    "train-demo --quick --out {text}",
    "train-demo --quick --out {checkpoint}",
    "train-demo --quick --out a\0b",
    "world",
    "world nonsense",
    "world ''",
    "world story --n 0",
    "world story --n x",
    "world story --split nonsense",
    "world story --seed -1",
    "world story --tags --jsonl",
    "world story --out a.parquet",
    "world story --out {text}",
    "world story --out a\0b.txt",
    "world story --out /proc/nothing/here.txt",
    "world story --jsonl --out {out}.txt",
    "lab --port 0",
    "lab --port x",
    "lab --folder {text}",
    "lab --folder /no/such/folder",
    "lab --folder a\0b",
    "tour --out {text}",
    "tour --out s3://bucket/tour",
    "tour --out a\0b",
]


def cases() -> list[Case]:
    """All of them, and those with a state of their own."""
    return [
        *commands("cli", LINES),
        Case("verify a damaged store: one line a file", _cut_store),
        Case("sparsity: the folder of another run", _other_run, ("context",)),
        Case("dump: the folder of another run", _other_dump, ("batch_size",)),
        Case("dump: the folder of other texts", _other_texts, ("data",)),
        Case("sparsity --text of a pipe", _pipe("sparsity"), ("pipe",)),
        Case("dump --text of a pipe", _pipe("dump"), ("pipe",)),
        Case("sparsity: no memory", _no_memory, ("memory",)),
        Case("sparsity: no memory of a device", _no_device_memory, ("memory",)),
    ]


def _cut_store(ground: Any) -> None:
    manifest = (ground.store / "manifest.json").read_text()
    command("verify", ground.changed(ground.store, "manifest.json", manifest[:-9]))(ground)


def _ends(ground: Any, *words: object) -> Ended:
    """How a command ends."""
    try:
        command(*words)(ground)
    except Ended as found:
        return found
    raise AssertionError("a command always ends")


def _run(ground: Any, *words: object) -> None:
    """A command that has to succeed."""
    ended = _ends(ground, *words)
    assert ended.code == 0, ended.errors


def _other_run(ground: Any) -> None:
    # run.json is what belongs to a run; the run itself draws figures, which takes seconds.
    from arcee_lab.runs import storage

    words = ("sparsity", "{checkpoint}", "--text", "{text}", "--analyses", "core")
    claimed = []
    keep = mock.patch.object(storage, "claim", lambda *given: claimed.append(given))
    with keep, mock.patch("arcee_lab.sparsity.job.MeasureJob.run", side_effect=MemoryError):
        _ends(ground, *words, "--out", "{out}")
    ((_, settings),) = claimed
    out = storage.claim(ground.new(), settings)
    command(*words, "--context", 8, "--out", out)(ground)


def _other_dump(ground: Any) -> None:
    words = ("dump", "{checkpoint}", "--text", "{text}")
    out = ground.new()
    _run(ground, *words, "--out", out)
    command(*words, "--batch-size", 3, "--out", out)(ground)


def _other_texts(ground: Any) -> None:
    words = ("dump", "{checkpoint}", "--text")
    out = ground.new()
    _run(ground, *words, "{text}", "--out", out)
    command(*words, ground.file("a.txt", "The king bakes ."), "--out", out)(ground)


def _pipe(name: str) -> Any:
    def run(ground: Any) -> None:
        import os

        path = ground.new()
        os.mkfifo(path)
        command(name, "{checkpoint}", "--text", path, "--out", "{out}")(ground)

    return run


def _failing(ground: Any, error: BaseException) -> None:
    words = ("sparsity", "{checkpoint}", "--text", "{text}", "--out", "{out}")
    with mock.patch("arcee_lab.sparsity.job.MeasureJob.run", side_effect=error):
        command(*words)(ground)


def _no_memory(ground: Any) -> None:
    _failing(ground, MemoryError())


def _no_device_memory(ground: Any) -> None:
    import torch

    _failing(ground, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GiB"))
