"""Descriptions and their scores, with generators whose knowledge is known."""

import re

import numpy as np
import page_runs
import pytest
import torch

import arcee_lab as al
from arcee_lab.neurons.descriptions import judging, prompts
from arcee_lab.neurons.descriptions.description import JudgeScore, wilson
from arcee_lab.neurons.descriptions.generators import generator_of
from arcee_lab.neurons.pages.excerpts import Excerpt

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.fixture(scope="module")
def model():
    """A model whose neurons L0/N0 to N19 each fire at one letter: rows of up_proj read it."""
    from arcee_lab.model import ArceeConfig, ArceeForCausalLM

    torch.manual_seed(3)
    config = ArceeConfig(
        vocab_size=50, hidden_size=64, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = ArceeForCausalLM(config).eval()
    with torch.no_grad():
        block = model.model.layers[0]
        model.model.embed_tokens.weight.copy_(torch.eye(50, 64))
        block.self_attn.o_proj.weight.zero_()
        block.mlp.up_proj.weight.zero_()
        for unit in range(20):
            block.mlp.up_proj.weight[unit, 20 + unit] = 1  # token 20 is the letter A
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return page_runs.Plain()


@pytest.fixture(scope="module")
def run(model, tokenizer):
    return page_runs.run_of(model, tokenizer, n=120, top=6, strata=5, per_stratum=6, negatives=20)


class Reader:
    """A stand-in that names the marked letter, and answers from the letter it is told."""

    __name__ = "reader"

    def __init__(self):
        self.asked = []

    def __call__(self, asked):
        self.asked += asked
        return [self.one(prompt) for prompt in asked]

    def one(self, prompt):
        if prompt.endswith("Description:"):
            marked = re.findall("<<(.+?)>>", prompt.split("\n", 2)[2])
            letters = [letter for run in marked for letter in run]
            best = max(sorted(set(letters)), key=letters.count)
            return f" It fires at the letter {best}.\nMore that is not asked for."
        letter = re.search("the letter (.)", prompt)[1]
        rows = re.findall(r"^\d+\. (.*)$", prompt, flags=re.MULTILINE)
        if "some tokens are between" in prompt:
            marked = ["".join(re.findall("<<(.+?)>>", row)) for row in rows]
            answers = [set(some) == {letter} for some in marked]
        else:
            answers = [letter in row for row in rows]
        return f"Thinking [1] ... [{', '.join(str(int(x)) for x in answers)}]"


def test_a_right_description_scores_1_and_guesses_on_other_neurons(run, model, tokenizer):
    reader = Reader()
    found = al.neurons.explain(run, 0, 7, reader, model=model, tokenizer=tokenizer)
    letter = LETTERS[7]
    assert found.text == f"It fires at the letter {letter}."
    assert found.generator == "reader"
    by_method = {score.method: score for score in found.scores}
    assert set(by_method) == {"detection", "fuzzing"}
    for score in found.scores:
        assert score.accuracy == 1
        assert score.n_yes >= 5
        assert score.n_no >= 5
        assert score.unread == 0
        assert score.interval[0] > 0.6
    # On other neurons' exemplars the letter is as frequent where they fire as where they do not.
    for score in found.shuffled:
        assert score.accuracy < 0.8
        assert score.interval[0] < 0.6


def test_what_was_shown_is_not_asked(run, model, tokenizer):
    reader = Reader()
    found = al.neurons.explain(run, 0, 7, reader, model=model, tokenizer=tokenizer, shown=3)
    assert found.n_shown == 3
    shown = {x.window for x in run.top(0, 7)[:3]}
    rest = [x for stratum in run.stratified(0, 7) for x in stratum if x.window not in shown]
    detection = found.scores[0]
    assert detection.n_yes == len(rest)
    assert detection.n_no == len(run.negatives(0, 7))
    description = reader.asked[0]
    texts = [re.sub("<<|>>", "", line) for line in re.findall(r"^\d+\. (.*)$", description, re.M)]
    assert len(texts) == 3
    asked = "\n".join(reader.asked[1 : 1 + -(-detection.n // judging.AT_ONCE)])
    assert not any(f". {text}\n" in asked for text in texts)


def test_the_same_seed_asks_the_same(run, model, tokenizer):
    readers = [Reader() for _ in range(3)]
    for reader, seed in zip(readers, (0, 0, 1), strict=True):
        al.neurons.explain(run, 0, 4, reader, model=model, tokenizer=tokenizer, seed=seed)
    assert readers[0].asked == readers[1].asked
    assert readers[0].asked != readers[2].asked


def test_another_judge_gets_the_questions(run, model, tokenizer):
    generator, judge = Reader(), Reader()
    found = al.neurons.explain(run, 0, 4, generator, model=model, tokenizer=tokenizer, judge=judge)
    assert len(generator.asked) == 1
    assert len(judge.asked) > 4
    assert found.generator == "reader; judge: reader"


def test_a_description_stands_on_the_page(run, model, tokenizer):
    found = al.neurons.explain(run, 0, 4, Reader(), model=model, tokenizer=tokenizer)
    page = al.neurons.page(run, 0, 4, tokenizer=tokenizer, description=found)
    for text in (page.html(), page._repr_html_()):
        assert "It fires at the letter E." in text
        assert "1.00" in text
        assert "shuffled" in text
    frame = found.frame()
    assert list(frame["method"]) == ["detection", "fuzzing"] * 2
    assert "detection 1.00" in found.headline
    with pytest.raises(al.errors.SettingError, match="description is of L0/N4"):
        al.neurons.page(run, 0, 5, tokenizer=tokenizer, description=found)


def test_answers_that_cannot_be_read_count_as_wrong(run, model, tokenizer):
    class Mute(Reader):
        def one(self, prompt):
            return super().one(prompt) if prompt.endswith("Description:") else "I cannot say."

    found = al.neurons.explain(run, 0, 4, Mute(), model=model, tokenizer=tokenizer)
    for score in found.scores:
        assert score.unread == score.n
        assert score.accuracy == 0


# ---------------------------------------------------------------------- arithmetic


def test_scores_by_hand():
    score = JudgeScore("detection", 8, 10, 3, 6)
    assert score.accuracy == pytest.approx((0.8 + 0.5) / 2)
    low, high = score.interval
    assert 0 <= low < score.accuracy < high <= 1
    assert np.isnan(JudgeScore("fuzzing", 0, 0, 1, 2).accuracy)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (3, 7), (50, 100)])
def test_wilson_solves_its_quadratic(right, n):
    """The bounds p of |share - p| = z sqrt(p (1 - p) / n)."""
    for bound in wilson(right, n):
        share = right / n
        expected = 1.959964 * (bound * (1 - bound) / n) ** 0.5
        assert abs(share - bound) == pytest.approx(expected, abs=1e-6)


def test_an_interval_holds_the_truth_nineteen_times_of_twenty():
    """A judge that is right with chance .8 on yes and .6 on no: balanced accuracy .7."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        hits, rejections = random.binomial(30, 0.8), random.binomial(20, 0.6)
        low, high = JudgeScore("x", int(hits), 30, int(rejections), 20).interval
        held += low <= 0.7 <= high
    # 400 draws: a share of .95 has standard error .011; nominal coverage is approximate.
    assert held / 400 > 0.92


# ---------------------------------------------------------------------- prompts


def excerpt(tokens, values, position=0):
    return Excerpt(
        kind="top", rank=0, stratum=None, window=0, document=0, domain="", position=position,
        value=max(values), start=0, length=len(tokens), ids=tuple(range(len(tokens))),
        tokens=tuple(tokens), counted=(True,) * len(tokens), values=tuple(values),
    )  # fmt: skip


def test_marks():
    x = excerpt(["The", " red", " king", " sat", "\n"], [0.0, 1.0, 0.9, 0.2, 0.0])
    assert prompts.active(x) == [1, 2]
    assert prompts.marked(x, prompts.active(x)) == "The <<red king>> sat↵"
    assert prompts.marked(x, []) == "The red king sat↵"
    assert prompts.marked(x, [0, 4]) == "<<The>> red king sat<<↵>>"


def test_marks_of_the_text_itself_are_no_marks():
    x = excerpt(["a <<b", ">> c", " d"], [0.0, 0.0, 1.0])
    assert prompts.marked(x, [2]).count("<<") == 1
    assert prompts.marked(x, [2]).count(">>") == 1


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("[1, 0, 1]", [True, False, True]),
        ("so: [1,0,1].", [True, False, True]),
        ("[1, 0] and then [0, 0, 1]", [False, False, True]),
        ("1, 0, 1", None),
        ("[1, 2, 0]", None),
        ("[1, 0]", None),
        ("", None),
    ],
)
def test_reading_answers(answer, read):
    assert prompts.read_list(answer, 3) == read


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Description: kings", "kings"),
        ("\n\n **Description:** kings\nmore", "kings"),
        ("kings", "kings"),
        ("  \n ", ""),
        ("x" * 5000, "x" * prompts.LONGEST),
    ],
)
def test_reading_descriptions(answer, text):
    assert prompts.read_description(answer) == text


def test_wrong_marks_are_as_many_and_silent():
    random = np.random.default_rng(0)
    excerpts = [excerpt("abcdef", [0.0, 0.0, 3.0, 3.0, 0.0, 0.0], position=2) for _ in range(10)]
    questions = judging.fuzzing(excerpts, random)
    assert sum(q.answer for q in questions) == 5
    for question in questions:
        marked = "".join(re.findall("<<(.+?)>>", question.text))
        assert len(marked) == 2
        assert (marked == "cd") == question.answer
        assert question.answer or not set(marked) & set("cd")


# ---------------------------------------------------------------------- generators


def test_a_transformers_model_answers(demo, tiny, monkeypatch):
    """Greedy answers of a batch are those of each prompt alone."""
    _, tokenizer = demo
    model = tiny(vocab_size=len(tokenizer), max_position_embeddings=256)
    generate, name = generator_of((model, tokenizer), max_new_tokens=5, batch_size=2)
    asked = ["The red king", "A lamp above the doors finds", "Who"]
    answers = generate(asked)
    for prompt, answer in zip(asked, answers, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        whole = model.generate(input_ids=ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
        assert answer == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
    assert name


def test_a_folder_and_a_pipeline_are_generators(demo, tmp_path):
    import transformers

    _, tokenizer = demo
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    other = transformers.GPT2LMHeadModel(config).eval()
    other.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generate, name = generator_of(str(tmp_path), max_new_tokens=4)
    assert name == str(tmp_path)
    pipeline = transformers.pipeline("text-generation", model=other, tokenizer=tokenizer)
    same, _ = generator_of(pipeline, max_new_tokens=4)
    assert generate(["The red king"]) == same(["The red king"])
    with pytest.raises(al.errors.SettingError, match="reads 64 at most"):
        same(["The red king " * 40])


BAD = [
    (3, al.errors.WrongType, "generator is int"),
    ("no/such/folder/", al.errors.CheckpointError, "neither a folder nor a Hub id"),
    ("./gone", al.errors.CheckpointError, "neither a folder nor a Hub id"),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD)
def test_no_generator(given, error, words):
    with pytest.raises(error, match=words) as caught:
        generator_of(given)
    assert str(caught.value).endswith(".")


def test_a_folder_without_a_model_and_a_pickle_are_refused(tmp_path, demo):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(al.errors.CheckpointError, match="cannot be loaded"):
        generator_of(str(tmp_path))
    import transformers

    config = transformers.GPT2Config(vocab_size=8, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    other = transformers.GPT2LMHeadModel(config)
    other.config.save_pretrained(tmp_path)
    demo[1].save_pretrained(tmp_path)
    torch.save(other.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(al.errors.CheckpointError, match="safetensors"):
        generator_of(str(tmp_path))


def test_a_generator_that_gives_too_few_answers():
    generate, _ = generator_of(lambda asked: ["one"])
    with pytest.raises(al.errors.ModelError, match="1 answers to 2 prompts"):
        generate(["a", "b"])


BAD_CALLS = [
    (dict(unit=22), al.errors.SettingError, "never fired"),
    (dict(unit=24), al.errors.SettingError, "expected 0 to 23"),
    (dict(shown=0), al.errors.SettingError, "expected at least 1"),
    (dict(generator=lambda asked: ["  "] * len(asked)), al.errors.ModelError, "gave no text"),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD_CALLS)
def test_bad_calls(run, model, tokenizer, given, error, words):
    call = {"unit": 4, "generator": Reader()} | given
    with pytest.raises(error, match=words) as caught:
        al.neurons.explain(
            run, 0, call.pop("unit"), call.pop("generator"),
            model=model, tokenizer=tokenizer, **call,
        )  # fmt: skip
    assert str(caught.value).endswith(".")
