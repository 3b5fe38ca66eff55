"""Screens as pixels: GIF and PNG, by Pillow and a font that comes with dgguf."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont

from dgguf.errors import RecordingError
from dgguf.thumbnails import MOST_SIDE
from dgguf.units import count
from dgguf.view.export.shown import Placed
from dgguf.view.export.theme import Theme
from dgguf.view.frame import Style
from dgguf.view.screens import Screen
from dgguf.view.terminal import cell_width

_FONTS = Path(__file__).parents[2] / "data" / "fonts"
CELL, ROW, FONT_SIZE = 9, 19, 15  # pixels
PADDING, BAR = 14, 32
_SHADES = 4
_MOST_PIXELS = 1 << 30  # of all images of a GIF: some 6 s, and 2 GB
_MOST_OF_SHEET = 1 << 28  # of a PNG: 0.8 GB
_MOST_MS = 655_350  # a GIF counts an image's time in 16 bits, in 1/100 s
# Which ways the lines of a character go from the middle of its cell: up, down, left, right.
_LINES = {"─": "lr", "│": "ud", "┌": "dr", "┐": "dl", "└": "ur", "┘": "ul"}
_LINES |= {"├": "udr", "┤": "udl", "┬": "dlr", "┴": "ulr", "┼": "udlr"}
_LIGHTS = ("#ff5f57", "#febc2e", "#28c840")


@cache
def _font(bold: bool, scale: int) -> ImageFont.FreeTypeFont:
    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    # Without shaping: a letter is drawn where its cell is, whatever stands beside it.
    return ImageFont.truetype(_FONTS / name, FONT_SIZE * scale, layout_engine=ImageFont.Layout.BASIC)


def cells(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Columns and rows of the largest screen within so many pixels, the window around it included."""
    return (size[0] // scale - 2 * PADDING) // CELL, (size[1] // scale - 2 * PADDING - BAR) // ROW


def _size(width: int, height: int) -> tuple[int, int]:
    """Pixels of a window of so many columns and rows, at scale 1."""
    return width * CELL + 2 * PADDING, height * ROW + 2 * PADDING + BAR


def draw(
    screen: Screen,
    width: int,
    height: int,
    theme: Theme,
    title: str,
    scale: int = 1,
    pictures: Sequence[Placed] = (),
) -> Image.Image:
    """One screen in a window.

    Args:
        screen: its lines.
        width, height: in columns and rows.
        theme: its colours.
        title: in the bar above.
        scale: 2 for twice as fine.
        pictures: that stand at its top.
    """
    w, h = _size(width, height)
    title = title[:width]
    image = Image.new("RGB", (w * scale, h * scale), theme.ground)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, w * scale, BAR * scale), fill=theme.frame)
    for i, colour in enumerate(_LIGHTS):
        x, y, r = (18 + 18 * i) * scale, BAR * scale / 2, 5.5 * scale
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    pen.text(
        (w * scale / 2, BAR * scale / 2), title, theme.looks[Style.STATUS].colour, _font(False, scale), "mm"
    )
    for placed in pictures:
        size = placed.image.width * scale, placed.image.height * scale
        at = (PADDING + placed.column * CELL) * scale, (BAR + PADDING) * scale
        image.paste(placed.image.resize(size), at)
    for y, line in enumerate(screen.lines[:height]):
        column = 0
        for span in line:
            look = theme.looks[span.style]
            left, top = (PADDING + column * CELL) * scale, (BAR + PADDING + y * ROW) * scale
            right = left + span.width * CELL * scale
            if look.ground:
                pen.rectangle((left, top, right - 1, top + ROW * scale - 1), fill=look.ground)
            if look.underline or look.strike or span.pinned:
                base = top + (ROW // 2 if look.strike else ROW - 3) * scale
                pen.rectangle((left, base, right - 1, base + scale - 1), fill=look.colour)
            for character in span.text:
                columns = cell_width(character)
                place = column if columns else max(0, column - 1)  # a mark goes over the letter before it
                _draw_character(pen, character, place, y, look.colour, look.bold, scale)
                column += columns
    return image


def _draw_character(
    pen: ImageDraw.ImageDraw, character: str, column: int, row: int, colour: str, bold: bool, scale: int
) -> None:
    if character == " ":
        return
    left, top = (PADDING + column * CELL) * scale, (BAR + PADDING + row * ROW) * scale
    wide = max(1, cell_width(character)) * CELL * scale
    if character in _LINES:
        _draw_lines(pen, _LINES[character], (left, top, wide, ROW * scale), colour, scale)
        return
    bars = "▁▂▃▄▅▆▇█"
    if character in bars:  # as tall as the row, which no font knows
        high = round(ROW * scale * (bars.index(character) + 1) / len(bars))
        pen.rectangle(
            (left, top + ROW * scale - high, left + wide - 1 - scale, top + ROW * scale - 1), fill=colour
        )
    elif character in _known_characters():
        pen.text((left, top + (ROW - 4) * scale), character, colour, _font(bold, scale), "ls")
    else:  # a letter that the font lacks has a place all the same
        pen.rectangle(
            (left + 2 * scale, top + 4 * scale, left + wide - 3 * scale, top + (ROW - 4) * scale),
            outline=colour,
        )


def _draw_lines(
    pen: ImageDraw.ImageDraw, ways: str, box: tuple[int, int, int, int], colour: str, scale: int
) -> None:
    """Lines from the middle of a cell to its edges, so that they meet those of its neighbours."""
    left, top, wide, high = box
    x, y = left + wide // 2, top + high // 2
    ends = {"u": (x, top), "d": (x, top + high), "l": (left, y), "r": (left + wide, y)}
    for way in ways:
        x1, y1 = ends[way]
        pen.rectangle((min(x, x1), min(y, y1), max(x, x1) + scale - 1, max(y, y1) + scale - 1), fill=colour)


@cache
def _known_characters() -> frozenset[str]:
    """The characters of the font: those that it does not draw like one it surely lacks."""
    font = _font(False, 1)
    missing = bytes(font.getmask("\U0010ffff"))
    candidates = (chr(code) for code in range(0x21, 0x2900))
    return frozenset(c for c in [*candidates, "\ufffd"] if bytes(font.getmask(c)) != missing)


def write_gif(
    path: Path,
    shown: Sequence[Screen],
    width: int,
    height: int,
    theme: Theme,
    title: str,
    scale: int,
    pictures: Sequence[Placed] = (),
) -> None:
    """All screens, over and over; arguments as of `draw`.

    Raises:
        RecordingError: they have too many pixels.
    """
    _check_pixels("GIF", len(shown), pixels(width, height, scale), _MOST_PIXELS)
    palette = _palette(theme, pictures)
    first, *rest = [  # one image at a time has all its colours, which take four times the memory
        draw(screen, width, height, theme, title, scale, pictures).quantize(
            palette=palette, dither=Image.Dither.NONE
        )
        for screen in shown
    ]
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=rest,
        duration=_durations(shown, [first, *rest]),
        loop=0,
        optimize=False,
    )


def pixels(width: int, height: int, scale: int) -> tuple[int, int]:
    """Of a window of so many columns and rows."""
    w, h = _size(width, height)
    return w * scale, h * scale


def _check_pixels(kind: str, n_screens: int, size: tuple[int, int], most: int) -> None:
    if n_screens * size[0] * size[1] > most:
        raise RecordingError(
            f"a {kind} of {count(n_screens, 'screen')} of {size[0]} x {size[1]} pixels would be too large: "
            f"{most:,} are the most; choose .html or .svg, or a lower --scale"
        )


def _durations(shown: Sequence[Screen], images: Sequence[Image.Image]) -> list[int]:
    """For how long each image stands, in ms; equal neighbours, which become one, share what a GIF can say."""
    durations: list[int] = []
    before, total = b"", 0
    for screen, image in zip(shown, images, strict=True):
        pixels = image.tobytes()
        total = total if pixels == before else 0
        durations.append(min(max(20, round(screen.seconds * 1000)), _MOST_MS - total))
        before, total = pixels, total + durations[-1]
    return durations


def _palette(theme: Theme, pictures: Sequence[Placed]) -> Image.Image:
    """Every colour of a theme, the shades that the edges of letters have, and what fits of the pictures'."""
    pairs = {(look.colour, look.ground or theme.ground) for look in theme.looks.values()}
    pairs |= {(colour, theme.frame) for colour in (theme.looks[Style.STATUS].colour, *_LIGHTS)}
    values: list[int] = []
    for colour, ground in sorted(pairs):
        one, other = ImageColor.getrgb(colour), ImageColor.getrgb(ground)
        for part in range(_SHADES + 1):
            values += [
                round((a * part + b * (_SHADES - part)) / _SHADES) for a, b in zip(one, other, strict=True)
            ]
    if pictures and (left := 256 - len(values) // 3) > 0:
        strip = Image.new("RGB", (sum(each.image.width for each in pictures), MOST_SIDE))
        x = 0
        for each in pictures:
            strip.paste(each.image, (x, 0))
            x += each.image.width
        values += strip.quantize(left).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(values[: 3 * 256])
    return palette


def write_png(
    path: Path,
    shown: Sequence[Screen],
    width: int,
    height: int,
    theme: Theme,
    title: str,
    scale: int,
    pictures: Sequence[Placed] = (),
) -> None:
    """One screen, or several as a sheet, two beside each other; arguments as of `draw`.

    Raises:
        RecordingError: they have too many pixels.
    """
    w, h = pixels(width, height, scale)
    _check_pixels("PNG", len(shown), (w, h), _MOST_OF_SHEET)
    columns = min(2, len(shown))
    gap = PADDING if len(shown) > 1 else 0
    size = columns * (w + gap) + gap, math.ceil(len(shown) / columns) * (h + gap) + gap
    sheet = Image.new("RGB", size, theme.frame)
    for i, screen in enumerate(shown):
        image = draw(screen, width, height, theme, title, scale, pictures)
        sheet.paste(image, (gap + i % columns * (w + gap), gap + i // columns * (h + gap)))
    sheet.save(path, format="PNG", optimize=True)
