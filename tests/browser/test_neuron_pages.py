"""Pages of neurons in a real browser: from the disk, without a request, readable, sortable."""

import pytest

import arcee_lab as al

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(demo, tmp_path_factory):
    model, tokenizer = demo
    texts = [document.text for document in al.demo.documents(n=80, seed=2, split="test")]
    run = al.neurons.exemplars(model, tokenizer, texts, progress=False)
    effects = al.neurons.effects(model, tokenizer)
    out = tmp_path_factory.mktemp("neurons")
    settings = {"tokenizer": tokenizer, "effects": effects, "progress": False}
    al.neurons.write_pages(run, [(2, 681), (2, 0)], out / "pages", model=model, **settings)
    al.neurons.write_index(run, out / "index", **settings)
    return out


@pytest.fixture(params=["light", "dark"])
def opened(chromium, request):
    """Opens a file; what it asked for and what went wrong is in `requests` and `problems`."""
    context = chromium.new_context(
        color_scheme=request.param, offline=True, viewport={"width": 1000, "height": 800}
    )
    page = context.new_page()
    page.requests, page.problems = [], []
    page.on("request", lambda sent: page.requests.append(sent.url))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text))

    def go(path):
        page.goto(path.as_uri())
        return page

    yield go
    context.close()


def readable(page):
    """The least contrast of any text with what is behind it."""
    from arcee_lab.views.scale import contrast

    pairs = page.evaluate(
        """() => [...document.querySelectorAll('body *')]
            .filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
            .map(e => {
                let back = e;
                while (getComputedStyle(back).backgroundColor == 'rgba(0, 0, 0, 0)')
                    back = back.parentElement;
                return [getComputedStyle(e).color, getComputedStyle(back).backgroundColor];
            })"""
    )
    assert len(pairs) > 30
    return min(contrast(*map(_hex, pair)) for pair in pairs)


def _hex(colour):
    numbers = [int(word) for word in colour.removeprefix("rgb(").rstrip(")").split(",")]
    return "#" + "".join(f"{number:02x}" for number in numbers)


def test_a_page_opens_from_the_disk(opened, folder):
    file = folder / "pages" / "L2-N681.html"
    page = opened(file)
    assert page.requests == [file.as_uri()]
    assert page.problems == []
    assert page.evaluate("document.scripts.length") == 0
    assert page.get_by_role("heading", name="Largest values").is_visible()
    assert readable(page) >= 4.5
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_contents_lead_to_the_pages(opened, folder):
    page = opened(folder / "pages" / "index.html")
    page.get_by_role("link", name="L2/N681").click()
    assert page.title() == "L2/N681 of demo"
    assert page.problems == []


def test_the_index_sorts_and_makes_no_request(opened, folder):
    file = folder / "index" / "layer-02.html"
    page = opened(file)
    assert page.requests == [file.as_uri()]
    rows = page.locator("tbody tr")
    assert rows.count() == 896
    rates = "rows => rows.map(row => Number(row.cells[1].dataset.v))"
    page.get_by_role("button", name="rate").click()
    falling = rows.evaluate_all(rates)
    assert falling == sorted(falling, reverse=True)
    page.get_by_role("button", name="rate").click()
    assert rows.evaluate_all(rates) == sorted(falling)
    page.get_by_role("button", name="neuron").click()
    assert rows.first.inner_text().startswith("L2/N0")
    assert page.problems == []
    assert readable(page) >= 4.5
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_script_in_a_token_would_not_run(opened, folder, tmp_path):
    """The policy of the page names the one script that may run."""
    text = (folder / "index" / "layer-02.html").read_text()
    file = tmp_path / "changed.html"
    file.write_text(text.replace("<tbody>", "<tbody><script>document.title='owned'</script>", 1))
    page = opened(file)
    assert page.title() == "Layer 2 of demo"
    assert any("Content Security Policy" in problem for problem in page.problems)
