"""Screens as a film with a codec: MP4 (H.264) and WebM (VP9), by PyAV, which the extra "video" brings."""

import importlib.util
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from dgguf.errors import RecordingError, extra
from dgguf.view.export.shown import Placed
from dgguf.view.export.theme import Theme
from dgguf.view.screens import Screen

# By the suffix: format, codec, and its options for text, whose edges are sharp.
_KINDS = {
    ".mp4": ("mp4", "libx264", {"crf": "18", "tune": "animation", "bf": "0"}),
    ".webm": (
        "webm",
        "libvpx-vp9",
        {"crf": "28", "b": "0", "cpu-used": "4", "row-mt": "1"},
    ),
}
_RATE = (
    50  # of the clock, a second: no step of a film is shorter than one tick. Pictures come when they change.
)
_MOST_SIDE = 16_384  # of H.264


def require() -> None:
    """See that PyAV is there.

    Raises:
        RecordingError: it is not.
    """
    if importlib.util.find_spec("av") is None:
        raise RecordingError(f"films with a codec need PyAV: {extra('video')}; or choose .gif")


def write(
    path: Path,
    kind: str,
    shown: Sequence[Screen],
    width: int,
    height: int,
    theme: Theme,
    title: str,
    scale: int,
    pictures: Sequence[Placed] = (),
) -> None:
    """All screens, each for its time.

    Args:
        kind: one of `names.CODECS`.
        width, height: of a screen, in columns and rows.
        title: in the bar above.
        scale: 2 for twice as fine.
        pictures: that stand at the top of every screen.

    Raises:
        RecordingError: PyAV is not there, or a screen is too wide or too high for a codec.
    """
    require()
    import av
    from PIL import Image

    from dgguf.view.export.picture import draw, pixels

    looks = (width, height, theme, title, scale, pictures)
    container_format, codec, options = _KINDS[kind]
    even_sides = [side + side % 2 for side in pixels(width, height, scale)]
    if max(even_sides) > _MOST_SIDE:
        raise RecordingError(
            f"a film of {even_sides[0]} x {even_sides[1]} pixels would be too large, as a side may have "
            f"{_MOST_SIDE:,}: choose .html or .svg, or a lower --scale"
        )
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=_RATE, options=options)
        stream.pix_fmt = "yuv420p"  # what every player knows
        stream.width, stream.height = even_sides
        began, last = 0.0, -1
        for screen in [*shown, shown[-1]]:  # the last once more, where it ends: else it would not last
            # Codecs want even sides: what is missing is ground.
            even = Image.new("RGB", (stream.width, stream.height), theme.ground)
            even.paste(draw(screen, *looks))
            picture = av.VideoFrame.from_image(even).reformat(format=stream.pix_fmt)
            last = max(last + 1, round(began * _RATE))
            picture.pts, picture.time_base = last, Fraction(1, _RATE)
            container.mux(stream.encode(picture))
            began += screen.seconds
        container.mux(stream.encode(None))
