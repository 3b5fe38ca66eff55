"""Images as the vision tower takes them: opened, turned upright, made RGB, resized, cut into patches.

The size rule and the resizing are those of transformers' PIL image processor of Gemma 4, byte for byte; see
docs/images.md. Pillow is imported where an image is opened: texts need none.
"""

import contextlib
import hashlib
import io
import math
import os
import stat
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dgguf.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

BUDGETS = (70, 140, 280, 560, 1120)  # rows of the text that an image may take
DEFAULT_BUDGET = 280
PATCH = 16  # pixels of a patch, each way
POOL = 3  # patches that become one row, each way
MOST_PIXELS = 1 << 27  # of a file, as it is opened: a camera's 100 million are fewer
_CELL = PATCH * POOL  # pixels that become one row, each way
# Not opened: Ghostscript would run the program that an EPS file is, the others need what Pillow lacks.
_REFUSED_FORMATS = ("EPS", "WMF", "FPX", "MIC", "MPEG")


@dataclass(frozen=True, eq=False)
class ImageInput:
    """One image in the size in which the tower reads it.

    Attributes:
        name: to show a user; text of a file's name, not safe for a terminal.
        original: width and height in pixels, upright.
        pixels: (48 * rows, 48 * columns, 3) uint8, RGB.
        budget: that its size was chosen for.
    """

    name: str
    original: tuple[int, int]
    pixels: np.ndarray
    budget: int

    @property
    def rows(self) -> int:
        return int(self.pixels.shape[0]) // _CELL

    @property
    def columns(self) -> int:
        return int(self.pixels.shape[1]) // _CELL

    @property
    def n_tokens(self) -> int:
        """Rows of the text that it takes, without the two around it."""
        return self.rows * self.columns

    def caption(self, number: int) -> str:
        """One line for a user; text of a file's name, not safe for a terminal."""
        height, width, _ = self.pixels.shape
        return f"[image {number}: {self.name}, {width}x{height}, {self.n_tokens} tokens]"

    @property
    def shrunk(self) -> float:
        """How many times the sides have become smaller, at most; below 1 where the image grew."""
        height, width, _ = self.pixels.shape
        return max(self.original[0] / int(width), self.original[1] / int(height))

    @cached_property
    def digest(self) -> bytes:
        """Of 8 bytes: equal where size and pixels are."""
        shape = np.array(self.pixels.shape, "<i8").tobytes()
        return hashlib.blake2b(shape + self.pixels.tobytes(), digest_size=8).digest()

    def patches(self) -> np.ndarray:
        """(9 * n_tokens, 768) float32 from 0 to 1: patches in raster order, row, column, channel in each."""
        height, width, _ = self.pixels.shape
        cut = self.pixels.reshape(height // PATCH, PATCH, width // PATCH, PATCH, 3)
        return scaled(cut.transpose(0, 2, 1, 3, 4).reshape(-1, PATCH * PATCH * 3))


def scaled(pixels: np.ndarray) -> np.ndarray:
    """uint8 as float32 from 0 to 1, as the reference rounds it: once, from float64."""
    numbers: np.ndarray = (np.arange(256) * (1 / 255)).astype(np.float32)[pixels]
    return numbers


def read_image(source: Any, budget: int = DEFAULT_BUDGET) -> ImageInput:
    """Open an image and bring it to the size that a budget asks for.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array: (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4) of uint8, uint16, bool, or floats from 0 to 1.
        budget: one of BUDGETS.

    Raises:
        ImageError: it is none, is cut short, or is too large; there is no such budget.
        TypeError: the source is of another type.
    """
    if budget not in BUDGETS:
        known = ", ".join(map(str, BUDGETS))
        raise ImageError(f"an image cannot take {budget} tokens at most: the budgets are {known}")
    name = name_of(source, "image")
    _check_type(source)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as opened:
            warnings.simplefilter("ignore")  # of Pillow, on large images and odd files: see MOST_PIXELS
            rgb = _rgb(_upright(_open(source, name, opened)))
            original = rgb.size
            width, height = target_size(*original, budget)
            if original != (width, height):
                from PIL.Image import Resampling

                rgb = rgb.resize((width, height), Resampling.BICUBIC)
            pixels = np.asarray(rgb)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # a stranger's file may fail in any way
        raise ImageError(f"{name}: the image cannot be read, it is damaged or cut short ({error})") from error
    return ImageInput(name, original, pixels, budget)


def target_size(width: int, height: int, budget: int) -> tuple[int, int]:
    """Width and height to which an image is resized: multiples of 48, of `budget` squares at most.

    Source: transformers, models/gemma4/image_processing_pil_gemma4.py.
    """
    factor = math.sqrt(budget * _CELL**2 / (width * height))
    rows, columns = math.floor(factor * height / _CELL), math.floor(factor * width / _CELL)
    if rows == 0:
        rows, columns = 1, min(width // height, budget)
    elif columns == 0:
        rows, columns = min(height // width, budget), 1
    return _CELL * columns, _CELL * rows


def pixels_of(data: bytes) -> int:
    """How many pixels an image has, as its header says: nothing is decoded.

    Raises:
        ImageError: it is none, or has more than MOST_PIXELS.
    """
    with warnings.catch_warnings(), contextlib.ExitStack() as opened:
        warnings.simplefilter("ignore")
        with _open(data, "image", opened) as image:
            return int(image.width) * int(image.height)


def name_of(source: Any, what: str) -> str:
    """What an image or a video is called, for a user: its file's name, or else what it is."""
    if isinstance(source, str | Path):
        return Path(source).name or str(source)
    return Path(getattr(source, "filename", "") or what).name


def _check_type(source: Any) -> None:
    from PIL import Image

    if not isinstance(source, str | Path | bytes | bytearray | memoryview | np.ndarray | Image.Image):
        raise TypeError(
            f"an image of type {type(source).__name__}: it must be a path, the bytes of a file, a PIL image "
            "or a numpy array"
        )


def _open(source: Any, name: str, opened: contextlib.ExitStack) -> "Image.Image":
    """An image; its file is closed with `opened`, whatever Pillow thinks of it."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, np.ndarray):
        return _of_array(source)
    if isinstance(source, Image.Image):
        _check_size(source, name)
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        file: Any = io.BytesIO(source)
    else:
        file = None
        path = regular_file(source, "image")
    Image.init()
    formats = [each for each in Image.ID if each not in _REFUSED_FORMATS]
    try:
        if file is None:
            file = opened.enter_context(_File(path.open("rb", buffering=0)))
        image = Image.open(file, formats=formats)
    except Image.DecompressionBombError:
        most = MOST_PIXELS // 1_000_000
        raise ImageError(f"{name}: the image has more than {most} million pixels") from None
    except UnidentifiedImageError:
        kinds = "PNG, JPEG, WebP, GIF, BMP, TIFF and others that Pillow opens"
        raise ImageError(f"{name} is no image that dgguf reads: it takes {kinds}") from None
    except OSError as error:
        raise ImageError(f"{name}: the image cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a stranger's file may fail in any way
        raise ImageError(f"{name}: the image cannot be read, it is damaged ({error})") from error
    _check_size(image, name)
    return image


class _File(io.BufferedReader):
    """A file of which no more is asked for than there is: Pillow asks for the lengths that the file names.

    Args:
        raw: the file, which is closed with this one.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        return super().read(size if size is None or size < 0 else min(size, max(left, 0)))


def regular_file(source: str | Path, what: str) -> Path:
    """The path of an image's or a video's file: a pipe would wait for its writer.

    Raises:
        ImageError: there is none.
    """
    if str(source).startswith(("http:/", "https:/", "data:")):  # of a Path, which keeps one slash, too
        raise ImageError(f"{source!s:.60}: {what}s are read from files; download this one and give its path")
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such {what} file") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: the {what} cannot be read: {error}") from None
    if not stat.S_ISREG(mode):
        raise ImageError(f"{path}: this is no file; give the path of the {what}")
    return path


def _check_size(image: "Image.Image", name: str) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(
            f"{name}: the image of {width}x{height} has more than {MOST_PIXELS // 1_000_000} million pixels; "
            "make it smaller"
        )
    if not width * height:
        raise ImageError(f"{name}: the image is empty")


def _upright(image: "Image.Image") -> "Image.Image":
    """The first frame, loaded and turned as its EXIF says."""
    from PIL import ImageOps

    image.load()
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:  # EXIF that is damaged says nothing
        return image
    return image if turned is None else turned


def _rgb(image: "Image.Image") -> "Image.Image":
    """Any mode as RGB: what is transparent over white, 16 bits scaled to 8, the rest as Pillow does it."""
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_grey(image)).convert("RGB")
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        if image.mode in ("La", "RGBa"):  # colours that are multiplied by their alpha
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def _grey(image: "Image.Image") -> np.ndarray:
    """A grey image of more than 8 bits as uint8: of 16 bits, or of floats up to 1 or to 255."""
    values: np.ndarray = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values)
        values = np.rint(np.clip(values * (255 if values.max() <= 1 else 1), 0, 255))
        as_bytes: np.ndarray = values.astype(np.uint8)
        return as_bytes
    return _from_16_bits(np.clip(values, 0, 65535))


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    scaled_down: np.ndarray = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return scaled_down


def _of_array(array: np.ndarray) -> "Image.Image":
    """An image of an array; see `read_image`."""
    from PIL import Image

    shape = array.shape[:2] if array.ndim == 3 and array.shape[2] == 1 else array.shape
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise ImageError(
            f"an array of shape {array.shape} is no image: it must be (height, width), or that with 1, 3 or "
            "4 channels behind"
        )
    if shape[0] * shape[1] > MOST_PIXELS:
        raise ImageError(
            f"an image of {shape[1]}x{shape[0]} has more than {MOST_PIXELS // 1_000_000} million pixels"
        )
    if array.dtype == np.uint16:
        array = _from_16_bits(array)
    elif array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError("an image of floats must hold numbers from 0 to 1")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(
            f"an image of {array.dtype} cannot be read: give uint8, uint16, or floats from 0 to 1"
        )
    return Image.fromarray(np.ascontiguousarray(array.reshape(shape)))
