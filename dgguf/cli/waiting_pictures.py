"""Images and videos that a chat's next message is about."""

from pathlib import Path

from dgguf.cli.images import announce, is_video
from dgguf.cli.output import say
from dgguf.session import Session
from dgguf.videos import NO_PICTURES, Pictures


class WaitingPictures:
    """Collects what /image, /video and pasted paths name.

    Args:
        session: reads them.
        image_tokens: of an image, at most; None for the default.
        preview: images are drawn.

    Attributes:
        pictures: what waits.
    """

    def __init__(self, session: Session, image_tokens: int | None, *, preview: bool) -> None:
        self.pictures = NO_PICTURES
        self._session = session
        self._image_tokens = image_tokens
        self._preview = preview
        self._n_images = self._n_videos = 0  # of the conversation

    def add(self, paths: list[Path]) -> None:
        """Show images and videos, told apart by their names."""
        videos = [path for path in paths if is_video(path)]
        self.add_pictures([path for path in paths if path not in videos], videos)

    def add_pictures(self, images: list[Path], videos: list[Path]) -> None:
        read = self._session.read_images("", images, self._image_tokens)
        frames = self._session.read_videos("", videos)
        self.pictures = Pictures([*self.pictures.images, *read], [*self.pictures.videos, *frames])
        announce(
            Pictures(read, frames),
            say,
            first_image=self._n_images + 1,
            first_video=self._n_videos + 1,
            preview=self._preview,
        )
        self._n_images += len(read)
        self._n_videos += len(frames)

    def clear(self) -> None:
        self.pictures = NO_PICTURES
