"""Values that break readers: numbers at the edges of their ranges, texts that control a terminal."""

import random
import struct
from typing import Any

from tools.fuzz import gguf_tree

INTEGERS = (
    *(0, 1, 2, 3, 7, 8, 16, 31, 32, 33, 63, 64, 127, 128, 255, 256, 257, 1023, 1024, 4096, 65535, 65536),
    *((1 << n) + d for n in (20, 24, 26, 31, 32, 33, 53, 61, 62, 63, 64) for d in (-1, 0, 1)),
    *(-1, -2, -128, -32768, -(1 << 31), -(1 << 31) - 1, -(1 << 63)),
)
NUMBERS = (
    *(0.0, -0.0, 0.5, 1.0, -1.0, 1e-6, 1e-45, 5e-324, 1e-300, 1e10, 3.5e38, 1e308),
    *(float("inf"), float("-inf"), float("nan")),
)
# Each of them is dangerous on a terminal, or to whoever splits, measures or compares text.
TEXTS = (
    "",
    " ",
    "\x1b[2J\x1b]0;title\x07",
    "\x1b]52;c;aGk=\x1b\\",
    "\x9b31m\x90q\x9c",
    "\u202eevil\u202c\u2066x\u2069",
    "a\r\nb\x00c\x7f\x08",
    "line\u2028para\u2029",
    "\u200b\ufeff\U000e0041\U000f0000",
    "%s%n{0}{}",
    "../../etc/passwd",
    "/",
    "<0x41>",
    "<0xFF>",
    "▁",
    "a b c",
    "<|channel>",
    "nan",
    "1e999",
    "0x10",
    "é" * 40,
    "\U0001f600" * 9,
)
BROKEN = (b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"ok\xe4", b"\x80" * 9, b"\x1b[31m\xff")


def integer(rng: random.Random) -> int:
    """A whole number, mostly at an edge."""
    return rng.choice(INTEGERS) if rng.random() < 0.8 else rng.randrange(-10, 400)


def number(rng: random.Random) -> float:
    """A number with a fraction, or none, or none at all."""
    return rng.choice(NUMBERS) if rng.random() < 0.7 else rng.uniform(-2, 100)


def words(rng: random.Random, huge: int = 100_000) -> str:
    """A hostile text, sometimes a huge one."""
    chosen = rng.choice(TEXTS)
    if rng.random() < 0.03:
        return (chosen or "x") * (huge // max(1, len(chosen)))
    return chosen + rng.choice(TEXTS) if rng.random() < 0.3 else chosen


def raw(rng: random.Random) -> bytes:
    """A text as bytes, which may be no UTF-8."""
    return rng.choice(BROKEN) if rng.random() < 0.2 else words(rng).encode("utf-8", "surrogatepass")


def gguf_value(rng: random.Random) -> tuple[int, bytes]:
    """A value of any type of GGUF: its type and its bytes."""
    kind = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 9, 10, 11, 12, 13, 99))
    if kind == 8:
        return 8, gguf_tree.text(raw(rng))
    if kind == 9:
        return 9, gguf_array(rng)
    if kind not in (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12):
        return kind, b"\0" * 8
    if kind == 7:
        return 7, bytes((rng.choice((0, 1, 1, 2, 255)),))
    return kind, gguf_tree.number(kind, number(rng) if kind in (6, 12) else integer(rng))


def gguf_array(rng: random.Random) -> bytes:
    """An array's value; its count may lie."""
    kind = rng.choice((0, 1, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12))
    count = rng.choice((0, 1, 2, 2, 3, 8, 300))
    if kind == 8:
        payload = b"".join(gguf_tree.text(raw(rng)) for _ in range(count))
    elif kind == 9:
        payload = b"".join(gguf_tree.array(4, struct.pack("<I", 1), 1) for _ in range(count))
    elif kind == 7:
        payload = bytes(rng.choice((0, 1)) for _ in range(count))
    else:
        payload = b"".join(
            gguf_tree.number(kind, number(rng) if kind in (6, 12) else integer(rng)) for _ in range(count)
        )
    return gguf_tree.array(kind, payload, count if rng.random() < 0.9 else integer(rng))


def json_value(rng: random.Random, depth: int = 2) -> Any:
    """Anything that JSON can say, and what Python's JSON says beyond."""
    match rng.randrange(9):
        case 0:
            return integer(rng)
        case 1:
            return number(rng)
        case 2 | 3:
            return words(rng)
        case 4:
            return rng.choice((None, True, False))
        case 5:
            return rng.choice((10**400, -(10**400), 1e308, [], {}, "\ud800", "\udcff"))
        case 6 if depth:
            return [json_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        case 7 if depth:
            return {words(rng, 1000): json_value(rng, depth - 1) for _ in range(rng.randrange(3))}
    return [[]]
