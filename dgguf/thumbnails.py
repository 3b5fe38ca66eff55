"""What a prompt showed, small: it stands in recordings, and exports show it above the question.

A recording may come from a stranger: its pictures are opened by three decoders alone, when their headers say
that they are small, and what an export shows of them is encoded anew.
"""

import base64
import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dgguf.videos import Pictures

if TYPE_CHECKING:
    from PIL import Image

MOST_SIDE = 128  # pixels
_MOST_BYTES = 1 << 16  # of a picture's file; one of noise takes a quarter
_MOST_PICTURES, _MOST_CAPTION = 64, 1000
_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class Thumbnail:
    """An image, or the first frame of a video.

    Attributes:
        caption: "[image 1: name, 912x672, 266 tokens]"; it may hold a file's name, so it is not safe for a
            terminal.
        picture: a JPEG, PNG or WebP file of MOST_SIDE pixels each way at most; of a stranger's anything.
    """

    caption: str
    picture: bytes

    def open(self) -> "Image.Image | None":
        """The picture in RGB; None where it is damaged or too large."""
        from PIL import Image

        with contextlib.suppress(Exception), warnings.catch_warnings():  # it may fail in any way
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(self.picture), formats=_FORMATS) as image:
                if max(image.size) <= MOST_SIDE and min(image.size) > 0:
                    return image.convert("RGB")
        return None

    def png(self) -> bytes | None:
        """A PNG file of what `open` gives."""
        image, file = self.open(), io.BytesIO()
        if image is None:
            return None
        image.save(file, "PNG")
        return file.getvalue()


def thumbnails(pictures: Pictures) -> tuple[Thumbnail, ...]:
    """Of each image and each video of a prompt, as far as a recording holds them."""
    shown = [(image.caption(number), image) for number, image in enumerate(pictures.images, 1)]
    shown += [(video.caption(number), video.frames[0]) for number, video in enumerate(pictures.videos, 1)]
    return tuple(
        Thumbnail(caption[:_MOST_CAPTION], _jpeg(image.pixels)) for caption, image in shown[:_MOST_PICTURES]
    )


def _jpeg(pixels: Any) -> bytes:
    from PIL import Image

    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def as_json(shown: Sequence[Thumbnail]) -> list[dict[str, str]]:
    """Thumbnails as a recording has them."""
    return [{"caption": each.caption, "picture": base64.b64encode(each.picture).decode()} for each in shown]


def from_json(values: Any) -> tuple[Thumbnail, ...]:
    """Thumbnails out of a recording; nothing is decoded yet.

    Raises:
        ValueError: they are none, or larger than any that are written.
    """
    if not isinstance(values, list) or len(values) > _MOST_PICTURES:
        raise ValueError("images")
    found = []
    for value in values:
        caption, picture = value["caption"], value["picture"]
        if not (isinstance(caption, str) and isinstance(picture, str)) or len(caption) > _MOST_CAPTION:
            raise ValueError("an image")
        if len(picture) > 2 * _MOST_BYTES:
            raise ValueError("a picture")
        found.append(Thumbnail(caption, base64.b64decode(picture, validate=True)))
    return tuple(found)
