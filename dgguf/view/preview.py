"""An image drawn into a terminal's text: by kitty's protocol, by iTerm2's, as sixels, or in half blocks.

What a terminal can do its environment tells; for sixels it is asked, where nobody else would get the answer.
"""

import base64
import contextlib
import functools
import io
import itertools
import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TextIO

import numpy as np

from dgguf.interrupts import undone
from dgguf.view.taken import keyboard

Way = Literal["kitty", "iterm2", "sixel", "blocks"]

_COLUMNS, _ROWS = 32, 16  # of a terminal, at most; a row is as high as two columns are wide
_PIXELS = 10  # of a column, where a terminal takes pixels
_CHUNK = 4096  # characters of kitty's that may stand in one command
_COLOURS = 64  # of a picture in sixels
_PATIENCE = 0.1  # seconds for a terminal's answer
_ASK = "\x1b[c"  # for the device's attributes, which every terminal since the VT100 tells
_ANSWER = re.compile(rb"\x1b\[\?([\d;]*)c")
_SIXEL = b"4"  # among the attributes


def find_way(
    out: TextIO, environment: Mapping[str, str] = os.environ, ask: Callable[[TextIO], bool] | None = None
) -> Way | None:
    """How images are drawn on a stream; None where they are not, as in a pipe and with NO_COLOR.

    Args:
        ask: asks the terminal whether it takes sixels; None for `takes_sixels`.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if not out.isatty() or term in ("", "dumb") or environment.get("NO_COLOR"):
        return None
    # A multiplexer swallows what it does not know; what it takes itself it says.
    is_within = "TMUX" in environment or term.startswith(("screen", "tmux"))
    if not is_within and ("KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty")):
        return "kitty"
    if not is_within and (program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2"):
        return "iterm2"
    # Over a slow line the answer would come when nobody waits for it, and be taken for keys.
    is_far = "SSH_CONNECTION" in environment or "SSH_TTY" in environment
    if not is_far and (ask or takes_sixels)(out):
        return "sixel"
    return "blocks" if environment.get("COLORTERM") in ("truecolor", "24bit") else None


@functools.cache
def takes_sixels(out: TextIO) -> bool:
    """Ask the terminal, once, and wait a tenth of a second at most.

    It is not asked where its answer would not come from the keyboard, or where something was typed already.
    """
    try:
        stdin = sys.stdin.fileno()
        alone = os.ttyname(stdin) == os.ttyname(out.fileno()) and os.tcgetpgrp(stdin) == os.getpgrp()
    except (OSError, ValueError, AttributeError):  # no terminal, closed, Windows
        return False
    if not alone or select.select([stdin], [], [], 0)[0]:
        return False
    take, give_back = keyboard(by_keys=True)
    got, end = b"", time.monotonic() + _PATIENCE
    with undone(give_back):
        take()
        out.write(_ASK)
        out.flush()
        while not (answer := _ANSWER.search(got)) and (left := end - time.monotonic()) > 0:
            if not select.select([stdin], [], [], left)[0]:
                break
            got += os.read(stdin, 256)
    return answer is not None and _SIXEL in answer[1].split(b";")


def draw(pixels: np.ndarray, way: Way) -> str:
    """An image as what a terminal is sent, a line's end behind it.

    Args:
        pixels: (H, W, 3) uint8.
        way: from `find_way`.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    columns = min(_COLUMNS, max(1, round(2 * _ROWS * image.width / image.height)))
    rows = min(_ROWS, max(1, round(columns * image.height / image.width / 2)))
    if way == "blocks":
        return _blocks(image.resize((columns, 2 * rows)))
    small = image.resize((columns * _PIXELS, 2 * rows * _PIXELS))
    if way == "sixel":
        return _sixels(small)
    png = io.BytesIO()
    small.save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode()
    if way == "iterm2":
        size = f"width={columns};height={rows};preserveAspectRatio=1"
        return f"\x1b]1337;File=inline=1;size={len(png.getvalue())};{size}:{data}\x07\n"
    chunks = [data[first : first + _CHUNK] for first in range(0, len(data), _CHUNK)]
    heads = [f"a=T,f=100,q=2,c={columns},r={rows},", *[""] * (len(chunks) - 1)]
    commands = [
        f"\x1b_G{head}m={int(number + 1 < len(chunks))};{chunk}\x1b\\"
        for number, (head, chunk) in enumerate(zip(heads, chunks, strict=True))
    ]
    return "".join(commands) + "\n"


def _blocks(image: Any) -> str:
    """Two pixels a character, in 24-bit colours."""
    pixels = np.asarray(image)
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        cells = [
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)


def _sixels(image: Any) -> str:
    """Bands of six rows: for each colour a character a column, whose bits say which of the six it has."""
    reduced = image.quantize(_COLOURS)
    palette, numbers = np.array(reduced.getpalette()).reshape(-1, 3), np.asarray(reduced)
    out = [f'\x1bPq"1;1;{image.width};{image.height}']
    out += [f"#{i};2;{r};{g};{b}" for i, (r, g, b) in enumerate((palette * 100 // 255).tolist())]
    weights = 1 << np.arange(6).reshape(6, 1)
    for first in range(0, len(numbers), 6):
        band = numbers[first : first + 6]
        for colour in np.unique(band).tolist():
            bits = ((band == colour) * weights[: len(band)]).sum(axis=0) + 63
            runs = ((chr(code), sum(1 for _ in run)) for code, run in itertools.groupby(bits.tolist()))
            out.append(f"#{colour}" + "".join(f"!{n}{c}" if n > 3 else c * n for c, n in runs) + "$")
        out.append("-")
    return "".join(out) + "\x1b\\\n"


def show(pixels: np.ndarray, out: TextIO) -> None:
    """Draw an image on a stream, if that is a terminal that can show one."""
    if way := find_way(out):
        with contextlib.suppress(OSError):  # what a terminal that went away does not show
            out.write(draw(pixels, way))
            out.flush()
