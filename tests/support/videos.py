"""Small films, made by PyAV."""

import io
from fractions import Fraction

import numpy as np


def film(frames, rate=10, kind="matroska", codec="ffv1", pix_fmt="bgr0", **options):
    """The bytes of a film; as it is by default it keeps every pixel, and says nowhere how many frames it has.

    Args:
        frames: (T, H, W, 3) uint8.
        options: of the codec.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=kind, options={"fflags": "bitexact"}) as container:  # no random marks
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return file.getvalue()


def numbered_frames(count, width=96, height=48):
    """(T, H, W, 3) uint8: each frame of one colour, its number in red."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(count).reshape(-1, 1, 1)
    frames[..., 1:] = 77
    return frames
