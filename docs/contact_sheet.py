"""Pictures of every figure and report, to be looked at: light and dark, 1200 and 400 pixels wide.

    .venv/bin/python docs/contact_sheet.py [--model demo|deep|DIR] [--run NAME...] [--out DIR]

For the demo the outputs that the notebooks hold are shown, and the reports that the commands write.
For `deep`, a random model of 36 layers of 20 heads that transformers' own Arcee makes, or for a
folder of yours, `--run 01_first_look 04_activation_sparsity` executes notebooks on it first. The
sheets are PNG files in out/sheets, which git ignores; chromium and playwright draw them.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SCHEMES, WIDTHS = ("light", "dark"), (1200, 400)
SLICE = {1200: 1500, 400: 1500}  # pixels of one picture, so that no viewer shrinks it much
LIMIT = 600  # seconds of one command or notebook
STYLE = """<meta name="color-scheme" content="light dark"><style>
:root{--paper:#fff;--ink:#1f2328}@media(prefers-color-scheme:dark){:root{--paper:#111;--ink:#fff}}
body{margin:8px;background:var(--paper);color:var(--ink);font:14px/1.4 system-ui,sans-serif}
article{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(500px,100%),1fr));gap:16px}
section{overflow-x:auto;min-width:0}section:has(table){grid-column:1/-1}
img{max-width:100%}h2{font-size:14px;margin:8px 0}</style>"""


def deep_model(folder: Path) -> Path:
    """A random Arcee of 36 layers of 20 heads with the demo's tokenizer, in a folder."""
    import torch
    from transformers import ArceeConfig, ArceeForCausalLM

    sys.path.insert(0, str(ROOT))
    from arcee_lab import load

    if not (folder / "config.json").is_file():
        _, tokenizer = load("demo")
        torch.manual_seed(0)
        config = ArceeConfig(
            vocab_size=len(tokenizer), hidden_size=160, intermediate_size=192,
            num_hidden_layers=36, num_attention_heads=20, num_key_value_heads=4, head_dim=8,
            max_position_embeddings=256, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.1,
        )  # fmt: skip
        ArceeForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def notebook_page(notebook: Path) -> str:
    """The pictures and HTML outputs of a notebook as one page, as a trusted notebook shows them."""
    parts = []
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        for output in cell.get("outputs", ()):
            shown = _shown({k: "".join(v) for k, v in output.get("data", {}).items() if v})
            if shown:
                parts.append(f"<section><h2>cell {number}</h2>{shown}</section>")
    return f"<!doctype html>{STYLE}<h1>{escape(notebook.stem)}</h1><article>{''.join(parts)}"


def _shown(data: dict[str, str]) -> str:
    if "text/html" in data:  # as JupyterLab prefers it
        return data["text/html"]
    if "image/svg+xml" in data:
        drawn = base64.b64encode(data["image/svg+xml"].encode()).decode()
        return f'<img src="data:image/svg+xml;base64,{drawn}">'
    if "image/png" in data:
        return f'<img src="data:image/png;base64,{data["image/png"].strip()}">'
    return ""


def run_notebooks(names: list[str], model: str, folder: Path) -> list[Path]:
    """Executes notebooks on a model; one that fails is named and left out."""
    made = []
    for name in names:
        command = [sys.executable, str(ROOT / "notebooks" / "build.py"), name, "--out", str(folder)]
        if _called(command, model):
            made.append(folder / f"{name}.ipynb")
    return made


def write_reports(model: str, folder: Path, tokens: int) -> list[Path]:
    """The report of `sparsity` on a model, on generated text."""
    if not (folder / "report.html").is_file():
        words = ["sparsity", model, "--world", "all", "--max-tokens", str(tokens)]
        _called([sys.executable, "-P", "-m", "arcee_lab", *words, "--out", str(folder)], model)
    return sorted(folder.glob("**/*.html"))


def _called(command: list[str], model: str) -> bool:
    # This folder's package, whichever one is installed.
    ours = {"ARCEE_LAB_MODEL": model, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment = os.environ | ours
    try:
        code = subprocess.call(command, cwd=ROOT, env=environment, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        code = -1
    if code:
        print(f"failed ({code}): {' '.join(command)}", file=sys.stderr)
    return not code


def photograph(pages: list[Path], out: Path) -> int:
    """Draws each page in both schemes and widths, as slices of a height that can be looked at."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    options = ["--no-sandbox", "--disable-gpu"]
    count = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        for scheme in SCHEMES:
            for width in WIDTHS:
                context = browser.new_context(
                    color_scheme=scheme, viewport={"width": width, "height": 800}, offline=True
                )
                for page_path in pages:
                    page = context.new_page()
                    page.goto(page_path.resolve().as_uri())
                    height = page.evaluate("document.documentElement.scrollHeight")
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    if wide > width:
                        print(f"{page_path.stem} is {wide} pixels wide at {width}")
                    for number, top in enumerate(range(0, height, SLICE[width])):
                        box = {"x": 0, "y": top, "width": width,
                               "height": min(SLICE[width], height - top)}  # fmt: skip
                        name = f"{page_path.stem}-{scheme}-{width}-{number:02}.png"
                        page.screenshot(path=str(out / name), full_page=True, clip=box)
                        count += 1
                    page.close()
                context.close()
        browser.close()
    return count


def main(argv: list[str] | None = None) -> int:
    """Makes the pages and photographs them."""
    parser = argparse.ArgumentParser(prog="contact_sheet.py", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="demo, deep, or a folder (default: demo)")
    parser.add_argument("--run", nargs="*", default=[], metavar="NAME", help="notebooks to execute")
    parser.add_argument("--html", nargs="*", default=[], type=Path, help="further pages to show")
    parser.add_argument("--tokens", type=int, default=4000, help="of a report (default: 4000)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "sheets", metavar="DIR")
    args = parser.parse_args(argv)
    folder = args.out / (args.model if args.model in ("demo", "deep") else Path(args.model).name)
    pages = folder / "pages"
    pages.mkdir(parents=True, exist_ok=True)
    model = str(deep_model(folder / "model")) if args.model == "deep" else args.model
    notebooks = run_notebooks(args.run, model, folder / "notebooks")
    if args.model == "demo" and not args.run:
        notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    found = []
    for notebook in notebooks:
        found.append(pages / f"{notebook.stem}.html")
        found[-1].write_text(notebook_page(notebook), encoding="utf-8")
    found += [*write_reports(model, folder / "sparsity", args.tokens), *args.html]
    print(f"{photograph(found, folder)} pictures of {len(found)} pages in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
