"""Pictures of figures in few colours: those that figures are drawn with, in a third of the bytes.

A palette that is made from the picture would give a few small marks the colour of larger ones, and
steps to a scale.
"""

from functools import cache

import numpy as np
from PIL import Image

from arcee_lab.views.figures.drawing import palette
from arcee_lab.views.scale import CATEGORIES, colour

_MOST = 256  # colours of a palette
_STEPS = 48  # of a scale
_ALPHAS = 5  # steps of opacity above none
_BAND = 0.18  # opacity of bands around lines


def reduced(picture: Image.Image) -> Image.Image:
    """The picture with the nearest colours of figures; what is transparent stays so.

    Args:
        picture: In any mode.
    """
    pixels = picture.convert("RGBA")
    near = pixels.convert("RGB").quantize(palette=_house(), dither=Image.Dither.NONE)
    alphas = np.rint(np.asarray(pixels)[..., 3] / 255 * _ALPHAS).astype(int)
    pairs = np.asarray(near).astype(int) * (_ALPHAS + 1) + alphas
    pairs[alphas == 0] = 0  # one colour is enough for nothing
    found, places = np.unique(pairs, return_inverse=True)
    if len(found) > _MOST:
        return pixels.quantize(_MOST, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    made = Image.fromarray(places.reshape(pairs.shape).astype(np.uint8))
    made.putpalette(_colours()[found // (_ALPHAS + 1)].tobytes())
    opacity = found % (_ALPHAS + 1) * (255 // _ALPHAS)
    if opacity.min() < 255:
        made.info["transparency"] = bytes(opacity.tolist())
    return made


def on_any_page(picture: Image.Image) -> Image.Image:
    """A picture with its ink in a grey that reads on light and dark pages, and without its paper.

    Args:
        picture: Of a figure whose background is transparent.
    """
    pixels = np.array(picture.convert("RGBA")).astype(int)
    alpha = pixels[..., 3]
    # The fainter a pixel, the coarser its colour is rounded.
    slack = np.maximum(2, 255 // np.maximum(alpha, 1))
    for colours in (palette.LIGHT, palette.DARK):
        for part, value in colours.items():
            off = np.abs(pixels[..., :3] - _rgb(value).astype(int)).max(axis=-1)
            found = (alpha > 0) & (off <= (0 if part == "paper" else slack))
            pixels[found, :3] = _rgb(palette.EITHER)
            if part == "paper":  # between cells, and behind labels
                pixels[found, 3] = 0
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


@cache
def _colours() -> np.ndarray:
    """What figures are drawn with, and what bands make of the paper."""
    scale = np.linspace(0, 1, _STEPS + 1)[1:]
    shades = [colour(sign * x, 1.0, kind="diverging") for sign in (-1, 1) for x in scale]
    shades += [colour(x, 1.0) for x in scale]
    found = [_rgb(shade.background)[None] for shade in shades if shade]
    # Ink is in a grey, but for the black and white letters on colours. The edges of dots in an SVG
    # are soft.
    others = ["#000000", "#ffffff", palette.EITHER]
    found += [_rgb(one)[None] for one in others]
    for inks in (palette.LIGHT, palette.DARK):
        paper = _rgb(inks["paper"])
        found += [paper[None], _rgb(inks["soft"])[None]]
        for category in CATEGORIES:
            parts = np.array([_BAND, 2 * _BAND, 1.0])[:, None]
            found.append(paper + parts * (_rgb(category) - paper))
    every = np.unique(np.concatenate(found).round().astype(np.uint8), axis=0)
    assert len(every) <= _MOST
    # An image's palette has all its places, so that none is black by default.
    return np.concatenate([every, np.repeat(every[-1:], _MOST - len(every), axis=0)])


@cache
def _house() -> Image.Image:
    image = Image.new("P", (1, 1))
    image.putpalette(_colours().tobytes())
    return image


def _rgb(hexadecimal: str) -> np.ndarray:
    return np.array([int(hexadecimal[at : at + 2], 16) for at in (1, 3, 5)], dtype=float)
