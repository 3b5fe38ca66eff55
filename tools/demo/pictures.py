"""Pictures with shapes, digits and letters, drawn by Pillow, and questions about them.

python tools/demo/pictures.py    # draws the three of docs/examples anew
"""

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.demo.counting import WORDS
from tools.demo.example import Example
from tools.demo.phrasing import question
from tools.demo.words import with_article

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = {
    "red": (220, 30, 40), "blue": (40, 80, 220), "green": (40, 150, 60), "yellow": (240, 200, 30),
    "black": (20, 20, 20), "orange": (240, 130, 20), "purple": (130, 50, 160), "pink": (240, 130, 180),
    "brown": (120, 70, 30), "grey": (130, 130, 130),
}  # fmt: skip
_PAPER = ((255, 255, 255), (255, 255, 255), (245, 240, 225), (230, 240, 250), (240, 240, 240))
# Middles of the places, as shares of width and height.
PLACES = {
    "in the middle": (0.5, 0.5), "at the top": (0.5, 0.22), "at the bottom": (0.5, 0.78),
    "on the left": (0.22, 0.5), "on the right": (0.78, 0.5),
}  # fmt: skip
_SIGNS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WHATS = (*SHAPES, *_SIGNS)
_GRID = (
    (0.2, 0.2),
    (0.5, 0.2),
    (0.8, 0.2),
    (0.2, 0.5),
    (0.5, 0.5),
    (0.8, 0.5),
    (0.2, 0.8),
    (0.5, 0.8),
    (0.8, 0.8),
)


@dataclass(frozen=True)
class Drawn:
    """A thing in a picture: a shape, or a digit or letter; x, y and size are shares of the picture's side."""

    what: str
    colour: str
    x: float
    y: float
    size: float

    @property
    def noun(self) -> str:
        if self.what in SHAPES:
            return self.what
        return f"{'digit' if self.what.isdigit() else 'letter'} {self.what}"


def paint(things: list[Drawn], rng: random.Random, side: int = 0) -> Image.Image:
    """A square picture; its paper and the turn of its shapes are drawn, and without it its side."""
    side = side or rng.choice((96, 128, 160, 192, 256, 320))
    image = Image.new("RGB", (side * 2, side * 2), rng.choice(_PAPER))  # drawn twice as large, then smoothed
    draw = ImageDraw.Draw(image)
    for thing in things:
        _draw(draw, thing, 2 * side, rng)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _draw(draw: ImageDraw.ImageDraw, thing: Drawn, side: int, rng: random.Random) -> None:
    x, y, r = thing.x * side, thing.y * side, thing.size * side / 2
    ink = tuple(min(255, max(0, c + rng.randint(-15, 15))) for c in COLOURS[thing.colour])
    turn = rng.uniform(-0.2, 0.2)

    def points(n: int, radii: tuple[float, ...], first: float) -> list[tuple[float, float]]:
        angles = [first + turn + 2 * math.pi * i / n for i in range(n)]
        return [
            (x + radii[i % len(radii)] * r * math.cos(a), y + radii[i % len(radii)] * r * math.sin(a))
            for i, a in enumerate(angles)
        ]

    match thing.what:
        case "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        case "square":
            draw.polygon(points(4, (1.1,), math.pi / 4), fill=ink)
        case "triangle":
            draw.polygon(points(3, (1.1,), -math.pi / 2), fill=ink)
        case "star":
            draw.polygon(points(10, (1.1, 0.45), -math.pi / 2), fill=ink)
        case "cross":
            w = r * 0.35
            draw.rectangle((x - w, y - r, x + w, y + r), fill=ink)
            draw.rectangle((x - r, y - w, x + r, y + w), fill=ink)
        case sign:
            font = ImageFont.load_default(size=2.2 * r)
            draw.text((x, y), sign, fill=ink, font=font, anchor="mm")


@dataclass(frozen=True)
class Seen:
    """Pictures, and an example about them; its last message has a part for each picture.

    Attributes:
        things: of each picture.
    """

    images: tuple[Image.Image, ...]
    things: tuple[tuple[Drawn, ...], ...]
    example: Example


def cells(things: Sequence[Drawn], side: int) -> np.ndarray:
    """The thing in whose square the middle of each cell of a square picture lies, row by row.

    The square is around all ink and some paper. A thing has the cell of its own middle in any case.

    Args:
        side: cells in a row.

    Returns:
        (side * side, 2) int64: number in `WHATS` and in `COLOURS`, -1 for paper
    """
    found = np.full((side, side, 2), -1)
    middles = (np.arange(side) + 0.5) / side
    for thing in things:
        label = WHATS.index(thing.what), tuple(COLOURS).index(thing.colour)
        down, across = (np.abs(middles - at) < thing.size / 2 for at in (thing.y, thing.x))
        found[np.ix_(down, across)] = label
        found[int(thing.y * side), int(thing.x * side)] = label
    return found.reshape(-1, 2)


def _seen(things: list[list[Drawn]], rng: random.Random, prompt: str, answer: str, **truths: Any) -> Seen:
    entry: Any = {"id": "", "kind": "text", "messages": [prompt], **truths}
    parts = [{"type": "image"} for _ in things] + [{"type": "text", "text": prompt}]
    example = Example(entry, [answer], history=[{"role": "user", "content": parts}])
    return Seen(tuple(paint(each, rng) for each in things), tuple(map(tuple, things)), example)


def _thing(rng: random.Random, place: tuple[float, float], size: float, *, signs: bool = True) -> Drawn:
    what = rng.choice(_SIGNS) if signs and rng.random() < 0.35 else rng.choice(SHAPES)
    x, y = (p + rng.uniform(-0.04, 0.04) for p in place)
    return Drawn(what, rng.choice(tuple(COLOURS)), x, y, size * rng.uniform(0.85, 1.15))


def make_what(rng: random.Random) -> Seen:
    """One thing: what, which colour, where."""
    where = rng.choice(tuple(PLACES))
    thing = _thing(rng, PLACES[where], 0.36)
    asks = (
        (("What is in the picture", "what do you see", "What is this", "describe the picture",
          "What is drawn here"),
         f"There is {with_article(f'{thing.colour} {thing.noun}')}.", [thing.colour, thing.noun]),
        ((f"What colour is the {thing.noun.split()[0]}", "what color is it", "Which colour do you see"),
         f"It is {thing.colour}.", [thing.colour]),
        ((f"Where is the {thing.noun.split()[0]}", "where is it"), f"It is {where}.", [where.split()[-1]]),
        (("What does it say", "read it", "Which sign is it") if thing.noun != thing.what else
         ("What shape is it", "which shape is this", "What kind of shape do you see"),
         f"It is {'the' if thing.noun != thing.what else 'a'} {thing.noun}.", [thing.noun]),
    )  # fmt: skip
    forms, answer, words = rng.choice(asks)
    return _seen([[thing]], rng, question(rng.choice(forms), rng), answer, all=words)


def make_how_many(rng: random.Random) -> Seen:
    """Several shapes: how many of one kind, or of all."""
    n = rng.randint(1, 6)
    kinds = rng.sample(SHAPES, rng.choice((1, 2)))
    things = [
        Drawn(rng.choice(kinds), rng.choice(tuple(COLOURS)), *place, 0.2 * rng.uniform(0.85, 1.1))
        for place in rng.sample(_GRID, n)
    ]
    if rng.random() < 0.4:
        prompt = question(rng.choice(("How many shapes are there", "how many things do you see")), rng)
        said = f"There {'are' if n != 1 else 'is'} {WORDS[n]}."
        return _seen([things], rng, prompt, said, all=[f"{WORDS[n]}|{n}"])
    kind = rng.choice(kinds)
    count = sum(thing.what == kind for thing in things)
    many = f"{kind}{'es' if kind == 'cross' else 's'}"
    prompt = question(
        rng.choice((f"How many {many} are there", f"how many {many}", f"count the {many}")), rng
    )
    word = WORDS[count] if count else "no"
    said = f"There {'is' if count == 1 else 'are'} {word} {kind if count == 1 else many}."
    return _seen([things], rng, prompt, said, all=[word])


def make_compared(rng: random.Random) -> Seen:
    """Two pictures: the same thing or not, and what differs."""
    first = _thing(rng, PLACES["in the middle"], 0.4, signs=False)
    second = _thing(rng, PLACES["in the middle"], 0.4, signs=False)
    kind = rng.random()
    if kind < 0.35:
        second = Drawn(first.what, first.colour, second.x, second.y, second.size)
    elif kind < 0.6:
        second = Drawn(first.what, second.colour, second.x, second.y, second.size)
    elif kind < 0.85:
        second = Drawn(second.what, first.colour, second.x, second.y, second.size)
    a, b = (f"{thing.colour} {thing.what}" for thing in (first, second))
    same = a == b
    forms = ("Are they the same", "are both pictures the same", "Do the pictures show the same",
             "same or different",
             "Compare the two pictures", "What is the difference")  # fmt: skip
    answer = (
        f"Yes, both show {with_article(a)}."
        if same
        else f"No, the first shows {with_article(a)}, the second {with_article(b)}."
    )
    words = ["yes" if same else "no", a, b]
    return _seen([[first], [second]], rng, question(rng.choice(forms), rng), answer, all=words)


MAKERS = {"what": make_what, "how many": make_how_many, "compared": make_compared}


def example_pictures() -> dict[str, Image.Image]:
    """The three of docs/examples, by their files' names."""
    rng = random.Random(1)
    stars = [Drawn("star", colour, *_GRID[i], 0.22) for i, colour in ((0, "yellow"), (4, "blue"), (7, "red"))]
    return {
        "circle.png": paint([Drawn("circle", "red", *PLACES["on the left"], 0.36)], rng, 192),
        "stars.png": paint(stars, rng, 192),
        "letter.png": paint([Drawn("K", "blue", *PLACES["in the middle"], 0.5)], rng, 192),
    }


if __name__ == "__main__":
    for name, picture in example_pictures().items():
        picture.save(Path(__file__).resolve().parents[2] / "docs" / "examples" / name, optimize=True)
