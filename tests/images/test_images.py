"""Images before the network sees them: opening, turning, colours, sizes, patches."""

import contextlib
import hashlib
import io
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgguf.errors import ImageError
from dgguf.images import BUDGETS, MOST_PIXELS, pixels_of, read_image, scaled, target_size

DATA = Path(__file__).parents[1] / "data" / "images.npz"
# Of 48 squares, and no resizing to hide what is asked.
SAME_SIZE = (768, 768)


def random_picture(seed, width, height):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# From the size rule of transformers' PIL processor: width, height, budget and what it makes of them.
SIZES = [
    (50, 50, 280, 768, 768),
    (512, 512, 280, 768, 768),
    (640, 480, 280, 912, 672),
    (1920, 1080, 280, 1056, 576),
    (640, 480, 70, 432, 336),
    (640, 480, 1120, 1824, 1344),
    (1, 1, 280, 768, 768),
    (17, 900, 280, 96, 5808),
    (900, 17, 280, 5808, 96),
    (1, 1000, 280, 48, 13440),
    (5000, 3, 70, 3360, 48),
    (100, 80, 140, 624, 480),
    (100, 80, 560, 1248, 1008),
]


@pytest.mark.parametrize(("width", "height", "budget", "wide", "high"), SIZES)
def test_sizes(width, height, budget, wide, high):
    assert target_size(width, height, budget) == (wide, high)


def test_sizes_keep_their_budgets():
    rng = np.random.default_rng(1)
    for width, height in np.exp(rng.uniform(0, 10, (3000, 2))).astype(int) + 1:
        for budget in BUDGETS:
            wide, high = target_size(int(width), int(height), budget)
            assert wide % 48 == high % 48 == 0
            assert 1 <= wide * high // 48**2 <= budget


def test_pixels_are_those_of_the_reference():
    frozen = np.load(DATA)
    for (seed, width, height, budget), digest in zip(frozen["cases"], frozen["digests"], strict=True):
        image = read_image(random_picture(seed, width, height), int(budget))
        assert hashlib.sha256(image.patches().tobytes()).digest() == digest.tobytes()


def test_patches():
    """Raster order of patches; in each rows, columns, and the channel fastest."""
    rows, columns = 96, 144
    pixels = np.zeros((rows, columns, 3), np.uint8)
    pixels[17, 38] = 10, 20, 30
    image = read_image(pixels, 70)
    assert (image.columns, image.rows) != (image.rows, image.columns)
    small = type(image)("", (columns, rows), pixels, 70)
    patches = small.patches()
    assert patches.shape == (9 * small.n_tokens, 768)
    (patch, first), *_ = np.argwhere(patches)
    assert patch == 1 * (columns // 16) + 2
    assert first == (1 * 16 + 6) * 3
    np.testing.assert_array_equal(patches[patch, first : first + 3], scaled(np.array([10, 20, 30])))


def test_a_fitting_image_is_not_resized():
    picture = random_picture(1, *SAME_SIZE)
    np.testing.assert_array_equal(read_image(picture).pixels, np.asarray(picture))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (17, 900), (900, 17), (1, 1000)])
def test_odd_sizes_are_read(width, height):
    image = read_image(stored(Image.new("RGB", (width, height), (10, 20, 30))))
    assert image.patches().shape == (9 * image.n_tokens, 768)
    assert (image.pixels == (10, 20, 30)).all()


def test_small_images_are_enlarged():
    image = read_image(random_picture(1, 50, 50))
    assert image.pixels.shape == (768, 768, 3)
    assert image.shrunk < 1
    assert read_image(random_picture(1, 3000, 1500)).shrunk == pytest.approx(3000 / 1104, rel=0.1)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 32896, (128, 128, 128)),
        ("I", 32896, (128, 128, 128)),
        ("F", 0.5, (128, 128, 128)),
    ],
)
def test_colours(mode, colour, expected):
    image = read_image(Image.new(mode, SAME_SIZE, colour))
    np.testing.assert_array_equal(image.pixels, np.broadcast_to(np.uint8(expected), image.pixels.shape))


def test_transparent_palettes_and_keys_are_white():
    picture = Image.new("P", SAME_SIZE, 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    assert tuple(read_image(stored(picture)).pixels[0, 0]) == (10, 20, 30)
    assert tuple(read_image(stored(picture, transparency=1)).pixels[0, 0]) == (255, 255, 255)
    green = Image.new("RGB", SAME_SIZE, (0, 200, 0))
    assert tuple(read_image(stored(green, transparency=(0, 200, 0))).pixels[0, 0]) == (255, 255, 255)


def test_exif_turns():
    picture = Image.new("RGB", (100, 200))
    picture.paste((255, 0, 0), (0, 0, 100, 20))  # red on top
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned clockwise: the top comes to the right
    image = read_image(stored(picture, "JPEG", exif=exif))
    assert image.original == (200, 100)
    assert image.pixels[image.pixels.shape[0] // 2, -1, 0] > 200 > 50 > image.pixels[100, 0, 0]


def test_the_first_frame_counts():
    frames = [Image.new("RGB", SAME_SIZE, colour) for colour in ("red", "blue")]
    animation = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(read_image(animation).pixels[0, 0]) == (255, 0, 0)


def test_sources(tmp_path):
    picture = random_picture(3, 60, 40)
    path = tmp_path / "a picture.png"
    path.write_bytes(stored(picture))
    pixels = np.asarray(picture)
    images = [read_image(each) for each in (path, str(path), path.read_bytes(), picture, pixels)]
    images += [read_image(pixels.astype(np.uint16) * 257), read_image(pixels / 255)]
    assert {image.digest for image in images} == {images[0].digest}
    assert images[0].name == "a picture.png"
    grey = read_image(pixels[..., :1])
    assert grey.digest == read_image(pixels[..., 0]).digest != images[0].digest
    assert read_image(picture, 70).digest != images[0].digest


def bomb():
    """A PNG of 20,000 by 20,000 pixels, in name only."""
    head = stored(Image.new("1", (8, 8)))
    sizes = (20000).to_bytes(4, "big") * 2
    import zlib

    chunk = b"IHDR" + sizes + head[24:29]
    return head[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + head[33:]


def odd_tiff():
    """A TIFF whose strips (tag 273, LONG) begin at a text: Pillow gives a TypeError for it."""
    data = stored(Image.new("RGB", (64, 64)), "TIFF")
    tag = b"\x11\x01\x04\x00"
    assert data.count(tag) == 1
    return data.replace(tag, b"\x11\x01\x02\x00")


WRONG = {
    "nothing": b"",
    "a text": b"hello, this is no image",
    "cut PNG": stored(random_picture(1, 300, 300))[:5000],
    "cut JPEG": stored(random_picture(1, 300, 300), "JPEG")[:5000],
    "cut header": stored(random_picture(1, 30, 30))[:20],
    "bomb": bomb(),
    "odd TIFF": odd_tiff(),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "large array": np.zeros((1, MOST_PIXELS + 1), np.uint8),
    "empty array": np.zeros((0, 10), np.uint8),
    "flat array": np.zeros(10, np.uint8),
    "channels first": np.zeros((3, 10, 10), np.uint8),
    "NaN": np.full((10, 10), np.nan),
    "bright floats": np.full((10, 10), 200.0),
    "int64": np.zeros((10, 10), np.int64),
    "URL": "https://example.org/a.png",
    "no file": "/nowhere/a.png",
    "null byte": "a\0b.png",
}


@pytest.mark.parametrize("source", WRONG.values(), ids=WRONG)
def test_wrong_images_are_refused_in_a_sentence(source):
    with pytest.raises(ImageError) as caught:
        read_image(source)
    assert 20 < len(str(caught.value)) < 500


def test_no_more_is_read_than_a_file_has(tmp_path):
    """A part of it may say that it has gigabytes; Python would make room for them before it reads."""
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "png")
    data = file.getvalue()
    at = data.index(b"IDAT") - 4
    (tmp_path / "long.png").write_bytes(data[:at] + bytes.fromhex("7fff0000") + data[at + 4 :])
    tracemalloc.start()
    try:
        with contextlib.suppress(ImageError):
            read_image(tmp_path / "long.png")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_pixels_are_counted_without_decoding():
    assert pixels_of(stored(random_picture(1, 300, 200))[:100]) == 60_000
    for wrong in ("nothing", "bomb", "cut header"):
        with pytest.raises(ImageError):
            pixels_of(WRONG[wrong])


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ImageError, match="this is no file"):
        read_image(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ImageError, match="this is no file"):
            read_image(tmp_path / "pipe")


def test_other_types_and_budgets_are_refused():
    with pytest.raises(TypeError, match="a path, the bytes of a file, a PIL image"):
        read_image(17)
    with pytest.raises(ImageError, match="the budgets are 70, 140, 280, 560, 1120"):
        read_image(random_picture(1, 9, 9), 300)


def test_a_refused_file_is_closed(tmp_path, monkeypatch):
    """A file that is refused by its size is not left to the garbage collector."""
    path = tmp_path / "large.png"
    Image.new("L", (30, 30)).save(path)
    monkeypatch.setattr("dgguf.images.MOST_PIXELS", 100)
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    with pytest.raises(ImageError) as kept:  # which keeps the frames, and so what they hold
        read_image(path)
    assert kept.value
    assert (set(os.listdir("/proc/self/fd")) if before else set()) <= before
