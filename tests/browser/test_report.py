"""report.html in a real browser: offline, no script, no request, readable in light and dark."""

import os
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.browser

NASTY = '<script>document.title="owned"</script><img src=https://example.org/x onerror=alert(1)>'


class Nasty:
    """A tokenizer whose every token is an attack."""

    bos_token_id, pad_token_id = 1, 0

    def __call__(self, texts, verbose=True):
        return {"input_ids": [[1, *(3 + ord(c) % 30 for c in text)] for text in texts]}

    def decode(self, ids):
        return NASTY


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on a small random model."""
    from arcee_lab.data.windows import cut
    from arcee_lab.model import ArceeConfig, ArceeForCausalLM
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.report.html_page import save_page

    torch.manual_seed(0)
    config = ArceeConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = ArceeForCausalLM(config).eval()
    model.name_or_path = NASTY
    windows = cut(Nasty(), ["the keys to the cabinet are on the table", "a boat"], context=32)
    folder = tmp_path_factory.mktemp("report")
    save_page(folder, measure(model, Nasty(), windows), model, Nasty(), windows)
    return folder / "report.html"


@pytest.fixture(params=["light", "dark"])
def page(chromium, report, request):
    """The opened page, with what it asked for and what went wrong."""
    context = chromium.new_context(
        color_scheme=request.param, offline=True, viewport={"width": 1000, "height": 800}
    )
    page = context.new_page()
    page.requests, page.problems, page.scheme = [], [], request.param
    page.on("request", lambda sent: page.requests.append(sent.url))
    page.on("requestfailed", lambda failed: page.problems.append(failed.url))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text))
    page.goto(report.as_uri())
    yield page
    context.close()


def test_opens_offline_without_a_request(page, report):
    sent = [url for url in page.requests if not url.startswith("data:")]
    assert sent == [report.as_uri()]
    assert page.problems == []
    assert page.evaluate("document.scripts.length") == 0


def test_shows_headings_figures_and_the_table(page):
    for heading in ("Exact zeros by layer", "Layers in numbers", "How often neurons fire"):
        assert page.get_by_role("heading", name=heading, exact=True).is_visible()
    for picture in page.get_by_role("img").all():
        assert picture.evaluate("image => image.complete && image.naturalWidth > 300")
    # One passage, zeros, rates, layer by token, and the thirteen results of the core and the pass.
    links = page.get_by_role("navigation").get_by_role("link")
    assert links.count() == page.get_by_role("heading", level=2).count()
    assert page.get_by_role("img").count() == 4 + 13
    table = page.get_by_role("table").first
    assert table.is_visible()
    assert table.get_by_role("row").count() == 1 + 3


def test_token_text_stays_text(page):
    assert page.title().startswith("Activation sparsity of <script>")
    strip = page.locator("span[title]").first
    assert strip.inner_text() == NASTY
    assert page.locator("img[src^='https']").count() == 0


def test_is_readable_in_both_schemes(page):
    """Text against its background, by WCAG, for every element that has text of its own."""
    from arcee_lab.views.scale import contrast

    pairs = page.evaluate(
        """() => [...document.querySelectorAll('body *')]
            .filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
            .map(e => {
                let back = e;
                while (getComputedStyle(back).backgroundColor == 'rgba(0, 0, 0, 0)')
                    back = back.parentElement;
                return [getComputedStyle(e).color, getComputedStyle(back).backgroundColor,
                        e.tagName];
            })"""
    )
    assert len(pairs) > 50
    for ink, paper, tag in pairs:
        assert contrast(_hex(ink), _hex(paper)) >= 4.5, (tag, ink, paper)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"
    assert dark == (page.scheme == "dark")


def test_a_drawing_has_the_colours_of_the_page(page):
    """An SVG in an image follows the scheme of the page: its title is dark on light, or light."""
    found = page.get_by_role("img").first.evaluate(
        """async image => {
            await image.decode();
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.naturalWidth, 60];
            const brush = canvas.getContext('2d');
            brush.drawImage(image, 0, 0);
            const data = brush.getImageData(0, 0, canvas.width, 60).data;
            let [sum, count] = [0, 0];
            for (let at = 0; at < data.length; at += 4)
                if (data[at + 3] > 250) { sum += data[at + 1]; count += 1; }
            return [sum / count, count];
        }"""
    )
    mean, count = found
    assert count > 50
    assert (mean > 128) == (page.scheme == "dark")


def test_does_not_scroll_sideways_on_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_screenshots_for_eyes(page, tmp_path):
    folder = Path(os.environ.get("ARCEE_LAB_SCREENSHOTS", tmp_path))
    shot = folder / f"report-{page.scheme}.png"
    page.screenshot(path=str(shot), full_page=True)
    assert shot.stat().st_size > 20_000


def _hex(colour):
    red, green, blue = (int(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"
