"""Images in a terminal: which way is taken where, and that each way says the same pixels."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from dgguf.view import preview
from dgguf.view.preview import draw, find_way


class Screen(io.StringIO):
    def isatty(self):
        return True


TRUE = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


@pytest.mark.parametrize(
    ("environment", "answer", "way"),
    [
        ({"TERM": "xterm-kitty"}, False, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, False, "kitty"),
        ({"TERM": "xterm-ghostty"}, False, "kitty"),
        (TRUE | {"TERM_PROGRAM": "iTerm.app"}, True, "iterm2"),
        (TRUE | {"TERM_PROGRAM": "WezTerm"}, True, "iterm2"),
        (TRUE | {"LC_TERMINAL": "iTerm2", "SSH_TTY": "/dev/pts/1"}, True, "iterm2"),
        ({"TERM": "xterm-256color"}, True, "sixel"),
        (TRUE, True, "sixel"),
        (TRUE, False, "blocks"),
        (TRUE | {"SSH_CONNECTION": "1"}, True, "blocks"),
        ({"TERM": "xterm-256color"}, False, None),
        # A multiplexer passes nothing on, but may draw sixels itself.
        (TRUE | {"TERM": "tmux-256color", "TMUX": "x", "KITTY_WINDOW_ID": "1"}, False, "blocks"),
        ({"TERM": "screen-256color", "TERM_PROGRAM": "iTerm.app"}, False, None),
        ({"TERM": "tmux-256color", "TMUX": "x"}, True, "sixel"),
        (TRUE | {"TERM": "dumb"}, True, None),
        ({"COLORTERM": "truecolor"}, True, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, True, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": ""}, True, "kitty"),
    ],
)
def test_ways(environment, answer, way):
    assert find_way(Screen(), environment, lambda out: answer) == way
    assert find_way(io.StringIO(), environment, lambda out: answer) is None


def test_no_terminal_is_not_asked():
    out = Screen()
    assert not preview.takes_sixels(out)
    assert out.getvalue() == ""


@pytest.fixture
def pixels():
    across = np.linspace(0, 255, 96).astype(np.uint8)
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[:32, :, 2] = across, 90, 200
    return pixels


def test_kitty(pixels):
    text = draw(pixels, "kitty")
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in commands) + "\n" == text
    assert all(len(data) <= 4096 and len(data) % 4 == 0 for _, data in commands[:-1])
    assert commands[0][0].startswith("a=T,f=100,q=2,c=32,r=11,m=")
    assert [keys[-3:] for keys, _ in commands] == ["m=1"] * (len(commands) - 1) + ["m=0"]
    png = base64.b64decode("".join(data for _, data in commands))
    assert Image.open(io.BytesIO(png)).size == (320, 220)
    noise = np.random.default_rng(1).integers(0, 256, (768, 768, 3), np.uint8)
    assert len(draw(noise, "kitty")) < 1 << 20


def test_iterm2(pixels):
    head, _, rest = draw(pixels, "iterm2").partition(":")
    png = base64.b64decode(rest.removesuffix("\x07\n"), validate=True)
    assert head == f"\x1b]1337;File=inline=1;size={len(png)};width=32;height=11;preserveAspectRatio=1"
    assert Image.open(io.BytesIO(png)).size == (320, 220)


def test_sixels(pixels):
    """Read as a terminal reads them."""
    text = draw(pixels, "sixel")
    width, height = map(int, re.match(r'\x1bPq"1;1;(\d+);(\d+)', text).groups())
    assert (width, height) == (320, 220)
    colours = {int(n): tuple(map(int, rgb)) for n, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", text)}
    assert len(colours) <= 64
    shown = np.full((height + 6, width, 3), -1)
    row = column = 0
    body = text[text.rindex(";") + 1 :].lstrip("0123456789").removesuffix("\x1b\\\n")
    for colour, count, mark in re.findall(r"#(\d+)|(?:!(\d+))?([?-~]|[$-])", body):
        if colour:
            now = colours[int(colour)]
        elif mark == "$":
            column = 0
        elif mark == "-":
            row, column = row + 6, 0
        else:
            for bit in range(6):
                if (ord(mark) - 63) >> bit & 1:
                    shown[row + bit, column : column + int(count or 1)] = now
            column += int(count or 1)
    wanted = np.asarray(Image.fromarray(pixels).resize((width, height))).astype(int) * 100 // 255
    assert (shown[height:] == -1).all()
    assert np.abs(shown[:height] - wanted).mean() < 3


def test_half_blocks():
    pixels = np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)
    lines = draw(pixels, "blocks").splitlines()
    assert len(lines) == 8
    assert all(line.count("▀") == 32 and line.endswith("\x1b[0m") for line in lines)
    assert len(draw(pixels[:1], "blocks").splitlines()) == 1
    assert len(draw(np.zeros((13440, 48, 3), np.uint8), "blocks").splitlines()) <= 16
