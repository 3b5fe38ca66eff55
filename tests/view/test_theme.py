"""The colours of exports: every one can be read on its ground, and the levels can be told apart."""

import itertools

import pytest

from dgguf.view.export.theme import THEMES
from dgguf.view.frame import Style
from dgguf.view.progress import LEVELS


def linear(colour):
    """ "#rrggbb" as three linear intensities, by the definition of sRGB."""
    for i in (1, 3, 5):
        value = int(colour[i : i + 2], 16) / 255
        yield value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def luminance(colour):
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def contrast(one, other):
    """The ratio of WCAG 2.2, from 1 to 21."""
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def lab(colour):
    r, g, b = linear(colour)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883,
    )
    x, y, z = (v ** (1 / 3) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_contrast_of_known_colours():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("name", THEMES)
def test_every_style_can_be_read(name):
    theme = THEMES[name]
    assert set(theme.looks) == set(Style)
    for style, look in theme.looks.items():
        assert contrast(look.colour, look.ground or theme.ground) >= 4.5, style
    # The title in the bar above, and all texts of the page around the canvas.
    for style in (Style.STATUS, Style.TEXT, Style.SPARK):
        assert contrast(theme.looks[style].colour, theme.frame) >= 4, style


@pytest.mark.parametrize("name", THEMES)
def test_levels_can_be_told_apart(name):
    theme = THEMES[name]
    six = [theme.looks[style].colour for style in (*LEVELS, Style.COMMITTED)]
    assert len(six) == 6
    for one, other in itertools.combinations(six, 2):
        assert sum((a - b) ** 2 for a, b in zip(lab(one), lab(other), strict=True)) ** 0.5 >= 20
    # The more settled, the further from the ground.
    by_contrast = [contrast(theme.looks[style].colour, theme.ground) for style in LEVELS]
    assert by_contrast == sorted(by_contrast)
