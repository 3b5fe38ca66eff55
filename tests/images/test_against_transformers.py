"""Pixels, byte for byte those of transformers' image processor that uses Pillow; and frames of videos."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from dgguf.images import BUDGETS, read_image
from dgguf.prompts import put_videos
from dgguf.videos import VideoInput, chosen_frames, read_video
from tests.images.test_images import random_picture
from tests.support.videos import film


@pytest.mark.oracle
def test_random_images():
    pytest.importorskip("transformers")
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    processors = {budget: Gemma4ImageProcessorPil(max_soft_tokens=budget) for budget in BUDGETS}
    rng = np.random.default_rng(11)
    for seed in range(2000):
        width, height = np.exp(rng.uniform(0, 6.5, 2)).astype(int) + 1
        budget = int(rng.choice(BUDGETS[:3] if seed % 20 else BUDGETS))
        picture = random_picture(seed, width, height)
        if seed % 5 == 1:
            picture = picture.convert("L")
        elif seed % 5 == 2:
            picture.putalpha(random_picture(seed + 1, width, height).convert("L"))
        elif seed % 5 == 3:
            picture = picture.convert("CMYK")
        image = read_image(picture, budget)
        theirs = processors[budget](picture, return_tensors="np")
        count = 9 * int(theirs["num_soft_tokens_per_image"][0])
        assert count == 9 * image.n_tokens
        assert np.array_equal(theirs["pixel_values"][0][:count], image.patches())


@pytest.mark.oracle
def test_frames_and_times_of_videos():
    """Which frames are seen, and the text around them."""
    pytest.importorskip("transformers")
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
    from transformers.video_utils import VideoMetadata, default_sample_indices_fn

    marks = SimpleNamespace(boi_token="<|image>", eoi_token="<image|>", video_token="<|video|>")
    for n_frames, rate in ((32, 24.0), (33, 29.97), (70, 10.0), (1000, 30.0), (99_999, 25.0), (5, 24.0)):
        metadata = VideoMetadata(total_num_frames=n_frames, fps=rate)
        if n_frames >= 32:
            assert default_sample_indices_fn(metadata, num_frames=32).tolist() == chosen_frames(n_frames)
        metadata.frames_indices = chosen_frames(n_frames)
        given = {"num_soft_tokens_per_video": [1], "video_metadata": [metadata]}
        video = VideoInput("a", (), tuple(number / rate for number in chosen_frames(n_frames)))
        assert put_videos("<|video|>", [video]) == Gemma4Processor.replace_video_token(marks, given, 0)


@pytest.mark.oracle
def test_pixels_of_videos():
    """Frames of a file: byte for byte where they are not resized; torchvision's resizing differs by 2."""
    pytest.importorskip("torchvision")
    from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
    from transformers.video_utils import read_video_pyav

    for seed, (width, height) in enumerate(((480, 336), (432, 336), (640, 480), (90, 320), (50, 50))):
        frames = np.random.default_rng(seed).integers(0, 256, (40, height, width, 3), np.uint8)
        file = film(frames, 10, "mp4", "libx264", "yuv420p")
        video = read_video(file)
        theirs, metadata = read_video_pyav(io.BytesIO(file), lambda metadata: np.arange(32) * 40 // 32)
        assert tuple(metadata.timestamps) == video.times
        processed = Gemma4VideoProcessor()(list(theirs[None]), do_sample_frames=False, return_tensors="np")
        count = 9 * video.frames[0].n_tokens
        found = np.stack([frame.patches() for frame in video.frames])
        wanted = processed["pixel_values_videos"].reshape(32, -1, 768)[:, :count]
        np.testing.assert_allclose(found, np.rint(255 * found) / 255, atol=1e-7)
        difference = np.abs(np.rint(255 * found) - np.rint(255 * wanted))  # torchvision divides in float32
        assert difference.max() <= (0 if seed < 2 else 2)
        assert (difference > 0).mean() < 0.02
