"""Figures follow the page: SVG with variables for its ink, PNG for any page in the same bundle."""

import base64
import html
import io
import itertools
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from arcee_lab.views.figures.drawing import palette
from arcee_lab.views.figures.drawing.svg import svg
from arcee_lab.views.scale import CATEGORIES, DIVERGING, SEQUENTIAL, colour, contrast

STYLE = re.compile(r"<style>:root\{.*?</style>")


def draw(dark=False):
    from arcee_lab.views.figures.curves import Line, lines

    x = np.arange(1, 9)
    curves = [Line("one <b>", x, x / 9), Line("two", x, x / 8), Line("", x, x / 7, None, True, 0)]
    return lines(curves, x="lag", y="share & part", title="A & <B> $x", log_x=True, dark=dark)


def cells(rows, columns, seed=0):
    from arcee_lab.views.figures.attention_heads import head_map

    values = np.random.default_rng(seed).random((rows, columns))
    return head_map(values, [str(row) for row in range(rows)], what="share", title="Heads")


@pytest.mark.parametrize("dark", [False, True])
def test_ink_is_a_variable_and_no_fixed_one_is_left(dark):
    text = svg(draw(dark), title="A & <B>")
    (style,) = STYLE.findall(text)
    assert "@media (prefers-color-scheme:dark)" in style
    for name, value in palette.LIGHT.items():
        assert f"--{name}:{value}" in style.split("@media")[0]
        assert f"--{name}:{palette.DARK[name]}" in style.split("@media")[1]
    rest = STYLE.sub("", text)
    for value in (*palette.LIGHT.values(), *palette.DARK.values()):
        assert value not in rest
    assert "var(--ink)" in rest
    # Nothing has a colour of the renderer's own, which would vanish on one of the grounds.
    for found in re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{6})", rest):
        assert found in (*CATEGORIES, palette.EITHER)
    assert "<title>A &amp; &lt;B&gt;</title>" in text


def test_an_svg_says_what_the_figure_says():
    """Fewer digits of places must not cost digits of numbers."""
    from arcee_lab.views.figures.scatter import scatter

    x = np.array([0.0, 1.0])
    told = ("r = 0.12345 over 2", "x < 0.0051", "y & 1.23456 ↵ -- 7")
    figure = scatter(x, x, ["3.14159", "b"], across=told[1], up=told[2], title=told[0])
    shown = [html.unescape(one) for one in re.findall(r"<text[^>]*>(.*?)</text>", svg(figure))]
    assert {*told, "3.14159", "b"} <= set(shown)


@pytest.mark.parametrize("figure", [draw, lambda: cells(6, 4)])
def test_a_small_svg_draws_what_the_renderer_wrote(figure):
    """Every path, mark, image and text is left, below the same attributes in the same order."""

    def drawn(text):
        found = []

        def walk(element, above):
            name = element.tag.rpartition("}")[2]
            told = {key for key in element.attrib if key != "id"} - {"style", "class"}
            if name in ("path", "use", "text", "image"):
                found.append((name, element.text if name == "text" else None, above))
            for child in element:
                walk(child, above + tuple(sorted(told)) * (name == "g"))

        walk(ElementTree.fromstring(text), ())
        return found

    made, buffer = figure(), io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        made.draw_without_rendering()
        made.savefig(buffer, format="svg")
    small = svg(made)
    assert drawn(small) == drawn(buffer.getvalue())
    assert "<g>" not in small


def test_no_ink_is_a_colour_of_data():
    inks = {*palette.LIGHT.values(), *palette.DARK.values()}
    assert not inks & {*CATEGORIES, *SEQUENTIAL, *DIVERGING}
    assert len({*inks, palette.EITHER}) == 7
    assert palette.EITHER not in {*CATEGORIES, *SEQUENTIAL, *DIVERGING}


def test_ink_reads_on_its_paper():
    for colours in (palette.LIGHT, palette.DARK):
        assert contrast(colours["ink"], colours["paper"]) >= 7
        assert contrast(colours["soft"], colours["paper"]) >= 4.5
    for ground in ("#ffffff", "#111111"):  # JupyterLab's
        ink = palette.LIGHT["ink"] if ground == "#ffffff" else palette.DARK["ink"]
        assert contrast(ink, ground) >= 7


def test_data_stand_out_from_both_papers():
    """WCAG 1.4.11 asks 3:1 of what carries meaning."""
    strong = (SEQUENTIAL[-1], DIVERGING[0], DIVERGING[-1])
    for one in (*CATEGORIES, *strong):
        for paper in (palette.LIGHT["paper"], "#111111"):
            assert contrast(one, paper) >= 3, one


def test_a_value_has_one_colour_on_light_and_dark_pages():
    light, dark = ((draw_cells(dark).axes[0].collections[0].to_rgba(0.5)) for dark in (False, True))
    assert tuple(light) == tuple(dark)


def draw_cells(dark):
    from arcee_lab.views.figures.attention_heads import head_map

    return head_map(np.eye(3), list("abc"), what="share", dark=dark)


def test_figures_and_tables_have_the_same_colours():
    from matplotlib.colors import to_hex

    from arcee_lab.views.figures.figure import diverging, sequential

    for share in np.linspace(0.01, 1, 23):
        for kind, scale, at in (
            ("sequential", sequential(), share),
            ("diverging", diverging(), (share + 1) / 2),
        ):
            told = colour(share, 1.0, kind=kind)
            if told is None:
                continue
            pairs = zip(bytes.fromhex(told.background[1:]),
                        bytes.fromhex(to_hex(scale(at))[1:]), strict=True)  # fmt: skip
            # 512 steps of the map: one step is less than 6 of 255 where the scale is steepest.
            assert max(abs(one - other) for one, other in pairs) <= 6


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", 2009: severity 1, linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def lab(hexadecimal, seen):
    """CIELAB of a colour as these eyes see it."""
    rgb = np.array([int(hexadecimal[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(np.array(seen) @ linear, 0, 1) / (0.9505, 1, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", BLINDNESS)
def test_every_two_categories_differ_for_all_eyes(eyes):
    """A just noticeable difference is about 2.3; lines ask for several of them."""
    seen = [lab(one, BLINDNESS[eyes]) for one in CATEGORIES]
    apart = [np.linalg.norm(a - b) for n, a in enumerate(seen) for b in seen[:n]]
    assert min(apart) > 15


@pytest.mark.parametrize("eyes", BLINDNESS)
def test_scales_order_by_lightness_for_all_eyes(eyes):
    shares = np.linspace(0.02, 1, 25)
    for sign, kind in ((1, "sequential"), (1, "diverging"), (-1, "diverging")):
        shades = [colour(sign * share, 1.0, kind=kind) for share in shares if share >= 0.03]
        lightness = [lab(shade.background, BLINDNESS[eyes])[0] for shade in shades]
        assert all(a > b for a, b in itertools.pairwise(lightness))


def test_a_bundle_has_svg_png_and_text():
    from PIL import Image

    bundle = draw()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png", "image/svg+xml"}
    assert bundle["text/plain"] == "Figure(A & <B> $x)"
    assert bundle["image/svg+xml"].startswith("<svg ")
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.size == (500, 330)
    assert draw()._repr_mimebundle_() == bundle  # the same bytes again


@pytest.mark.parametrize("dark", [False, True])
def test_a_png_of_a_notebook_reads_on_light_and_dark_pages(dark):
    """Its paper is the page; nothing in it has the ink of one kind of page alone."""
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(draw(dark)._repr_png_())).convert("RGBA"))
    colours, alpha = picture[..., :3].astype(int), picture[..., 3]
    assert not alpha[0].any()
    assert not alpha[-1].any()
    for ground in ("#ffffff", "#111111", "#0d1117"):
        assert contrast(palette.EITHER, ground) > 4.3
    # Text is in the grey, and drawn opaque somewhere: in the title above the axes.
    grey = (colours == list(bytes.fromhex(palette.EITHER[1:]))).all(axis=-1)
    assert (grey & (alpha == 255))[:30].sum() > 50
    for inks in (palette.LIGHT, palette.DARK):
        for part in ("ink", "paper"):
            off = np.abs(colours - list(bytes.fromhex(inks[part][1:]))).max(axis=-1)
            assert not ((off <= 2) & (alpha > 0)).any(), (part, inks[part])


def test_a_small_png_keeps_the_colours_of_small_marks():
    """Few dots among many pixels of ink, paper and one other colour must not take its colour."""
    from PIL import Image

    from arcee_lab.views.figures.forest import found_bars

    names = [f"label {n}" for n in range(30)]
    figure = found_bars(
        names, [(0.9, 0.8, 1.0)] * 30, {"shuffled": [0.2] * 30, "untrained": [0.4] * 30}
    )
    picture = Image.open(io.BytesIO(figure._repr_png_())).convert("RGB")
    there = {colour for _, colour in picture.getcolors(maxcolors=1 << 20)}
    for category in CATEGORIES[:3]:
        assert tuple(bytes.fromhex(category[1:])) in there


def test_a_small_png_keeps_the_colours_of_scales():
    """A cell must not take the hue of a category that happens to be near."""
    from PIL import Image

    from arcee_lab.views.figures.drawing.pixels import reduced

    for kind, ends in (("sequential", (0.03, 1.0)), ("diverging", (-1.0, 1.0))):
        shades = [colour(value, 1.0, kind=kind) for value in np.linspace(*ends, 301)]
        row = np.array([[list(bytes.fromhex(one.background[1:])) for one in shades if one]])
        alpha = np.full((*row.shape[:2], 1), 255)
        alpha[0, -1] = 0
        picture = Image.fromarray(np.concatenate([row, alpha], axis=2).astype(np.uint8), "RGBA")
        shown = np.asarray(reduced(picture).convert("RGBA")).astype(int)
        # 48 steps of a side: half a step is less than 6 of 255 where the scale is steepest; and
        # Pillow looks colours up in boxes of 4.
        assert np.abs(shown[0, :-1, :3] - row[0, :-1]).max() <= 6 + 4
        assert (shown[0, :-1, 3] == 255).all()
        assert shown[0, -1, 3] == 0, "what is transparent stays so"


def test_a_long_title_over_long_names_leaves_room_for_the_axes():
    import warnings

    from arcee_lab.views.figures.forest import found_bars

    names = ["plural subject in scope  L3/N594", "a"]
    title = "Best neuron per label: F1 0.53 to 1.00 on other documents, " * 3
    figure = found_bars(names, [(0.9, 0.8, 1.0)] * 2, {"untrained": [0.4] * 2}, title=title)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where axes would have no size
        figure._repr_png_()
    (axes,) = figure.axes
    assert axes.bbox.width > 0.4 * figure.bbox.width
    box = axes._left_title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y1 <= figure.bbox.height


def test_ipython_takes_the_whole_bundle():
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(draw())
    assert {"image/svg+xml", "image/png", "text/plain"} <= set(data)


@pytest.mark.parametrize("shape", [(4, 4), (36, 20), (36, 64)])
def test_views_are_small(shape):
    bundle = cells(*shape)._repr_mimebundle_()
    assert len(bundle["image/svg+xml"]) <= 60_000
    assert len(bundle["image/png"]) <= 60_000


def test_36_layers_as_lines_ridges_and_rows_are_small():
    from arcee_lab.views.figures.curves import Line, lines
    from arcee_lab.views.figures.layers import nested_bars, rate_ridges

    rng = np.random.default_rng(0)
    x = np.arange(100)
    many = lines([Line(f"layer {n}", x, rng.random(100) + n) for n in range(36)], x="x", y="y")
    rates = [10 ** (-4 * rng.random(500)) for _ in range(36)]
    ridges = rate_ridges(rates, floor=1e-4, floor_name="left", what="rate")
    share = rng.random(36)
    bars = nested_bars([share, share / 2, share / 4], list("abc"), what="share")
    for figure in (many, ridges, bars):
        assert len(svg(figure)) <= 60_000


def labels(figure):
    """All texts of a figure with their boxes in pixels, after it was laid out."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    found = figure.findobj(lambda one: isinstance(one, Text) and one.get_text().strip())
    hidden = {
        tick.label1
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    return [(text, text.get_window_extent()) for text in found if text not in hidden]


def deep():
    """The maps and bars of a model of 36 layers of 20 heads, on 40 tokens."""
    from arcee_lab.views.figures.effects import effect_map
    from arcee_lab.views.figures.layers import share_bars
    from arcee_lab.views.figures.lens import lens_map
    from arcee_lab.views.figures.patterns import patterns
    from arcee_lab.views.figures.raster import raster

    rng = np.random.default_rng(0)
    layers, words = [str(n) for n in range(36)], [f" word{n}" for n in range(40)]
    share = rng.random(36) / 20
    told = {"what": "active", "spread": "5 % to 95 %", "baseline_name": "untrained"}
    axes = {"across": "position", "down": "layer", "what": "share"}
    return {
        "heads": lambda: cells(36, 20),
        "effects": lambda: effect_map(rng.normal(size=(36, 40)), layers, words, **axes),
        "bars": lambda: share_bars(share, share / 2, share * 2, baseline=0.5, **told),
        "raster": lambda: raster(rng.random((48, 40)), words, [f"L{n}/N18" for n in range(48)],
                         notes=["12.5%"] * 48),
        "lens": lambda: lens_map(rng.random((73, 12)), [words[:12]] * 73, list(map(str, range(73))),
                         words[:12]),
        "patterns": lambda: patterns(rng.random((2, 20, 20)), words[:20], ["2.1", "3.0: answer"]),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["heads", "effects", "bars", "raster", "lens", "patterns"])
def test_labels_at_36_layers_are_large_enough_and_do_not_collide(name):
    """A page of 400 pixels shows the 480 of a figure at 376 / 480 of its size."""
    figure = deep()[name]()
    found = labels(figure)
    wide = figure.get_size_inches()[0] * 96
    for text, _ in found:
        assert text.get_fontsize() * 96 / 72 * 376 / wide >= 8.8, text
    for axes in figure.axes:
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [tick.get_window_extent() for tick in ticks if tick.get_text()]
            for one, other in itertools.pairwise(boxes):
                apart = min(one.x1, other.x1) - max(one.x0, other.x0) < 1 or (
                    min(one.y1, other.y1) - max(one.y0, other.y0) < 1
                )
                assert apart
    page = figure.bbox
    for text, box in found:
        assert box.x0 >= -1, text
        assert box.x1 <= page.width + 1, text
        assert box.y0 >= -1, text
        assert box.y1 <= page.height + 1, text


def test_every_word_and_every_layer_is_named():
    for name, most in (("effects", 40), ("raster", 40)):
        shown = {text.get_text() for text, _ in labels(deep()[name]())}
        assert {f"word{n}" for n in range(most)} <= shown
    assert {str(n) for n in range(36)} <= {text.get_text() for text, _ in labels(deep()["heads"]())}


def test_text_in_cells_reads_on_them():
    from matplotlib.colors import to_hex

    from arcee_lab.views.figures.effects import effect_map

    values = np.linspace(-1, 1, 48).reshape(6, 8)
    for dark, paper in ((False, "#ffffff"), (True, "#111111")):
        figure = effect_map(
            values, list("abcdef"), list("ABCDEFGH"), across="", down="", what="", dark=dark
        )
        axes = figure.axes[0]
        mesh = axes.collections[0]
        backs = mesh.to_rgba(mesh.get_array()).reshape(-1, 4)
        assert len(axes.texts) == 48
        for text, back in zip(axes.texts, backs, strict=True):
            ground = to_hex(back) if back[3] else paper
            assert contrast(to_hex(text.get_color()), ground) >= 4.5
