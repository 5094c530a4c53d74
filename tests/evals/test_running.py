"""`al.evals.run`: its frame, samples and intervals, against lm-eval's own run and by hand."""

import json
import re

import numpy as np
import pytest
from lm_eval.evaluator import simple_evaluate

import arcee_lab as al
from arcee_lab.bootstrap import interval
from arcee_lab.errors import Interrupted, TaskFailed
from arcee_lab.evals import ArceeLab, run
from arcee_lab.evals.tasks.find import find_tasks

LM = ["arcee_demo_agreement_1", "arcee_demo_facts", "arcee_demo_text_news"]
HEADS = ["arcee_demo_sentiment", "arcee_demo_ner", "arcee_demo_qa"]
LIMIT = 12


@pytest.fixture(scope="module")
def loaded():
    return find_tasks(LM + HEADS)


@pytest.fixture(scope="module")
def lm():
    return ArceeLab("demo", device="cpu")


@pytest.fixture(scope="module")
def result(lm, loaded):
    return run(lm, tasks=loaded, limit=LIMIT, progress=False)


def test_values_are_those_of_lm_eval(lm, loaded, result):
    theirs = simple_evaluate(
        lm,
        tasks=list(loaded["tasks"].values()),
        limit=LIMIT,
        bootstrap_iters=0,
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=None,
    )
    assert theirs["config"]["model_fingerprint"] == result.info["model_fingerprint"]
    for score in result.scores:
        value = theirs["results"][score.task][f"{score.metric},{score.filter}"]
        # lm-eval asks for all tasks at once, in other batches: fp32 rounds elsewhere.
        assert score.value == pytest.approx(value, abs=1e-5)
    for task in loaded["tasks"].values():
        task._instances = None


def test_the_frame_has_a_row_a_task_and_metric(result):
    frame = result.frame()
    assert set(frame["task"]) == set(LM + HEADS)
    assert (frame["n"] == LIMIT).all()
    assert (frame["low"] <= frame["value"] + 1e-9).all()
    assert (frame["value"] <= frame["high"] + 1e-9).all()
    agreement = result.score("arcee_demo_agreement_1", "acc")
    assert agreement.ceiling == 1.0
    assert agreement.higher_is_better
    assert result.score("arcee_demo_sentiment", "nll").higher_is_better is False
    with pytest.raises(ValueError, match="no score 'arcee_demo_facts' 'f1'"):
        result.score("arcee_demo_facts", "f1")


def test_samples_say_what_was_asked_and_answered(result):
    samples = result.samples_frame("arcee_demo_sentiment")
    assert len(samples) == LIMIT
    assert samples["acc"].mean() == result.score("arcee_demo_sentiment", "acc").value
    assert samples["prompt"].str.endswith("Verdict:").all()
    with pytest.raises(ValueError, match="no samples of 'other'"):
        result.samples_frame("other")


def test_it_shows_and_saves_itself(result, tmp_path):
    html = result._repr_html_()
    assert html.count("<tr>") == len(result.scores) + 1
    assert "arcee_demo_qa" in repr(result)
    files = {path.name for path in result.save(tmp_path)}
    own = {"results.json", "scores.csv", "report.html"}
    assert files == own | {f"samples_{t}.jsonl" for t in LM + HEADS}
    assert len((tmp_path / "samples_arcee_demo_ner.jsonl").read_text().splitlines()) == LIMIT


def test_a_model_in_memory_answers_as_the_demo_does(demo, loaded, result):
    tasks = {"tasks": {name: loaded["tasks"][name] for name in LM}}
    mine = run(*demo, tasks=tasks, limit=LIMIT, progress=False)
    assert [one for one in result.scores if one.task in LM] == list(mine.scores)


def test_a_missing_head_is_named(demo, loaded):
    tasks = {"tasks": {"arcee_demo_ner": loaded["tasks"]["arcee_demo_ner"]}}
    with pytest.raises(ValueError, match=r"Task 'arcee_demo_ner': it needs a token head.*tokcls="):
        run(*demo, tasks=tasks, limit=2, progress=False)
    model, _ = al.load("demo", head="token")
    found = run(*demo, heads={"token": model}, tasks=tasks, limit=2, progress=False)
    assert found.score("arcee_demo_ner", "token_acc").n == 2
    with pytest.raises(ValueError, match=r"Task 'arcee_demo_ner'.*expected a model with the token"):
        run(*demo, heads={"token": demo[0]}, tasks=tasks, limit=2, progress=False)
    with pytest.raises(ValueError, match="the key 'tokens'; expected some of sequence, token, qa"):
        run(*demo, heads={"tokens": model}, tasks=tasks, limit=2, progress=False)


def test_a_missing_head_is_told_before_any_forward(demo, loaded, monkeypatch):
    asked = []
    monkeypatch.setattr(ArceeLab, "loglikelihood", lambda self, requests, **_: asked.append(1))
    tasks = {"tasks": {name: loaded["tasks"][name] for name in ("arcee_demo_facts", HEADS[1])}}
    with pytest.raises(ValueError, match=f"Task '{HEADS[1]}': it needs a token head") as failed:
        run(*demo, tasks=tasks, limit=2, progress=False)
    assert not isinstance(failed.value, TaskFailed)
    assert asked == []


def test_a_head_that_is_not_where_it_should_be_is_told_before_any_forward(
    demo, loaded, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(ArceeLab, "loglikelihood", lambda self, requests, **_: asked.append(1))
    tasks = {"tasks": {name: loaded["tasks"][name] for name in ("arcee_demo_facts", HEADS[1])}}
    (tmp_path / "config.json").write_text('{"architectures": ["ArceeForSequenceClassification"]}')
    for source, message in (
        (
            tmp_path,
            "given for the token head, has only sequence: scores would be those of random weights",
        ),
        (tmp_path / "absent", "is neither a folder, nor a Hub id"),
        (demo[0], "Got a ArceeForCausalLM, expected a model with the token head"),
    ):
        with pytest.raises(ValueError, match=f"Task '{HEADS[1]}': .*{message}") as failed:
            run(*demo, heads={"token": source}, tasks=tasks, limit=2, progress=False)
        assert not isinstance(failed.value, TaskFailed)
    assert asked == []


def test_models_go_back_into_training(demo, loaded):
    tasks = {"tasks": {name: loaded["tasks"][name] for name in ("arcee_demo_facts", HEADS[1])}}
    model, _ = al.load("demo")
    head, _ = al.load("demo", head="token")
    model.train()
    model.model.layers[0].eval()  # a part may be frozen
    head.train()
    run(model, demo[1], heads={"token": head}, tasks=tasks, limit=2, progress=False)
    al.evals.sweep(
        model, demo[1], heads={"token": head}, tasks=tasks, levels=[], limit=2, progress=False
    )
    assert model.training
    assert head.training
    assert not model.model.layers[0].mlp.training
    assert all(part.training for part in model.model.layers[1].modules())


def test_a_model_without_an_lm_head_is_named(loaded):
    model, tokenizer = al.load("demo", head="sequence")
    heads = {"tasks": {"arcee_demo_sentiment": loaded["tasks"]["arcee_demo_sentiment"]}}
    found = run(model, tokenizer, tasks=heads, limit=4, progress=False)
    assert found.score("arcee_demo_sentiment", "acc").n == 4
    facts = {"tasks": {"arcee_demo_facts": loaded["tasks"]["arcee_demo_facts"]}}
    with pytest.raises(ValueError, match="Task 'arcee_demo_facts' needs an LM head"):
        run(model, tokenizer, tasks=facts, limit=2, progress=False)


def test_an_interrupt_keeps_what_is_done(lm, loaded, monkeypatch):
    asked = []
    own = ArceeLab.loglikelihood

    def second_time(self, requests, disable_tqdm=False):
        asked.append(requests[0].task_name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return own(self, requests, disable_tqdm)

    monkeypatch.setattr(ArceeLab, "loglikelihood", second_time)
    with pytest.raises(
        Interrupted, match=r"1 of \d+ tasks finished.*`partial`.*out=FOLDER"
    ) as stopped:
        run(lm, tasks=loaded, limit=3, progress=False)
    found = stopped.value.partial
    assert list(found.samples) == LM[:1]
    assert found.unfinished == (*LM[1:], *HEADS)
    assert "unfinished: arcee_demo_facts" in found.headline


def test_the_same_call_goes_on_with_the_tasks_that_are_left(lm, loaded, monkeypatch, tmp_path):
    tasks = {"tasks": {name: loaded["tasks"][name] for name in (*LM, HEADS[0])}}
    settings = {"tasks": tasks, "limit": 3, "progress": False}
    lm.intervene(None)
    whole = run(lm, out=tmp_path / "whole", **settings)
    asked = []
    own = ArceeLab.loglikelihood

    def second_time(self, requests, disable_tqdm=False):
        asked.append(requests[0].task_name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return own(self, requests, disable_tqdm)

    monkeypatch.setattr(ArceeLab, "loglikelihood", second_time)
    out = tmp_path / "out"
    lm.intervene(None)
    with pytest.raises(
        Interrupted, match=r"1 of 4 tasks finished.*repeat the same call"
    ) as stopped:
        run(lm, out=out, **settings)
    assert list(stopped.value.partial.samples) == LM[:1]
    kept = list((out / "unfinished").iterdir())
    assert len(kept) == 1
    told = json.loads((out / "results.json").read_text())
    assert told["unfinished"] == [*LM[1:], HEADS[0]]

    with pytest.raises(ValueError, match="belongs to another run"):
        run(lm, out=out, **settings | {"limit": 2})
    content = kept[0].read_bytes()
    for damage in (b"", content[:-9], b"[]", content.replace(b'"samples": [', b'"others": [')):
        kept[0].write_bytes(damage)
        with pytest.raises(ValueError, match=r"is damaged \(.*remove it and repeat the same call"):
            run(lm, out=out, **settings)
    kept[0].write_bytes(content)

    asked = ["", ""]
    lm.intervene(None)
    again = run(lm, out=out, **settings)
    assert LM[0] not in asked
    assert set(LM[1:]) <= set(asked)
    assert again.scores == whole.scores
    assert not (out / "unfinished").exists()
    for path in (tmp_path / "whole").iterdir():
        other = (out / path.name).read_bytes()
        if path.name == "results.json":
            one, two = json.loads(path.read_bytes()), json.loads(other)
            for name in ("seconds", "date", "total_evaluation_time_seconds"):
                assert float(one.pop(name)) > 0
                assert float(two.pop(name)) > 0
            assert one == two
        else:
            assert path.read_bytes() == other


def test_a_task_that_fails_keeps_what_is_done(lm, loaded):
    agreement, facts, news = LM

    def tokens_of(task):
        documents = list(loaded["tasks"][task].eval_docs)[:LIMIT]
        return {token for document in documents for token in lm.tok_encode(document["text"])}

    lone = min(tokens_of(agreement) - tokens_of(facts))  # the first task has it, the second not
    some = al.Scale("layers.1.mlp.hook_post", 0.5, tokens=[lone])
    tasks = {"tasks": {name: loaded["tasks"][name] for name in (agreement, facts, news)}}
    try:
        with pytest.raises(TaskFailed, match="Task 'arcee_demo_facts': No token met") as failed:
            run(lm, tasks=tasks, interventions=some, limit=LIMIT, progress=False)
        kept = failed.value.result
        assert kept.unfinished == (facts, news)
        assert list(kept.samples) == [agreement]
        alone = {"tasks": {agreement: loaded["tasks"][agreement]}}
        again = run(lm, tasks=alone, interventions=some, limit=LIMIT, progress=False)
        assert kept.scores == again.scores
        assert "(arcee_demo_agreement_1) are in `result`" in failed.value.__notes__[0]
    finally:
        lm.intervene(None)
    assert loaded["tasks"][facts]._instances is None


def test_one_bar_counts_documents(lm, loaded, capsys):
    tasks = {"tasks": {name: loaded["tasks"][name] for name in ("arcee_demo_facts", HEADS[0])}}
    run(lm, tasks=tasks, limit=4, progress=True)
    shown = capsys.readouterr().err
    assert "8/8" in shown
    assert set(re.findall(r"/(\d+) \[", shown)) == {"8"}  # no bar of anything else


def test_a_group_is_the_mean_of_its_tasks(lm, tmp_path):
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask: [arcee_demo_agreement_0, arcee_demo_facts]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"
    )
    found = run(lm, tasks="both", include=[tmp_path], limit=10, progress=False)
    members = [found.score(name, "acc") for name in ("arcee_demo_agreement_0", "arcee_demo_facts")]
    group = found.score("both", "acc")
    assert group.value == pytest.approx(np.mean([one.value for one in members]))
    assert group.low <= group.value <= group.high
    assert group.members == tuple(one.task for one in members)
    assert group.n == 20
    assert interval(np.array([0.0, 1.0])) == pytest.approx((0.025, 0.975))


def test_bad_numbers_and_a_window_too_small(demo):
    with pytest.raises(ValueError, match="limit=0; expected at least 1"):
        run(*demo, tasks="arcee_demo_facts", limit=0)
    small = ArceeLab(*demo, max_length=2)
    with pytest.raises(
        ValueError, match=r"does not fit the context window of 2|context window has 2"
    ):
        run(small, tasks="arcee_demo_copy", limit=2, progress=False)
    with pytest.raises(ValueError, match="no model argument trust_remote_code"):
        ArceeLab(*demo, trust_remote_code=True)
    with pytest.raises(ValueError, match="needs its tokenizer"):
        ArceeLab(demo[0])
    with pytest.raises(ValueError, match="head='qa', but the model in memory has the causal head"):
        ArceeLab(*demo, head="qa")


def test_examples_are_those_of_one_run(lm, tmp_path):
    """A run sets a task's number of examples, and the next one finds the task's own."""
    rows = [f'{{"q": "The dogs {n}", "a": " sleep."}}\n' for n in range(6)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(rows))
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\noutput_type: loglikelihood\ntest_split: test\n"
        "training_split: train\nfewshot_split: train\ndoc_to_text: q\ndoc_to_target: a\n"
        f"dataset_kwargs: {{data_files: {{train: {tmp_path}/train.jsonl, "
        f"test: {tmp_path}/test.jsonl}}}}\nmetric_list: [{{metric: acc}}]\n"
    )
    own = find_tasks(tmp_path / "own.yaml")
    plain, shots, again = (
        run(lm, tasks=own, num_fewshot=n, progress=False) for n in (None, 2, None)
    )
    assert [one.settings["num_fewshot"]["own"] for one in (plain, shots, again)] == [0, 2, 0]
    prompts = [one.samples["own"][0]["arguments"][0][0] for one in (plain, shots, again)]
    assert [prompt.count("The dogs") for prompt in prompts] == [1, 3, 1]
    assert plain.scores == again.scores


def test_the_bar_moves_while_texts_are_generated_and_heads_answer():
    lm = ArceeLab("demo", device="cpu", batch_size=2)
    told: list[float] = []
    lm.bar = lambda total: told.append
    names = {"arcee_demo_copy": 4, "arcee_demo_ner": 20, "arcee_demo_qa": 20}
    for name, task in find_tasks(list(names))["tasks"].items():
        told.clear()
        task.build_all_requests(limit=names[name])
        assert len(lm.generate_until(task.instances)) == names[name]
        assert sum(told) == pytest.approx(names[name])
        assert len(told) >= 3
