"""Images in recordings and exports: small, bounded, and shown above the question."""

import base64
import collections
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from dgguf.errors import RecordingError
from dgguf.images import read_image
from dgguf.thumbnails import MOST_SIDE, Thumbnail, thumbnails
from dgguf.videos import Pictures, read_video
from dgguf.view.asked import heading
from dgguf.view.export import shown
from dgguf.view.export.write import Drawing, write
from dgguf.view.frame import line_text
from dgguf.view.recorder import Recorder
from dgguf.view.recording import Recording, read_recording
from tests.support.recordings import made_up
from tests.support.videos import numbered_frames

RED = (200, 30, 40)
CAPTION = "[image 1: a\x1b[31m<b>.png, 912x672, 266 tokens]"


def stored(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def seen():
    """A recording whose prompt shows a red picture."""
    tokens, events = made_up(steps=2)
    image = Thumbnail(CAPTION, stored(Image.new("RGB", (96, 64), RED)))
    return Recording(tokens, [dataclasses.replace(events[0], images=(image,)), *events[1:]])


def recorded(recording, path):
    with Recorder.to_file(path, recording.tokens) as recorder:
        collections.deque(recorder.record(recording.events), maxlen=0)
    return path


def test_thumbnails_are_small():
    noise = np.random.default_rng(1).integers(0, 256, (3000, 2000, 3), np.uint8)
    pictures = Pictures([read_image(noise)], [read_video(numbered_frames(3))])
    image, video = thumbnails(pictures)
    assert image.caption == "[image 1: image, 624x960, 260 tokens]"
    assert video.caption == "[video 1: video, 3 frames of 528x240 from 00:00 to 00:00, 165 tokens]"
    assert image.open().size == (83, 128)
    assert max(video.open().size) == MOST_SIDE
    assert len(image.picture) < 1 << 14
    assert thumbnails(Pictures()) == ()
    assert len(thumbnails(Pictures([read_image(noise[:60, :50], 70)] * 70))) == 64


def test_recordings_hold_images(seen, tmp_path):
    read = read_recording(recorded(seen, tmp_path / "r.jsonl"))
    assert read.started.images == seen.started.images
    first = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])
    assert first["version"] == 2
    tokens, events = made_up(steps=2)
    path = recorded(Recording(tokens, events), tmp_path / "without.jsonl")
    assert '"images"' not in path.read_text(), "recordings of texts are as they were"
    assert read_recording(path).started.images == ()


def test_the_heading_names_images(seen):
    lines = [line_text(line) for line in heading(seen.started, seen.tokens, 40)]
    assert lines[0] == "[image 1: a␛[31m<b>.png, 912x672, 266 to"[: len(lines[0])]
    assert lines[1].startswith("> ")


def reds(image):
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.argwhere(np.abs(pixels - RED).max(axis=2) < 12)


@pytest.mark.parametrize("kind", [".png", ".gif", ".mp4"])
def test_pictures_stand_above_the_question(seen, tmp_path, kind):
    out = tmp_path / f"out{kind}"
    write(seen, out, Drawing(width=60, scale=2))
    if kind == ".mp4":
        import av

        with av.open(str(out)) as film:
            image = next(film.decode(video=0)).to_image()
    else:
        with Image.open(out) as opened:
            image = opened.convert("RGB")
    found = reds(image)
    (top, left), (bottom, right) = found.min(axis=0), found.max(axis=0)
    assert (right - left + 1, bottom - top + 1) == pytest.approx((192, 128), abs=4)
    assert (left, top) == pytest.approx((2 * 14, 2 * (32 + 14)), abs=3)


def test_pages_and_drawings_hold_the_picture(seen, tmp_path):
    for kind in (".html", ".svg"):
        out = tmp_path / f"out{kind}"
        write(seen, out, Drawing(width=60))
        text = out.read_text(encoding="utf-8")
        (data,) = re.findall(r'="data:image/png;base64,([^"]+)"', text)
        assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((5, 5)) == RED
        assert "\x1b" not in text
        assert "<b>" not in text


def test_texts_name_images(seen, tmp_path):
    for kind in (".txt", ".cast"):
        out = tmp_path / f"out{kind}"
        write(seen, out, Drawing(width=60))
        assert "[image 1: a" in out.read_text(encoding="utf-8")
        assert "\x1b[31m<b>" not in out.read_text(encoding="utf-8")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8").startswith("[image 1: a␛[31m<b>.png")


def test_only_what_has_room_is_drawn(seen):
    image = seen.started.images[0]
    assert len(shown.place([image] * 9, 80)) == 5
    assert shown.place([image], 15) == []
    assert shown.strip_rows([]) == 0


@pytest.mark.parametrize(
    "picture",
    [
        b"",
        b"no picture",
        stored(Image.new("RGB", (129, 1))),
        stored(Image.new("1", (30000, 30000))),
        stored(Image.new("RGB", (99, 99)), "BMP"),
        stored(Image.effect_noise((99, 99), 50), "PNG")[:999],
    ],
    ids=["empty", "none", "large", "bomb", "another format", "cut short"],
)
def test_pictures_of_strangers_are_left_out(seen, tmp_path, picture):
    """Nothing large is decoded; the image still has its name."""
    image = Thumbnail("[image 1: x]", picture)
    assert image.open() is None
    hostile = Recording(seen.tokens, [dataclasses.replace(seen.started, images=(image,)), *seen.events[1:]])
    for kind in (".png", ".html", ".svg"):
        write(hostile, tmp_path / f"out{kind}", Drawing(width=60))
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "[image 1: x]" in page
    assert "<img" not in page


@pytest.mark.parametrize(
    "images",
    [
        {},
        7,
        [{}],
        [{"caption": "a"}],
        [{"caption": 1, "picture": ""}],
        [{"caption": "a" * 2000, "picture": ""}],
        [{"caption": "a", "picture": "not base64"}],
        [{"caption": "a", "picture": "A" * 200_000}],
        [{"caption": "a", "picture": ""}] * 65,
    ],
)
def test_impossible_images_are_damage(seen, tmp_path, images):
    path = recorded(seen, tmp_path / "r.jsonl")
    first, *rest = path.read_text().splitlines()
    first = json.dumps(json.loads(first) | {"images": images}, separators=(",", ":"))
    path.write_text("\n".join([first, *rest]) + "\n")
    with pytest.raises(RecordingError, match="line 1 is damaged"):
        read_recording(path)
