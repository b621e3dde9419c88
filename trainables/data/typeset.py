"""Digits drawn from the TrueType fonts that matplotlib ships: the synthetic source domain of ``digits``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainables.errors import TwofoldError
from trainables.seeding import generator

# Named, not globbed: in place of digits the other fonts hold symbols, placeholders or text figures (cmmi10).
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-BoldItalic", "-Italic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "BolIta", "Italic")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
SIZE = 28
_OVERSAMPLING = 4  # drawn larger, then averaged: smooth edges under any rotation and shift


def draw_digit(digit: int, index: int) -> np.ndarray:
    """Draw the ``index``-th picture of a digit, white on black, the same on every call.

    Args:
        digit: 0..9.
        index: number of the picture; fixes font, size (em of 20-30 pixels), rotation (+-12 degrees) and
            shift (+-2 pixels).

    Returns:
        (28, 28) uint8 grey image.
    """
    rng = generator("typeset", digit, index)
    font = _font(FONTS[rng.integers(len(FONTS))], int(_OVERSAMPLING * rng.uniform(20, 30)))
    angle = float(rng.uniform(-12, 12))
    shift = tuple(_OVERSAMPLING * rng.uniform(-2, 2, size=2))
    side = _OVERSAMPLING * SIZE
    left, top, right, bottom = font.getbbox(str(digit))
    canvas = Image.new("L", (side, side))
    corner = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(canvas).text(corner, str(digit), font=font, fill=255)
    turned = canvas.rotate(angle, Image.Resampling.BICUBIC, translate=shift)
    return np.asarray(turned.reduce(_OVERSAMPLING))


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = font_folder() / f"{name}.ttf"
    try:
        return ImageFont.truetype(str(path), size)
    except OSError as error:
        raise TwofoldError(f"cannot open the font {path}: {error}. Install matplotlib again.") from error


@cache
def font_folder() -> Path:
    """Folder of the fonts inside the installed matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf")
