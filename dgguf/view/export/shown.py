"""Where an export shows the pictures of a prompt: in a strip above the question."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgguf.thumbnails import Thumbnail

if TYPE_CHECKING:
    from PIL import Image

_ROW = 18  # pixels of a row, in the kind of export whose rows are the lowest
_COLUMNS = 16  # of a screen that a picture takes, with the gap behind it


@dataclass(frozen=True)
class Placed:
    """A picture in the strip.

    Attributes:
        image: RGB, of 128 pixels each way at most.
        column: of the screen, where it begins; its first row is the screen's.
    """

    image: "Image.Image"
    column: int


def place(shown: Sequence[Thumbnail], columns: int) -> list[Placed]:
    """The pictures for which a screen of so many columns has room, and which can be opened."""
    images = [image for each in shown[: columns // _COLUMNS] if (image := each.open())]
    return [Placed(image, number * _COLUMNS) for number, image in enumerate(images)]


def strip_rows(placed: Sequence[Placed]) -> int:
    """Rows of a screen that the strip takes, the empty one below it included."""
    return 1 + math.ceil(max(each.image.height for each in placed) / _ROW) if placed else 0


def data_uri(png: bytes) -> str:
    """A PNG file as an address that stands for itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
