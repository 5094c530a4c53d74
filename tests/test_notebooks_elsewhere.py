"""Every notebook runs to its end on other models and other texts, with no word to the network.

The parameter cell alone is changed. A part that cannot apply says so in one line; how many may do
so is part of the test, since a notebook that leaves everything out would run anywhere.
"""

import re

import pytest
from notebook_runs import ROOT, SOURCES, Runner, foreign_checkpoint

EACH = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
# What a random checkpoint cannot have: a log of its training, fp32 for sparse decoding, a head with
# names for its labels.
MAY_BE_LEFT_OUT = {
    "04_activation_sparsity": ("the history of training", "sparse decoding"),
}
OWN = """
Market days begin early at the harbour. Seven trucks were waiting at the gate before the sun came
up, and the drivers drank coffee from paper cups. Mr Olsen, who has been selling fish here since
1987, was cutting the first cod of the morning.

Nobody had expected so many visitors. The ferry from Lerwick was running late, the hotel was full,
and two families were sleeping in their cars near the old lighthouse. "We should have booked," said
one of the fathers, laughing.

By noon the wind was rising. Boats were coming in one after another, their decks shining with rain,
and the children were counting them: nine, ten, eleven. The twelfth never arrived that afternoon; it
was found on Thursday, 30 kilometres further south, with its engine still running.

What happened is still not known. The owner, Karin Berg, is convinced that the anchor line broke
during the night. The insurance company is asking for photographs, and it has offered 4,500 pounds
for the damage. She is not accepting it.
"""
OWN_LEAVES_OUT = {
    **MAY_BE_LEFT_OUT,
    "01_first_look": ("the passage",),  # of random weights no neuron is rare
    "04_activation_sparsity": (  # one text is one window
        *MAY_BE_LEFT_OUT["04_activation_sparsity"],
        "domains",
        "the probe",
        "firing together",
    ),
    "10_exercises": ("labels of plural nouns",),
}


@pytest.fixture(scope="module")
def runner():
    found = Runner()
    yield found
    found.close()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Six layers of transformers' own Arcee, random bf16 weights, a tokenizer without pad token."""
    return foreign_checkpoint(tmp_path_factory.mktemp("models") / "foreign")


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    return foreign_checkpoint(tmp_path_factory.mktemp("models") / "shallow", num_hidden_layers=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return foreign_checkpoint(
        tmp_path_factory.mktemp("models") / "tiny",
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=96,
    )


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    return foreign_checkpoint(
        tmp_path_factory.mktemp("models") / "deep",
        hidden_size=80,
        intermediate_size=64,
        num_hidden_layers=36,
        num_attention_heads=20,
        num_key_value_heads=4,
    )


def names(lines):
    return {line.removeprefix("Left out, ").split(":")[0] for line in lines}


@EACH
def test_on_a_foreign_checkpoint(source, runner, foreign):
    ran = runner.run(source, MODEL=str(foreign)).require()
    assert names(ran.left_out) <= set(MAY_BE_LEFT_OUT.get(source.stem, ()))
    shown = "".join(cell.stdout + str(cell.outputs) for cell in ran.cells)
    assert not [word for word in ("red king", "Say:", "Again:", "visited") if word in shown]


# The fast suite runs those in which most depends on the texts.
OF_TEXTS = ("01_first_look", "04_activation_sparsity", "05_dumps", "09_heads")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(path, marks=() if path.stem in OF_TEXTS else pytest.mark.slow, id=path.stem)
        for path in SOURCES
    ],
)
def test_on_own_texts(source, runner, shallow):
    ran = runner.run(source, MODEL=str(shallow), TEXTS=OWN).require()
    assert names(ran.left_out) <= set(OWN_LEAVES_OUT.get(source.stem, ()))


@pytest.mark.slow
@EACH
def test_on_own_kinds_of_texts_in_fp32(source, runner, shallow):
    first, *others = OWN.strip().split("\n\n")
    kinds = {"harbour": [first, others[0]], "sea": others[1:]}
    ran = runner.run(source, MODEL=str(shallow), TEXTS=kinds, DTYPE="float32").require()
    own_words = {"labels of plural nouns"} if source.stem == "10_exercises" else set()
    # Of random weights no neuron is rare.
    assert names(ran.left_out) <= {"the history of training", "the passage"} | own_words


# What one layer of one head cannot show: heads or neurons to compare with, or an earlier layer.
TINY_LEAVES_OUT = {
    "02_hooks": ("heads switched off",),
    "04_activation_sparsity": ("the history of training", "sparse decoding"),
    "08_attention_and_lenses": ("copying", "composition", "the tuned lens"),
}


@EACH
def test_on_long_texts_and_one_small_layer(source, runner, tiny):
    """Documents are longer than what the model reads at once, and no index of a unit is safe."""
    long = [" ".join(OWN.replace("seven", f"{n}").split()) * 4 for n in range(26)]
    ran = runner.run(source, MODEL=str(tiny), TEXTS=[f"{n}. {text}" for n, text in enumerate(long)])
    left = set(TINY_LEAVES_OUT.get(source.stem, ())) | set(OWN_LEAVES_OUT.get(source.stem, ()))
    assert names(ran.require().left_out) <= left
    shown = "".join(cell.stdout + str(cell.outputs) for cell in ran.cells)
    assert not re.findall(r".{60}\bnan\b.{20}", shown)


def test_evaluation_without_the_heads_of_some_tasks(runner, tmp_path):
    """A model of the demo's words has no heads of its own, and its LM is evaluated all the same."""
    from transformers import ArceeConfig, ArceeForCausalLM

    import arcee_lab as al

    _, tokenizer = al.load("demo")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    config = ArceeConfig(vocab_size=len(tokenizer), **sizes, **heads, **tokens)
    ArceeForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    source = next(one for one in SOURCES if one.stem == "06_evaluate")
    ran = runner.run(source, MODEL=str(tmp_path)).require()
    assert names(ran.left_out) == {f"arcee_demo_{name}" for name in ("sentiment", "ner", "qa")}


@pytest.mark.slow
@EACH
def test_on_a_deep_checkpoint(source, runner, deep):
    ran = runner.run(source, timeout=900, MODEL=str(deep)).require()
    assert names(ran.left_out) <= set(MAY_BE_LEFT_OUT.get(source.stem, ()))


@pytest.mark.parametrize(
    ("name", "cell", "after"),
    [
        ("04_activation_sparsity", 'lesson.part("the zeros")', 1.0),
        ("05_dumps", 'lesson.part("the store")', 0.1),
        ("06_evaluate", 'lesson.part("a clean run")', 1.5),
        ("08_attention_and_lenses", 'lesson.part("the tuned lens")', 1.5),
    ],
)
def test_an_interrupt_ends_a_long_cell_with_one_line(runner, name, cell, after):
    source = next(one for one in SOURCES if one.stem == name)
    hooks = (
        "inner = lm.model if 'lm' in globals() else model\n"
        "hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in inner.modules()]\n"
        "print(sum(hooks), next(part.done for part in lesson.parts.values() if part.why))"
    )
    ran = runner.run(source, stop=cell, after=after, then=hooks)
    stopped, then = ran.cells[-2:]
    assert stopped.error.startswith("_Stopped: Stopped, ")
    assert len(stopped.stdout.strip().splitlines()) == 1, stopped.stdout
    assert stopped.stdout.startswith("Stopped, ")
    assert then.stdout == "0 False\n", "no hook is left"


def test_a_request_would_be_seen(runner, tmp_path):
    source = tmp_path / "99_request.py"
    source.write_text(
        "# %%\nimport urllib.request\ntry:\n    urllib.request.urlopen('http://example.org')\n"
        "except OSError as error:\n    print('refused')\n"
    )
    ran = runner.run(source)
    assert ran.cells[0].stdout == "refused\n"
    assert ran.calls


def test_a_failing_cell_would_be_seen(runner, tmp_path):
    source = tmp_path / "98_bad.py"
    source.write_text("# %%\n1 / 0\n\n# %%\nprint('never')\n")
    ran = runner.run(source)
    assert len(ran.cells) == 1
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        ran.require()


def test_the_notebooks_are_found():
    assert len(SOURCES) >= 8
    assert SOURCES[0].parent == ROOT / "notebooks"
