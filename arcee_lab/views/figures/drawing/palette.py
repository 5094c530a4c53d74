"""The colours of a figure's own ink: each is a variable of the page, written as a fixed colour.

A figure is drawn once, in the light colours. No data has one of these, so that in SVG each can be
replaced by a variable that follows the page, and in a PNG for a notebook by a grey that reads on
light and dark pages alike.
"""

from typing import Any

LIGHT = {"ink": "#1a2433", "soft": "#5b6778", "paper": "#fffffe"}
DARK = {"ink": "#e4e9f1", "soft": "#9aa7b8", "paper": "#111418"}
# As far from white as from the dark pages of JupyterLab and GitHub: 4.3:1.
EITHER = "#737a86"
GRID = 0.28  # opacity of grid lines, which are drawn in that colour
_PARTS = {
    "ink": ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor",
            "ytick.labelcolor", "lines.color"),
    "soft": ("axes.edgecolor", "xtick.color", "ytick.color"),
    "paper": ("figure.facecolor", "axes.facecolor", "savefig.facecolor"),
}  # fmt: skip


def settings(*, dark: bool) -> dict[Any, Any]:
    """The settings of matplotlib for all that is not data."""
    colours = DARK if dark else LIGHT
    found: dict[Any, Any] = {"grid.color": EITHER, "grid.alpha": GRID}
    return found | {name: colours[part] for part, names in _PARTS.items() for name in names}


def variables(svg: str) -> str:
    """The SVG with variables in place of the ink, and the style that sets them by colour scheme."""
    for colours in (LIGHT, DARK):
        for name, value in colours.items():
            svg = svg.replace(value, f"var(--{name})")
    light, dark = (
        ";".join(f"--{name}:{value}" for name, value in colours.items())
        for colours in (LIGHT, DARK)
    )
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    head, tag, rest = svg.partition(">")
    return f"{head}{tag}{style}{rest}"
