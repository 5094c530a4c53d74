"""A page holds the numbers of the run, shows text as text, and stays small and fast."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import page_runs
import pytest
import torch

import arcee_lab as al
from arcee_lab.neurons.pages.excerpts import span
from arcee_lab.neurons.pages.html import MOST_BYTES, merged
from arcee_lab.neurons.pages.neuron_page import UnitEffects
from arcee_lab.neurons.pages.token_text import TokenText


@pytest.fixture(scope="module")
def model():
    from arcee_lab.model import ArceeConfig, ArceeForCausalLM

    torch.manual_seed(0)
    config = ArceeConfig(
        vocab_size=50, hidden_size=32, intermediate_size=72, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = ArceeForCausalLM(config).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[5] = 0  # a neuron that never fires
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return page_runs.Plain()


@pytest.fixture(scope="module")
def run(model, tokenizer):
    return page_runs.run_of(model, tokenizer)


def test_every_number_is_that_of_the_run(run, tokenizer):
    for layer in run.layers:
        for unit in range(0, run.d_mlp, 7):
            page = al.neurons.page(run, layer, unit, tokenizer=tokenizer)
            assert page.rate == float(run.rates(layer)[unit])
            assert page.n_fired == int(run.fired(layer)[unit])
            assert page.n_tokens == run.n_tokens
            assert page.maximum == float(run.maxima(layer)[unit])
            edges, counts = run.histogram(layer, unit)
            assert np.array_equal(page.edges, edges.numpy())
            assert np.array_equal(page.counts, counts.numpy())
            for shown, held in (
                (page.top, run.top(layer, unit)),
                *zip(page.strata, run.stratified(layer, unit), strict=True),
            ):
                assert [(x.window, x.document, x.position, x.value) for x in shown] == list(held)
            assert tuple(x.window for x in page.negatives) == run.negatives(layer, unit)
            for x in page.excerpts:
                whole = run.ids(x.window)
                assert x.ids == whole[x.start : x.start + len(x.ids)]
                assert x.text == tokenizer.decode(x.ids)
                assert x.length == len(whole)


def test_values_are_those_of_transformers_arcee(run, tokenizer, model):
    """relu(x W)² of transformers' own MLP, on each window alone: other batches, other padding."""
    from tiny_calls import reference_of

    reference = reference_of(model)
    layer = 2
    seen = {}
    reference.model.layers[layer].mlp.act_fn.register_forward_hook(
        lambda module, args, out: seen.update(post=out[0])
    )
    unit = int(run.fired(layer).argmax())
    page = al.neurons.page(run, layer, unit, tokenizer=tokenizer, model=model)
    assert page.values_seconds > 0
    for x in page.excerpts:
        with torch.no_grad():
            reference(input_ids=torch.tensor([run.ids(x.window)]))
        expected = seen["post"][x.start : x.start + len(x.ids), unit].clone()
        expected[~torch.tensor(x.counted)] = 0
        # The same fp32 sums in another order: 2^-24 per step, about a hundred of them.
        assert torch.allclose(torch.tensor(x.values), expected, rtol=1e-4, atol=1e-5)
        if x.position is not None:
            assert x.values[x.peak] == pytest.approx(x.value, rel=1e-4)
            assert max(x.values) == pytest.approx(x.value, rel=1e-4)
        else:
            assert not any(x.values)


def test_values_of_many_neurons_are_those_of_each(run, tokenizer, model):
    from arcee_lab.neurons.pages.many import pages

    units = [(0, 3), (2, 9), (1, 5), (2, 10)]
    together = list(pages(run, units, tokenizer=tokenizer, model=model, batch_size=3))
    for (layer, unit), page in zip(units, together, strict=True):
        alone = al.neurons.page(run, layer, unit, tokenizer=tokenizer, model=model)
        for x, y in zip(page.excerpts, alone.excerpts, strict=True):
            assert x.values == pytest.approx(y.values, rel=1e-4, abs=1e-5)


def test_a_neuron_that_never_fires_has_a_page_that_says_so(run, tokenizer, model):
    page = al.neurons.page(run, 1, 5, tokenizer=tokenizer, model=model)
    assert page.n_fired == 0
    assert not page.top
    assert not page.negatives
    for text in (page.headline, page.html(), page._repr_html_()):
        assert "never fired" in text
        assert f"N = {run.n_tokens:,} tokens" in text
        assert f"{3 / run.n_tokens:.3g}" in text
    assert len(page.frame()) == 0
    page.figure()


def test_frame_and_figure(run, tokenizer, model):
    units = range(run.d_mlp)
    unit = next(u for u in units if run.negatives(2, u) and run.top(2, u))
    page = al.neurons.page(run, 2, unit, tokenizer=tokenizer)
    frame = page.frame()
    assert len(frame) == len(list(page.excerpts))
    assert frame["value"].iloc[0] == page.maximum
    assert list(frame["kind"].unique()) == ["top", "stratum", "negative"]
    effects = UnitEffects(raises=(("$x$", 1.0),), lowers=(("<b>", -2.0),))
    figure = dataclasses.replace(page, effects=effects).figure(dark=True)
    assert len(figure.axes) == 2
    figure.savefig("/dev/null", format="png")


# ---------------------------------------------------------------------- hostile and large text


class Tags(HTMLParser):
    """Counts tags and collects attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text.append(data)


ALLOWED = {"p", "b", "span", "table", "tr", "td", "th", "details", "summary"}


def hostile_page(model, **replaced):
    tokenizer = page_runs.Hostile()
    model.name_or_path, kept = page_runs.NASTY, model.name_or_path
    try:
        run = page_runs.run_of(model, tokenizer, top=20, strata=10, per_stratum=3, negatives=20)
    finally:
        model.name_or_path = kept
    unit = int(run.fired(1).argmax())
    page = al.neurons.page(run, 1, unit, tokenizer=tokenizer, model=model)
    from arcee_lab.neurons.descriptions.description import Description, JudgeScore
    from arcee_lab.neurons.pages.neuron_page import UnitLabel

    nasty, pair = page_runs.NASTY, ((page_runs.NASTY, 1.0),) * 12
    return run, dataclasses.replace(
        page,
        effects=UnitEffects(pair, pair, nasty, {nasty: 1.0}, pair),
        labels=(UnitLabel(nasty, {nasty: 0.5}),),
        ablation={nasty: 1.0},
        description=Description(
            1, unit, nasty * 40, nasty, 3, (JudgeScore(nasty, 1, 2, 1, 2),), (), 0.1
        ),
        **replaced,
    )


def test_hostile_text_stays_text(model):
    _, page = hostile_page(model)
    found = Tags(page._repr_html_())
    assert found.tags <= ALLOWED | {"th", "div"}
    assert found.attributes <= {"style", "title", "open", "cellpadding", "rules"}
    assert "<script>" in "".join(found.text)  # it is there, as text
    whole = Tags(page.html())
    assert not whole.tags & {"script", "img", "iframe", "a", "link"}
    assert "onerror" not in whole.attributes
    for text in (page._repr_html_(), page.html()):
        assert "<script" not in text
        assert "<img" not in text
        assert len(text.encode()) <= MOST_BYTES


def test_an_index_and_a_table_of_contents_are_safe_too(model, tmp_path):
    run, _ = hostile_page(model)
    tokenizer = page_runs.Hostile()
    al.neurons.write_index(run, tmp_path / "index", tokenizer=tokenizer, progress=False)
    al.neurons.write_pages(run, [(0, 1)], tmp_path / "p", tokenizer=tokenizer, progress=False)
    files = list(tmp_path.rglob("*.html"))
    assert len(files) == 1 + 3 + 2
    for file in files:
        text = file.read_text()
        assert "<img" not in text
        assert text.count("<script") <= 1
        assert "<script>\ndocument.querySelectorAll" in text or "<script" not in text
        assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize("token", ["x" * 5000, "😀" * 200, "'" * 64, "\n" * 64])
def test_a_page_stays_within_its_bytes(model, token):
    class Long(page_runs.Plain):
        def decode(self, ids):
            return token

    tokenizer = Long()
    run = page_runs.run_of(model, tokenizer, top=20, strata=10, per_stratum=3, negatives=20)
    unit = int(run.fired(2).argmax())
    page = al.neurons.page(run, 2, unit, tokenizer=tokenizer, model=model)
    assert len(page.html().encode()) <= MOST_BYTES
    assert len(page._repr_html_().encode()) <= MOST_BYTES


def test_coloured_cells_have_both_colours_and_nothing_else_has_one(run, tokenizer, model):
    unit = int(run.fired(2).argmax())
    text = al.neurons.page(run, 2, unit, tokenizer=tokenizer, model=model)._repr_html_()
    styles = re.findall(r'style="([^"]*)"', text)
    painted = [style for style in styles if "color:" in style]
    assert len(painted) > 20
    from arcee_lab.views.scale import contrast

    for style in painted:
        if "height:10px" in style:
            continue  # a bar holds no text
        background, ink = re.fullmatch(r"background:(#\w{6});color:(#\w{6})", style).groups()
        assert contrast(background, ink) >= 4.5


# ---------------------------------------------------------------------- AFM's size


def test_pages_of_a_run_as_large_as_afm_are_whole_and_small():
    run, tokenizer = page_runs.large_run(), page_runs.Plain()
    assert len(run.layers) * run.d_mlp == 663_552
    random = np.random.default_rng(1)
    for _ in range(3):  # benchmarks/neurons.py says how long one takes
        layer, unit = int(random.integers(36)), int(random.integers(18_432))
        page = al.neurons.page(run, layer, unit, tokenizer=tokenizer)
        assert len(page.top) == 20
        assert len(page.html().encode()) <= MOST_BYTES


# ---------------------------------------------------------------------- small parts


def test_span():
    assert span(10, 100, 3, 2) == (7, 13)
    assert span(0, 100, 3, 2) == (0, 3)
    assert span(99, 100, 3, 2) == (96, 100)
    assert span(None, 10, 3, 2) == (2, 8)


def test_merged_bins_keep_the_sum():
    edges, counts = np.arange(21.0), np.r_[0, 0, np.arange(1, 17), 0, 0]
    joined_edges, joined = merged(edges, counts, 5)
    assert joined.sum() == counts.sum()
    assert len(joined) <= 5
    assert joined_edges[0] == 2
    assert joined_edges[-1] == 18
    assert list(merged(edges, np.zeros(20, dtype=int), 5)[1]) == []


def test_text_of_characters_that_span_tokens(demo):
    tokenizer = demo[1]
    ids = tokenizer("a 😀 b — é", add_special_tokens=False)["input_ids"]
    pieces = TokenText(tokenizer)(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    cut = TokenText(tokenizer)(ids[:3])  # within the character
    assert len(cut) == 3


def test_sentencepiece_spaces_are_kept():
    class Pieces:
        def decode(self, ids):
            return "the"

        def convert_ids_to_tokens(self, number):
            return "▁the"

    assert TokenText(Pieces())([7, 7]) == (" the", " the")


# ---------------------------------------------------------------------- bad input

BAD = [
    (dict(layer=3), al.errors.SettingError, "layers 0, 1, 2"),
    (dict(layer=-1), al.errors.SettingError, "layers 0, 1, 2"),
    (dict(unit=72), al.errors.SettingError, "expected 0 to 71"),
    (dict(unit=-1), al.errors.SettingError, "expected 0 to 71"),
    (dict(unit=True), al.errors.SettingError, "expected a whole number"),
    (dict(before=-1), al.errors.SettingError, "expected 0 to 512"),
    (dict(after=513), al.errors.SettingError, "expected 0 to 512"),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD)
def test_bad_calls(run, tokenizer, given, error, words):
    layer, unit = given.pop("layer", 0), given.pop("unit", 0)
    with pytest.raises(error, match=words) as caught:
        al.neurons.page(run, layer, unit, tokenizer=tokenizer, **given)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_another_model_is_refused(run, tokenizer, tiny):
    with pytest.raises(al.errors.OtherRun):
        al.neurons.page(run, 0, 0, tokenizer=tokenizer, model=tiny())
