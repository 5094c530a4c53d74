"""One HTML page that needs nothing but itself: no script, no font, no request."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1a2433; --paper: #fff; --soft: #5b6778; --line: #d8dee8;
  --link: #0b5cad }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f1; --paper: #111418; --soft: #9aa7b8; --line: #323b49; --link: #7db7f0 }
}
body { max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem }
p, figcaption, footer { color: var(--soft); margin: .3rem 0 .8rem }
section { overflow-x: auto } figure { margin: 0 } th, td { overflow-wrap: normal }
img { width: 100%; max-width: 52rem; height: auto } img.drawing { max-width: 40rem }
nav ol { columns: 16rem; column-gap: 3rem; margin: .3rem 0; padding-left: 1.6rem }
a { color: var(--link) }
summary { cursor: pointer }
footer { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: .8rem }
"""
# default-src 'none': should a label ever slip through unescaped, the page still loads nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(
    title: str,
    lead: str,
    sections: Sequence[tuple[str, str, str]],
    *,
    foot: str = "",
    style: str = "",
    script: str = "",
    contents: bool = False,
) -> str:
    """A self-contained page, in the reader's light or dark colours.

    Args:
        title: The heading.
        lead: The line below it.
        sections: `(heading, how to read it, HTML)`; the HTML comes from the other views and is
            taken as it is, the rest is escaped.
        foot: The last line.
        style: CSS after the page's own.
        script: A script at the end of the page, the only one that the page may run: its policy
            names the script's hash.
        contents: Whether to list the sections, with links, above the first.
    """
    policy = _POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    parts = [
        f'<section id="part-{place}"><h2>{escape(heading)}</h2><p>{escape(note)}</p>{body}'
        "</section>"
        for place, (heading, note, body) in enumerate(sections, start=1)
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(lead)}</p>"
        f"{_contents([heading for heading, _, _ in sections]) if contents else ''}"
        f"{''.join(parts)}<footer>{escape(foot)}</footer>"
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def _contents(headings: Sequence[str]) -> str:
    """The sections of a page as a list of links."""
    items = "".join(
        f'<li><a href="#part-{place}">{escape(heading)}</a></li>'
        for place, heading in enumerate(headings, start=1)
    )
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def drawing(svg: str, *, alt: str) -> str:
    """A figure within the page as SVG: sharp at every size, in the reader's colours.

    Args:
        svg: What `views.figures.drawing.svg.svg` gives.
        alt: What it shows, for those who do not see it.
    """
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<figure><img class="drawing" src="data:image/svg+xml;base64,{data}" '
        f'alt="{escape(alt)}"></figure>'
    )
