"""Interventions in an evaluation act as on single sequences without padding."""

import pytest
import torch
from asking import Words, choices, generation, plain_answer, rolling, shapes
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

import arcee_lab as al
from arcee_lab.evals import ArceeLab
from arcee_lab.evals.intervened import eval_interventions
from arcee_lab.heads.sequence import score_sequence

POST = "layers.*.mlp.hook_post"
SHAPES = shapes(7)
REQUESTS = [*SHAPES["arc"][:8], *SHAPES["mmlu"], *SHAPES["blimp"][:4], *SHAPES["race"][:4]]
PACKED = {
    "ablated neurons": al.Ablate("layers.1.mlp.hook_post", units=[3, 17, 40]),
    "top-k": al.TopK(POST, 12),
    "steered at positions": al.Add("layers.2.hook_resid_post", 0.7, positions=[0, 9, 40, 41]),
    "scaled under a mask": al.Scale(
        "layers.0.self_attn.hook_z", 0.2, mask=torch.arange(60)[None] % 3 == 0
    ),
    "mask and positions": al.Scale(
        "layers.0.hook_mlp_out", 3.0, positions=[2, 3], mask=torch.tensor([[False] * 3 + [True]])
    ),
    "at tokens": al.Ablate("layers.3.hook_mlp_out", tokens=list(range(3, 300))),
    "logits": al.Scale("hook_logits", 0.5),
}
ALONE = {
    "last position": al.Scale("layers.2.hook_resid_mid", 0.5, positions=-1),
    "a head's pattern": al.Ablate("layers.1.self_attn.hook_pattern", heads=[0]),
    "a function of rows": al.Replace(
        "layers.1.hook_mlp_out", lambda x: x - x.mean(1, keepdim=True)
    ),
    "logits at positions": al.Scale("hook_logits", 0.5, positions=[4, 5]),
}


@pytest.fixture(scope="module")
def clean(demo):
    return ArceeLab(*demo).loglikelihood(REQUESTS, disable_tqdm=True)


def scores(answers):
    return torch.tensor([score for score, _ in answers], dtype=torch.float64)


def plain(lm, requests, intervention):
    with al.intervene(lm.model, intervention):
        return [plain_answer(lm.model, lm._encoder(), *one.args) for one in requests]


@pytest.mark.parametrize("name", [*PACKED, *ALONE])
def test_choices_score_as_single_sequences_do(demo, clean, name):
    intervention = (PACKED | ALONE)[name]
    lm = ArceeLab(*demo, intervention=intervention)
    got = lm.loglikelihood(REQUESTS, disable_tqdm=True)
    expected = plain(lm, REQUESTS, intervention)
    torch.testing.assert_close(scores(got), scores(expected), atol=2e-4, rtol=0)
    assert [flag for _, flag in got] == [flag for _, flag in expected]
    assert (scores(clean) - scores(got)).abs().max() > 0.01


def test_what_cannot_be_packed_says_so(demo):
    for name in PACKED:
        info = ArceeLab(*demo, intervention=PACKED[name]).get_model_info()
        assert info["packed"]
        assert info["unpacked_reason"] == ""
    told = {name: ArceeLab(*demo, intervention=one).unpacked_reason for name, one in ALONE.items()}
    assert "count from the end" in told["last position"]
    assert "span the keys" in told["a head's pattern"]
    assert "Replace reads whole sequences" in told["a function of rows"]


def test_hooks_see_each_token_once_and_no_padding(demo):
    lm = ArceeLab(*demo, batch_tokens=300)
    pairs = lm._encoder().pairs([request.args for request in REQUESTS])
    distinct = set()
    for request, (before, after) in zip(REQUESTS, pairs, strict=True):
        tokens = tuple(before + after)[:-1]
        # A shared few-shot prefix is one; else each document has its own.
        own = () if request.task_name == "mmlu" else (request.task_name, request.doc_id)
        distinct |= {(own, tokens[: n + 1]) for n in range(len(tokens))}
    site = "layers.0.mlp.hook_post"
    with al.capture(lm.model, {site: al.reducers.FiringRate()}) as stats:
        lm.loglikelihood(REQUESTS, disable_tqdm=True)
    shots_again = stats[site].tokens - len(distinct)
    # The tree of all shots goes on for some tokens behind the prefix that is taken.
    assert 0 <= shots_again <= 10
    assert stats[site].tokens < lm.cost.fed


@pytest.mark.parametrize("name", [*PACKED, *ALONE])
def test_whole_texts(demo, name):
    """Short ones that begin alike share a row where the intervention lets them."""
    intervention = (PACKED | ALONE)[name]
    lm = ArceeLab(*demo, intervention=intervention)
    long, other = Words(2).some(34, 34), Words(3).some(10, 20)
    half = " ".join(long.split()[:12])
    texts = [long, f"{half} {other}", other, long, half]
    got = lm.loglikelihood_rolling(rolling(texts), disable_tqdm=True)
    bos = lm.prefix_token_id
    with al.intervene(lm.model, intervention), torch.no_grad():
        for text, score in zip(texts, got, strict=True):
            ids = lm.tok_encode(text)
            logs = lm.model(torch.tensor([[bos, *ids[:-1]]])).logits[0].log_softmax(-1)
            expected = logs[range(len(ids)), ids].sum().item()
            assert score == pytest.approx(expected, abs=2e-4)
    info = lm.get_model_info()
    assert info["packed"] == (name in PACKED or name == "logits at positions")
    assert (lm.cost.rows < len(texts)) == info["packed"]


def test_generation(demo):
    intervention = al.Ablate(POST, units=list(range(0, 896, 3)))
    lm = ArceeLab(*demo, intervention=intervention)
    prompts = [Words(4).some(8, 12), Words(5).some(4, 6)]
    got = lm.generate_until(generation(prompts), disable_tqdm=True)
    for prompt, text in zip(prompts, got, strict=True):
        ids = torch.tensor([lm.tok_encode(prompt)])
        with al.intervene(lm.model, intervention):
            whole = lm.model.generate(ids, max_new_tokens=12, do_sample=False)
        expected = lm.tok_decode(whole[0, ids.shape[1] :].tolist())
        assert text == expected.split("\n")[0]
    assert got != ArceeLab(*demo).generate_until(generation(prompts), disable_tqdm=True)


def test_heads(demo):
    intervention = al.Ablate("layers.3.mlp.hook_post", units=list(range(448)))
    texts = ["Review: The soup was very good. Verdict:", "Review: The bread was bad. Verdict:"]
    requests = [
        Instance("loglikelihood", {"head": "sequence"}, (text, label), n, ("task", row, 1))
        for row, text in enumerate(texts)
        for n, label in enumerate(("bad", "good"))
    ]
    lm = ArceeLab("demo", intervention=intervention, device="cpu")
    got = scores(lm.loglikelihood(requests, disable_tqdm=True)).reshape(2, 2)
    model, tokenizer = al.load("demo", head="sequence")
    with al.intervene(model, intervention):
        expected = score_sequence(model, tokenizer, texts)
    torch.testing.assert_close(got.float(), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(expected, score_sequence(model, tokenizer, texts), atol=1e-3)


def test_a_file_and_values_give_the_same(demo, tmp_path):
    values = [PACKED["ablated neurons"], PACKED["steered at positions"]]
    file = tmp_path / "change.json"
    file.write_text(al.interventions.to_json(values))
    by_file = ArceeLab(*demo, intervention=str(file))
    by_value = ArceeLab(*demo, intervention=values)
    few = REQUESTS[:4]
    assert by_file.loglikelihood(few) == by_value.loglikelihood(few)
    spec = by_file.get_model_info()["interventions"]
    assert [row["kind"] for row in spec] == ["Ablate", "Add"]
    assert spec[1]["positions"] == [0, 9, 40, 41]
    assert by_file.identity() == by_value.identity()


def test_a_cache_of_other_answers_is_refused(demo, tmp_path):
    few = choices([("The dogs", [" sleep", " sleeps"])])
    path = str(tmp_path / "answers.db")
    clean = ArceeLab(*demo)
    first = CachingLM(clean, path).loglikelihood(few)
    assert CachingLM(ArceeLab(*demo), path).loglikelihood(few) == first
    with pytest.raises(ValueError, match=r"another run \(interventions differ\)"):
        CachingLM(ArceeLab(*demo, intervention=PACKED["top-k"]), path)
    other = ArceeLab("demo", dtype="bfloat16", device="cpu")
    with pytest.raises(ValueError, match=r"another run \(model_fingerprint"):
        CachingLM(other, path)
    head = [Instance("loglikelihood", {"head": "sequence"}, ("a", "good"), 0, ("t", 0, 1))]
    with pytest.raises(ValueError, match="use_cache identifies requests only by their text"):
        clean.loglikelihood(head)


def test_a_cache_of_nobody_known_is_refused(demo, tmp_path):
    from lm_eval.models.huggingface import HFLM

    path = str(tmp_path / "answers.db")
    few = choices([("The dogs", [" sleep", " sleeps"])])
    CachingLM(HFLM(pretrained=demo[0], tokenizer=demo[1]), path).loglikelihood(few)
    with pytest.raises(ValueError, match="does not say which model"):
        CachingLM(ArceeLab(*demo), path)


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (al.Ablate(POST, tags=[1]), "acts at tags, and an evaluation has none"),
        (al.Ablate(POST, mask=torch.ones(2, 4, dtype=torch.bool)), "has 2 rows"),
        (al.Ablate(POST, "resample"), "give value= rows"),
        (al.Ablate(POST, positions=[1], mask=torch.tensor([[True]])), "selects no position"),
        (al.Ablate("layers.9.mlp.hook_post"), "layers"),
        ("nowhere.json", "is not a file"),
    ],
)
def test_what_an_evaluation_cannot_do(demo, intervention, message):
    with pytest.raises(ValueError, match=message):
        ArceeLab(*demo, intervention=intervention)
    assert eval_interventions(None, demo[0]).values == ()


def test_exact_and_interventions_exclude_each_other(demo):
    with pytest.raises(ValueError, match="leave one of the two out"):
        ArceeLab(*demo, exact=True, intervention=PACKED["top-k"])
