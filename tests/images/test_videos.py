"""Videos before the network sees them: which frames, when, in which size, and what is refused."""

import contextlib
import importlib.util

import numpy as np
import pytest

from dgguf import videos
from dgguf.errors import ImageError
from dgguf.videos import FRAME_BUDGET, chosen_frames, read_video
from tests.support.videos import film, numbered_frames


def test_frames_at_equal_distances():
    assert chosen_frames(5) == [0, 1, 2, 3, 4]
    assert chosen_frames(32) == list(range(32))
    assert chosen_frames(33) == [*range(32)]
    assert chosen_frames(100)[:4] == [0, 3, 6, 9]
    assert chosen_frames(100)[-1] == 96
    assert all(len(chosen_frames(n)) == 32 for n in range(32, 200))


@pytest.mark.parametrize("kind", ["matroska", "mp4"])
def test_chosen_frames_are_read(kind):
    """One container says how many frames it has, the other does not."""
    lossless = {} if kind == "matroska" else {"codec": "libx264rgb", "pix_fmt": "rgb24", "qp": "0"}
    video = read_video(film(numbered_frames(70), 10, kind, **lossless))
    assert [int(frame.pixels[0, 0, 0]) for frame in video.frames] == chosen_frames(70)
    assert (video.frames[0].pixels[..., 1:] == 77).all()
    assert all(frame.budget == FRAME_BUDGET and frame.n_tokens <= 70 for frame in video.frames)
    assert video.n_tokens == 32 * video.frames[0].n_tokens
    assert video.times == tuple(number / 10 for number in chosen_frames(70))
    assert video.stamps[0] == "00:00"
    assert video.stamps[-1] == "00:06"


def test_times_are_minutes_and_seconds():
    video = videos.VideoInput("a", (), (0.0, 59.99, 60.0, 3725.5))
    assert video.stamps == ["00:00", "00:59", "01:00", "62:05"]


def test_short_videos_show_every_frame(tmp_path):
    path = tmp_path / "a film.mkv"
    path.write_bytes(film(numbered_frames(3)))
    for source in (path, str(path), path.read_bytes(), numbered_frames(3)):
        video = read_video(source)
        assert [int(frame.pixels[0, 0, 0]) for frame in video.frames] == [0, 1, 2]
    assert read_video(path).name == "a film.mkv"
    assert read_video(path).frames[0].name == "a film.mkv"


def test_a_turned_video_stands_upright(monkeypatch):
    """As phones write it: the frames lie, and a matrix beside them says how to turn them."""
    frames = numbered_frames(1, 96, 48)
    frames[:, :24] = 250  # the upper half
    (lying,) = read_video(frames).frames

    class Frame:
        width, height, rotation = 96, 48, 90

        def to_ndarray(self, format):
            return frames[0]

    (turned,) = videos._frames([Frame()], [0], (96, 48), "a")
    assert turned.original == (48, 96)
    height, width, _ = turned.pixels.shape
    assert turned.pixels[height // 2, 3, 0] == lying.pixels[3, 3, 0] == 250
    assert turned.pixels[height // 2, width - 3, 0] == 0


def test_wrong_videos_are_refused(tmp_path, monkeypatch):
    whole = film(numbered_frames(40))
    (tmp_path / "text.mp4").write_text("no film")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile a.mkv\n")
    (tmp_path / "a.mkv").write_bytes(whole)
    for source, words in (
        (tmp_path / "none.mp4", "no such video"),
        (tmp_path, "this is no file"),
        ("https://example.org/a.mp4", "videos are read from files"),
        (tmp_path / "text.mp4", "damaged or no video"),
        (tmp_path / "list.m3u8", "damaged or no video"),
        (tmp_path / "list.ffconcat", "damaged or no video"),
        (b"", "damaged or no video"),
        (whole[:200], "video"),
        (np.zeros((0, 4, 4, 3), np.uint8), "is no video"),
        (np.zeros((4, 4, 3), np.uint8), "is no video"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            read_video(source)
        assert len(str(caught.value)) < 500
    with pytest.raises(TypeError, match="a video of type int"):
        read_video(3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"pip install 'dgguf\[video\]'"):
        read_video(whole)


def test_cut_and_changed_files_end_in_a_sentence():
    """Wherever a film is cut or changed it is read as far as it goes, or refused; nothing else happens."""
    whole = film(numbered_frames(12, 48, 48))
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole)))])
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = int(rng.integers(256))
        with contextlib.suppress(ImageError):
            assert 1 <= len(read_video(bytes(damaged)).frames) <= 32


def test_a_length_beyond_all_memory_ends_in_a_sentence():
    """FFmpeg refuses the memory with an error that is a MemoryError of Python's, too."""
    damaged = bytearray(film(numbered_frames(3, 16, 16), 10, "mp4", "mpeg4", "yuv420p"))
    damaged[damaged.index(b"stsd") + 13] = 0xFF  # the entry of its stream has 16 MB
    damaged += bytes.fromhex("0f076fd5 47caf9ee")  # and more comes behind them
    with pytest.raises(ImageError, match="it is damaged or no video"):
        read_video(bytes(damaged))


def test_videos_are_bounded(monkeypatch):
    """Before anything is decoded: by the size and the number of the frames."""
    monkeypatch.setattr(videos, "_frames", lambda *arguments: pytest.fail("it was decoded"))
    for width, height, n_frames, words in (
        (20000, 20000, 1, "more than 33 million pixels"),
        (1920, 1080, 100_000, "too much to decode"),
        (2, 2, 1 << 21, "too much to decode"),
        (2, 2, 0, "is empty"),
    ):
        with pytest.raises(ImageError, match=words):
            videos._check_size(n_frames, (width, height), "a.mp4")
    monkeypatch.setattr(videos, "_MOST_COUNT", 10)
    with pytest.raises(ImageError, match="too much to decode"):
        read_video(film(numbered_frames(12, 48, 48)))
