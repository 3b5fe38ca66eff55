"""Videos as the vision tower takes them: frames at equal distances, each an image, and when each is seen.

Which frames, and how their times are written, is what transformers' video processor and processor of Gemma 4
do; see docs/images.md. PyAV, which the extra "video" brings, decodes. It is imported where a video is opened.
"""

import contextlib
import importlib.util
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dgguf.errors import ImageError, extra
from dgguf.images import ImageInput, name_of, read_image, regular_file

MOST_FRAMES = 32  # of a video, that the model sees
FRAME_BUDGET = 70  # rows of the text that a frame may take
# What a file may hold: pixels of a frame; frames; pixels of all frames that are decoded, which are 18 minutes
# of 1920x1080 at 30 frames a second.
_MOST_FRAME, _MOST_COUNT, _MOST_DECODED = 1 << 25, 1 << 20, 1 << 36
_RATE = 24.0  # frames a second where nothing says how many: transformers' default
# FFmpeg's names of containers. Left out are images, and what names other files or addresses: playlists.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpeg,mpegts,flv,ogg,asf,apng"
_SHORTER = "shorten or shrink it, as with `ffmpeg -i LONG -vf fps=1,scale=640:-2 SHORT.mp4`"


@dataclass(frozen=True, eq=False)
class VideoInput:
    """One video in the size in which the tower reads it.

    Attributes:
        name: to show a user; text of a file's name, not safe for a terminal.
        frames: at most MOST_FRAMES, all of one size.
        times: of each frame, in seconds from the start.
    """

    name: str
    frames: tuple[ImageInput, ...]
    times: tuple[float, ...]

    @property
    def n_tokens(self) -> int:
        """Rows of the text that the frames take, without what stands between them."""
        return sum(frame.n_tokens for frame in self.frames)

    def caption(self, number: int) -> str:
        """One line for a user; text of a file's name, not safe for a terminal."""
        height, width, _ = self.frames[0].pixels.shape
        frames = f"{len(self.frames)} frames of {width}x{height} from {self.stamps[0]} to {self.stamps[-1]}"
        return f"[video {number}: {self.name}, {frames}, {self.n_tokens} tokens]"

    @property
    def stamps(self) -> list[str]:
        """When each frame is seen, as minutes and seconds: 01:05."""
        return [f"{int(seconds // 60):02d}:{int(seconds % 60):02d}" for seconds in self.times]


@dataclass(frozen=True)
class Pictures:
    """The images and the videos of a prompt, each in the order in which they stand there."""

    images: Sequence[ImageInput] = ()
    videos: Sequence[VideoInput] = ()


NO_PICTURES = Pictures()


def read_video(source: Any) -> VideoInput:
    """Open a video and take frames of it at equal distances, in the size of FRAME_BUDGET.

    Args:
        source: a path, the bytes of a file, or frames as an array, (T, H, W, 3) uint8, 24 a second.

    Raises:
        ImageError: it is none, is damaged, or is too long or too large; PyAV is missing.
        TypeError: the source is of another type.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if not isinstance(source, str | Path | bytes | bytearray | memoryview):
        raise TypeError(
            f"a video of type {type(source).__name__}: it must be a path, bytes of a file or a numpy array"
        )
    if importlib.util.find_spec("av") is None:
        raise ImageError(f"videos need PyAV: {extra('video')}; --image shows single pictures")
    name = name_of(source, "video")
    try:
        if isinstance(source, str | Path):
            with regular_file(source, "video").open("rb") as file:
                return _read(_Nameless(file), name)
        return _read(_Nameless(io.BytesIO(source)), name)
    except ImageError:
        raise
    except Exception as error:  # a stranger's file may fail in any way
        # FFmpeg's own error of memory is also one of Python's: a damaged file named a huge length.
        if isinstance(error, MemoryError) and not hasattr(error, "strerror"):
            raise
        why = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: the video cannot be read, it is damaged or no video ({why})") from error


def chosen_frames(n_frames: int) -> list[int]:
    """The numbers of the frames that are seen of so many.

    Source: transformers, video_utils.py, default_sample_indices_fn.
    """
    count = min(MOST_FRAMES, n_frames)
    return [i * n_frames // count for i in range(count)]


class _Nameless:
    """A file of which FFmpeg learns no name, so that nothing in it is looked for beside it."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _read(file: _Nameless, name: str) -> VideoInput:
    with _opened(file, name) as (container, stream):
        size, rate = (stream.width, stream.height), stream.average_rate
        n_frames = stream.frames or sum(1 for _ in _packets(container, stream))
    _check_size(n_frames, size, name)
    chosen = chosen_frames(n_frames)
    with _opened(file, name) as (container, stream):
        frames = tuple(_frames(container.decode(stream), chosen, size, name))
    if not frames:
        raise ImageError(f"{name}: the video has no frame that can be decoded")
    rate = float(rate or _RATE)
    return VideoInput(name, frames, tuple(number / rate for number in chosen[: len(frames)]))


@contextlib.contextmanager
def _opened(file: _Nameless, name: str) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream."""
    import av

    file.seek(0)
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(_MOST_FRAME)}
    with av.open(file, options=options, metadata_errors="replace") as container:
        if not container.streams.video:
            raise ImageError(f"{name} has no picture that moves: there is no video stream in it")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, each a frame; no more than a video may have."""
    for number, packet in enumerate(container.demux(stream)):
        if number > _MOST_COUNT:
            return
        if packet.size:
            yield packet


def _check_size(n_frames: int, size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > _MOST_FRAME:
        raise ImageError(
            f"{name}: a frame of {width}x{height} is more than {_MOST_FRAME // 1_000_000} million pixels; "
            f"{_SHORTER}"
        )
    if not n_frames or not width * height:
        raise ImageError(f"{name}: the video is empty")
    if n_frames > _MOST_COUNT or n_frames * width * height > _MOST_DECODED:
        raise ImageError(
            f"{name}: {n_frames:,} frames of {width}x{height} are too much to decode; {_SHORTER}"
        )


def _frames(
    decoded: Iterable[Any], chosen: list[int], size: tuple[int, int], name: str
) -> Iterator[ImageInput]:
    """The chosen frames as images; fewer where the stream ends early, as what is cut off by an edit does."""
    wanted = set(chosen)
    for number, frame in enumerate(decoded):
        if (frame.width, frame.height) != size:
            raise ImageError(f"{name}: the frames of the video change their size, from {size[0]}x{size[1]}")
        if number in wanted:
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(getattr(frame, "rotation", 0) / 90))
            yield _image(pixels, name)
        if number >= chosen[-1]:
            return


def _image(pixels: np.ndarray, name: str) -> ImageInput:
    image = read_image(pixels, FRAME_BUDGET)
    return ImageInput(name, image.original, image.pixels, FRAME_BUDGET)


def _of_array(frames: np.ndarray) -> VideoInput:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ImageError(
            f"an array of shape {frames.shape} and {frames.dtype} is no video: it must be (frames, height, "
            "width, 3) of uint8"
        )
    chosen = chosen_frames(len(frames))
    images = tuple(_image(frames[number], "video") for number in chosen)
    return VideoInput("video", images, tuple(number / _RATE for number in chosen))
