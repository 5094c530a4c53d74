"""The explorer in a real JupyterLab: one server, one notebook, one page for most tests.

The tests of the first part share a page and run in order; each one sets what it needs.
"""

import base64
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from arcee_lab.views.scale import colour

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]

NASTY = "<img src=x onerror=window.HACK=1><script>window.HACK=2</script>"
SETUP = """
import arcee_lab as al
model, tokenizer = al.load("demo")
labels = al.neurons.labels.demo("story", n=40)
run = al.neurons.exemplars(model, tokenizer, labels.texts, progress=False)
found = al.neurons.find(
    model, tokenizer, labels, names=["plural noun", "adjective"],
    shuffles=2, untrained=False, progress=False,
)
explorer = al.explore(model, tokenizer, run, found=found)
explorer
"""
NASTY_SETUP = f"""
import dataclasses

class Nasty:
    "A tokenizer whose every token is an attack."
    def __init__(self, inner):
        self.inner = inner
    def __call__(self, *args, **kwargs):
        return self.inner(*args, **kwargs)
    def __getattr__(self, name):
        return getattr(self.inner, name)
    def decode(self, ids, **kwargs):
        return {NASTY!r}

bad = dataclasses.replace(
    found, labels=tuple(dataclasses.replace(one, label={NASTY!r}) for one in found.labels)
)
nasty = al.explore(model, Nasty(tokenizer), run, found=bad, selection=["L2/N681"])
nasty
"""
RUN = """async ([code, seconds]) => {
    const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
    const future = kernel.requestExecute({code, store_history: false, stop_on_error: false});
    let out = '';
    future.onIOPub = message => {
        if (message.header.msg_type === 'stream') out += message.content.text;
        if (message.header.msg_type === 'error') out += 'ERROR ' + message.content.evalue;
    };
    await future.done;
    return out.trim();
}"""
IDLE = """() => window.jupyterapp?.shell?.currentWidget?.context?.sessionContext?.session?.kernel
    ?.status === 'idle'"""
# A 404 that JupyterLab causes in every notebook, and what chromium says of a missing GPU.
NOT_OURS = re.compile(r"404|favicon|WebGL|GPU|ResizeObserver|net::ERR|Failed to load resource")
SHADES = """cells => cells.map(
    cell => (cell.style.backgroundColor.match(/\\d+/g) ?? []).map(Number)
)"""
# From an input to the answer that is drawn, in the browser's own time.
UNTIL = """async ([act, panel, wanted]) => {
    const began = performance.now();
    const box = document.querySelector('.alx').querySelector(`[id$="${panel}-panel"]`);
    const input = document.querySelector('.alx .alx-text input');
    const done = new Promise((good, bad) => {
        const look = () => {
            if (box.dataset.shown === wanted) { watcher.disconnect(); good(performance.now()); }
        };
        const watcher = new MutationObserver(look);
        watcher.observe(box, {attributes: true});
        setTimeout(() => bad(new Error('not shown: ' + box.dataset.shown)), 15000);
    });
    if (act.text !== undefined) {
        input.value = act.text;
        input.dispatchEvent(new Event('input', {bubbles: true}));
    } else box.querySelector(act.press).click();
    return (await done) - began;
}"""


def notebook(folder, name, *cells):
    """Writes a notebook of code cells, some with outputs, and gives its file name."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})  # else a dialog asks for one
    for cell in cells:
        code, outputs = cell if isinstance(cell, tuple) else (cell, [])
        book.cells.append(nbformat.v4.new_code_cell(code.strip(), outputs=outputs))
    nbformat.write(book, folder / name)
    return name


class Lab:
    """An open notebook."""

    def __init__(self, browser, server, name):
        context = browser.new_context(viewport={"width": 1500, "height": 1150})
        context.set_default_timeout(30_000)
        self.context, self.page, self.problems = context, context.new_page(), []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console",
            lambda said: said.type == "error" and self.problems.append(said.text),
        )
        self.page.goto(f"{server.url}/lab/tree/{name}?reset")

    def run_all(self):
        self.page.wait_for_function(IDLE, timeout=90_000)
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def python(self, code, seconds=60):
        """What code prints in the kernel."""
        return self.page.evaluate(RUN, [code, seconds])

    def says(self, code, wanted):
        """Waits until code prints something: what a view changes takes a moment to be known."""
        for _ in range(40):
            said = self.python(code)
            if said == wanted:
                return
            self.page.wait_for_timeout(100)
        assert said == wanted

    def theme(self, name):
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
            f"JupyterLab {name}",
        )
        dark = "false" if name == "Dark" else "true"
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{dark}'")

    def ours(self):
        return [text for text in self.problems if not NOT_OURS.search(text)]


@pytest.fixture(scope="module")
def lab(chromium, jupyter):
    opened = Lab(chromium, jupyter, notebook(jupyter.folder, "explorer.ipynb", SETUP, NASTY_SETUP))
    opened.run_all()
    opened.page.wait_for_function("document.querySelectorAll('.alx').length === 2", timeout=120_000)
    yield opened
    opened.context.close()


@pytest.fixture
def root(lab):
    """The first explorer, with nothing selected, in its first tab."""
    lab.python(
        "explorer.selection = (); explorer.tab = 'neurons'; explorer.factor = 0; "
        "explorer.text = 'The dogs near the old door'"
    )
    root = lab.page.locator(".alx").first
    root.locator("[role=tab]").first.scroll_into_view_if_needed()
    search = root.get_by_role("searchbox")
    if search.input_value():
        search.fill("")
    root.get_by_text("3,584 of 3,584").wait_for()
    return root


def tab(root, name):
    root.get_by_role("tab", name=name).click()


def test_renders_after_run_all(lab, root):
    assert root.get_by_role("tab").all_inner_texts() == [
        "Neurons", "Text", "Switch off", "Attention", "Lens",
    ]  # fmt: skip
    assert root.get_by_role("grid").get_by_role("row").count() == 1 + 13
    assert "3,584 of 3,584" in root.inner_text()
    assert lab.ours() == []


def test_a_click_selects_and_python_reads_it(lab, root):
    row = root.locator("tbody tr").nth(2)
    name = row.get_attribute("data-unit")
    row.click()
    root.locator(f".alx-detail[data-unit='{name}'][data-valued=true]").wait_for()
    lab.says("print(explorer.selection)", f"('{name}',)")
    other = root.locator("tbody tr").nth(4)
    other.click(modifiers=["Control"])
    lab.says("print(len(explorer.selection))", "2")
    assert row.get_attribute("aria-selected") == other.get_attribute("aria-selected") == "true"
    assert "fires at" in root.locator(".alx-detail").inner_text()


def test_python_selects_and_the_page_shows_it(lab, root):
    said = lab.python("explorer.selection = [(2, 681), found['adjective'].best]; print('set')")
    assert said == "set"
    root.get_by_role("button", name="Take out L2/N681").wait_for()
    assert root.locator(".alx-chip").count() == 3
    assert "is out of range" in lab.python("explorer.selection = ['L9/N1']")
    lab.says("print(len(explorer.selection))", "2")


def test_search_and_sort(lab, root):
    root.get_by_role("searchbox").fill("plural")
    root.get_by_text(re.compile(r"^5 of 3,584")).wait_for()
    root.get_by_role("button", name="label", exact=True).click()
    root.locator("th[data-sort=score][aria-sort=descending]").wait_for()
    best = lab.python("print(max(found['plural noun'].units, key=lambda one: one.f1).name)")
    root.locator(f"tbody tr:first-child[data-unit='{best}']").wait_for()
    root.get_by_role("searchbox").fill("L2/N681")
    root.locator("tbody tr:only-child[data-unit='L2/N681']").wait_for()
    root.get_by_role("searchbox").fill("")
    root.get_by_text("3,584 of 3,584").wait_for()


def test_scrolling_reaches_the_last_row(root):
    root.get_by_role("button", name="neuron", exact=True).click()
    root.locator("tbody tr:first-child[data-unit='L0/N0']").wait_for()
    root.locator(".alx-scroll").evaluate("box => { box.scrollTop = 1e9 }")
    root.locator("tbody tr:last-child[data-unit='L3/N895']").wait_for()
    root.locator(".alx-scroll").evaluate("box => { box.scrollTop = 0 }")
    root.locator("tbody tr:first-child[data-unit='L0/N0']").wait_for()


def test_typing_updates_activations(lab, root):
    lab.python("explorer.selection = ['L0/N541', 'L1/H3']")
    tab(root, "Text")
    box = root.get_by_role("textbox", name="Text")
    box.fill("")
    box.press_sequentially("The king sees red lamps", delay=40)
    panel = root.locator("[role=tabpanel][data-shown='The king sees red lamps']")
    panel.wait_for()
    shown = panel.locator("tbody tr").first.locator("td").all_inner_texts()
    wanted = lab.python(
        "import torch, json\n"
        "with torch.no_grad(), al.capture(model, 'layers.0.mlp.hook_post') as a:\n"
        "    model(**tokenizer('The king sees red lamps', return_tensors='pt'))\n"
        "print(json.dumps(a['layers.0.mlp.hook_post'][0, :, 541].tolist()))"
    )
    values = json.loads(wanted)
    assert max(values) > 0
    assert len(shown) == len(values)
    for text, value in zip(shown, values, strict=True):
        assert float(text.replace(",", "")) == pytest.approx(value, rel=0.005, abs=1e-6)
    # The same colours as Python's own views; one step of 256 apart at most, since it rounds alone.
    shades = panel.locator("tbody tr").first.locator("td").evaluate_all(SHADES)
    for shade, value in zip(shades, values, strict=True):
        wanted = colour(value, max(values))
        hexadecimal = "" if wanted is None else wanted.background.removeprefix("#")
        assert shade == pytest.approx(list(bytes.fromhex(hexadecimal)), abs=1)
    lab.says("print(explorer.text)", "The king sees red lamps")


def test_an_ablation_changes_the_table(lab, root):
    # The head that looks one token back, without which nothing is copied.
    lab.python("explorer.selection = [f'L0/H{h}' for h in range(4)]")
    tab(root, "Switch off")
    root.locator("[role=tabpanel]:not([hidden])[data-shown]").wait_for()
    root.locator("td.alx-number", has_text="−").first.wait_for()
    root.get_by_role("button", name="unchanged").click()
    finding = root.locator(".alx-finding")
    root.get_by_text(re.compile("The next token stays .*KL 0 nats")).wait_for()
    before = finding.inner_text()
    root.get_by_role("button", name="off", exact=True).click()
    lab.page.wait_for_function(
        "text => document.querySelector('.alx .alx-finding').textContent !== text",
        arg=before,
    )
    lab.says("print(explorer.factor)", "0.0")
    wanted = lab.python(
        "import torch\n"
        "edits = [al.Ablate('layers.0.self_attn.hook_z', heads=[0, 1, 2, 3])]\n"
        "batch = tokenizer(explorer.text, return_tensors='pt')\n"
        "with torch.no_grad(), al.intervene(model, edits):\n"
        "    p = model(**batch).logits[0, -1].softmax(-1)\n"
        "print(tokenizer.decode([int(p.argmax())]).strip(), f'{100 * float(p.max()):.1f}')"
    ).split()
    assert f"“{wanted[0]}” ({wanted[1]} %)" in finding.inner_text()


def test_attention_is_drawn_and_opens_a_head(lab, root):
    tab(root, "Attention")
    panel = root.locator("[role=tabpanel]:not([hidden])[data-drawn]")
    panel.wait_for()
    canvas = panel.locator("canvas").first
    assert canvas.evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x > 0)"
    )
    panel.get_by_role("combobox", name="layer").select_option("1")
    panel.get_by_role("combobox", name="head").select_option("2")
    lab.says("print(explorer.head)", "L1/H2")
    panel.get_by_text("What each token reads in L1/H2").wait_for()
    step = canvas.evaluate("c => (c.clientHeight - 20) / 4")
    canvas.click(position={"x": 30 + 0.5 * step, "y": 18 + 3.5 * step})
    panel.get_by_text("What each token reads in L3/H0").wait_for()
    large = panel.locator("canvas").nth(1)
    large.hover(position={"x": 90, "y": 66 + 40})
    panel.get_by_text(re.compile("reads")).first.wait_for()
    panel.get_by_text("All heads as a table").click()
    panel.get_by_role("button", name="L3/H3").wait_for()
    panel.get_by_text("All heads as a table").click()


def test_the_lens_shows_ranks_and_what_made_them(lab, root):
    tab(root, "Lens")
    panel = root.locator("[role=tabpanel]:not([hidden])[data-shown]")
    panel.wait_for()
    rows = panel.get_by_role("table").first.locator("tbody tr")
    assert rows.count() == 1 + 9  # next tokens; the embedding, and two sites per layer
    assert rows.last.locator("td").last.inner_text() == "0"
    panel.locator("table", has_text="Neurons that add most").wait_for()
    panel.locator("table", has_text="Neurons that add most").get_by_role("button").first.click()
    lab.says("print(explorer.selection[0].startswith('L'))", "True")
    panel.get_by_role("checkbox").check()
    assert not rows.last.locator("td").last.inner_text().isdigit()


def test_keyboard_alone(lab, root):
    """Tab, arrows, Enter and Space reach everything, and JupyterLab's shortcuts stay out."""
    page = lab.page
    cells = page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.length")
    root.get_by_role("tab", name="Neurons").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "search"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "TR":
            break
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    name = page.evaluate("document.activeElement.dataset.unit")
    root.locator(f".alx-detail[data-unit='{name}'][data-valued=true]").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    lab.says("print(len(explorer.selection))", "2")
    before = root.locator("tbody tr").first.get_attribute("data-unit")
    page.keyboard.press("PageDown")
    page.wait_for_function(
        "name => document.querySelector('.alx tbody tr').dataset.unit !== name", arg=before
    )
    for key in ("a", "b", "d", "d", "x"):  # in JupyterLab: insert, delete and cut cells
        page.keyboard.press(key)
    assert page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.length") == cells
    root.get_by_role("tab", name="Neurons").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "Text"
    root.get_by_role("button", name=re.compile("^The$")).wait_for()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent") == "Attention"
    lab.says("print(explorer.tab)", "attention")


def test_waits_while_a_cell_computes(lab, root):
    """A cell captures for three seconds while somebody types; both are right."""
    lab.python("explorer.selection = ['L2/N681']")
    tab(root, "Text")
    root.locator("[role=tabpanel]:not([hidden])[data-shown]").wait_for()
    lab.page.evaluate(
        "code => { window.both = (" + RUN + ")([code, 60]) }",
        "import time, torch\n"
        "batch = tokenizer('Nipu likes olives.', return_tensors='pt')\n"
        "with torch.no_grad():\n"
        "    plain = model(**batch).logits\n"
        "    began, count = time.time(), 0\n"
        "    while time.time() - began < 3:\n"
        "        with al.capture(model, 'layers.*.mlp.hook_post') as acts:\n"
        "            assert model(**batch).logits.equal(plain)\n"
        "        assert acts['layers.2.mlp.hook_post'].shape[1] == batch.input_ids.shape[1]\n"
        "        count += 1\n"
        "print('right', count > 3)",
    )
    box = root.get_by_role("textbox", name="Text")
    box.fill("The red lamps sleep")
    root.get_by_text(re.compile("Kernel busy")).wait_for()
    box.fill("The red lamps sleep now")
    root.locator("[role=tabpanel][data-shown='The red lamps sleep now']").wait_for()
    assert lab.page.evaluate("window.both") == "right True"
    assert root.get_by_role("status").inner_text() == ""
    shown = root.locator("[role=tabpanel]:not([hidden]) tbody tr").first.locator("td").last
    value = lab.python(
        "with torch.no_grad(), al.capture(model, 'layers.2.mlp.hook_post') as acts:\n"
        "    model(**tokenizer('The red lamps sleep now', return_tensors='pt'))\n"
        "print(float(acts['layers.2.mlp.hook_post'][0, -1, 681]))"
    )
    assert float(shown.inner_text()) == pytest.approx(float(value), rel=0.005, abs=1e-6)


def test_an_error_is_a_sentence(lab, root):
    tab(root, "Text")
    box = root.get_by_role("textbox", name="Text")
    box.fill("  ")
    lab.page.wait_for_timeout(1500)
    assert root.get_by_role("status").inner_text() == "The text is empty; type a few words."
    box.fill("The dogs")
    root.locator("[role=tabpanel][data-shown='The dogs']").wait_for()
    assert root.get_by_role("status").inner_text() == ""


def test_hostile_tokens_and_labels_run_nothing(lab, root):
    nasty = lab.page.locator(".alx").nth(1)
    for name in ("Neurons", "Text", "Switch off", "Attention", "Lens"):
        tab(nasty, name)
        panel = nasty.locator("[role=tabpanel]:not([hidden])[data-shown]")
        panel.wait_for()
        assert "<script>" in panel.inner_text() or name == "Attention"
    assert nasty.locator("script, img").count() == 0
    assert lab.page.evaluate("window.HACK") is None
    assert lab.ours() == []


FAULTS = """async () => {
    const found = await axe.run(document.querySelector('.alx'), {
        runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'],
    });
    return found.violations
        .filter(v => ['serious', 'critical'].includes(v.impact))
        .map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | '));
}"""


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_each_tab_is_accessible_and_photographed(lab, root, theme, tmp_path):
    """axe-core finds no serious fault; the screenshots are for eyes."""
    spec = find_spec("axe_playwright_python")
    assert spec is not None, "axe-playwright-python is part of the extra dev"
    (script,) = Path(str(spec.origin)).parent.rglob("axe.min.js")
    lab.page.add_script_tag(path=str(script))
    lab.theme(theme)
    lab.python(
        "explorer.text = 'The dogs see the king. Kresto likes'; explorer.factor = 0\n"
        "explorer.selection = ['L3/N354', 'L0/N541', 'L0/H1']"
    )
    folder = Path(os.environ.get("ARCEE_LAB_SCREENSHOTS", tmp_path))
    faults = {}
    for name in ("Neurons", "Text", "Switch off", "Attention", "Lens"):
        tab(root, name)
        root.locator("[role=tabpanel]:not([hidden])[data-shown]").wait_for()
        if name == "Neurons":
            root.get_by_role("searchbox").fill("plural")
            root.get_by_text("5 of 3,584").wait_for()
            root.locator("tbody tr").nth(1).click(modifiers=["Control"])
            root.locator(".alx-detail[data-valued=true]").wait_for()
        lab.page.wait_for_timeout(300)
        faults[name] = lab.page.evaluate(FAULTS)
        shot = folder / f"explorer-{name.replace(' ', '_').lower()}-{theme.lower()}.png"
        root.screenshot(path=str(shot))
        assert shot.stat().st_size > 8_000
    lab.theme("Light")
    assert not any(faults.values()), faults


def test_the_static_face_of_an_untrusted_notebook(chromium, jupyter, lab, tmp_path):
    """Opened and not run: a table and a picture, no widget, and no script of it."""
    bundle = json.loads(
        lab.python(
            "import json\n"
            "explorer.selection = ['L2/N681']\n"
            "print(json.dumps(explorer._repr_mimebundle_()[0]))"
        )
    )
    assert len(bundle["text/html"]) < 60_000
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    output = nbformat.v4.new_output("display_data", data=bundle)
    name = notebook(jupyter.folder, "opened.ipynb", ("explorer", [output]))
    opened = Lab(chromium, jupyter, name)
    try:
        shown = opened.page.locator(".jp-OutputArea-output")
        shown.get_by_text("Run the cell to open the explorer").wait_for(timeout=60_000)
        assert opened.page.locator(".alx").count() == 0
        assert shown.locator("table").count() == 2
        assert "L2/N681" in shown.inner_text()
        assert shown.locator("img").evaluate("image => image.complete && image.naturalWidth > 200")
        folder = Path(os.environ.get("ARCEE_LAB_SCREENSHOTS", tmp_path))
        shown.screenshot(path=str(folder / "explorer-static.png"))
        assert opened.ours() == []
    finally:
        opened.context.close()


def test_latencies(lab, root, record_property):
    """Medians over thirty; the bounds leave room for a machine that does other things."""
    lab.python("explorer.selection = ['L2/N681']")
    tab(root, "Text")
    root.locator("[role=tabpanel]:not([hidden])[data-shown]").wait_for()
    words = ["The dogs near the old door", "The dogs near the old doors"]
    typed = [
        lab.page.evaluate(UNTIL, [{"text": words[i % 2] + " now" * (i % 3)}, "text",
                                  words[i % 2] + " now" * (i % 3)])
        for i in range(1, 31)
    ]  # fmt: skip
    lab.python("explorer.text = 'The dogs near the old door'; explorer.factor = 1")
    tab(root, "Switch off")
    root.locator("[role=tabpanel]:not([hidden])[data-shown]").wait_for()
    pressed = []
    for i in range(30):
        factor = i % 2
        wanted = f'["The dogs near the old door",["L2/N681"],{factor}]'
        act = {"press": f"button[data-factor='{factor}']"}
        pressed.append(lab.page.evaluate(UNTIL, [act, "ablation", wanted]))
    medians = {"typed": sorted(typed)[15], "pressed": sorted(pressed)[15]}
    record_property("milliseconds", {name: round(value) for name, value in medians.items()})
    assert medians["typed"] <= 400
    assert medians["pressed"] <= 1000


LARGE = f"""
import dataclasses, sys, torch
sys.path.insert(0, {str(ROOT / "tests" / "neurons")!r})
import arcee_lab as al
from arcee_lab.model.fingerprint import model_fingerprint
from page_runs import large_run
_, tokenizer = al.load("demo")
torch.manual_seed(0)
large = al.ArceeForCausalLM(al.ArceeConfig(
    vocab_size=len(tokenizer), hidden_size=40, intermediate_size=18432, num_hidden_layers=36,
    num_attention_heads=20, num_key_value_heads=4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)).eval()
run = large_run()
facts = dataclasses.replace(run.facts, fingerprint=model_fingerprint(large))
explorer = al.explore(large, tokenizer, dataclasses.replace(run, facts=facts), text="The " * 23)
explorer
"""
SCROLLED = """async share => {
    const panel = document.querySelector('.alx [role=tabpanel]:not([hidden])');
    const box = panel.querySelector('.alx-scroll'), before = panel.dataset.shown;
    const began = performance.now();
    box.scrollTop = share * (box.scrollHeight - box.clientHeight);
    while (panel.dataset.shown === before) await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""
REDRAWN = """async head => {
    const panel = document.querySelector('.alx [role=tabpanel]:not([hidden])');
    const select = panel.querySelectorAll('select')[1], before = panel.dataset.shown;
    select.value = head;
    select.dispatchEvent(new Event('change'));
    while (panel.dataset.shown === before) await new Promise(requestAnimationFrame);
    return Number(panel.dataset.drawn);
}"""


@pytest.mark.slow
def test_the_size_of_afm(chromium, jupyter, record_property):
    """663,552 neurons and 720 heads of generated arrays: a page, and the drawing of attention."""
    large = Lab(chromium, jupyter, notebook(jupyter.folder, "large.ipynb", LARGE))
    try:
        large.run_all()
        root = large.page.locator(".alx")
        root.get_by_text("663,552 of 663,552").wait_for(timeout=180_000)
        pages = [large.page.evaluate(SCROLLED, (i % 7 + 1) / 9) for i in range(31)][1:]
        tab(root, "Attention")
        root.locator("[role=tabpanel]:not([hidden])[data-drawn]").wait_for(timeout=60_000)
        drawn = [large.page.evaluate(REDRAWN, i % 19 + 1) for i in range(30)]
        folder = os.environ.get("ARCEE_LAB_SCREENSHOTS")
        if folder:
            root.screenshot(path=f"{folder}/explorer-large.png")
        medians = {"page": sorted(pages)[15], "attention": sorted(drawn)[15]}
        record_property("milliseconds", {name: round(value) for name, value in medians.items()})
        assert medians["page"] <= 400
        assert medians["attention"] <= 600
        assert large.ours() == []
    finally:
        large.context.close()
