"""Images for a model: finds and opens its vision tower, and keeps the rows of images that it has read."""

import contextlib
import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.backends.base import Role, TowerBackend
from dgguf.errors import DggufError, ImageError
from dgguf.ggufio.file import GgufFile
from dgguf.hub.repository import is_tower
from dgguf.images import ImageInput, read_image
from dgguf.model.config import ModelConfig
from dgguf.model.mmproj import PLACES, VisionConfig, load_vision
from dgguf.model.spans import Span
from dgguf.model.vision import VisionTower
from dgguf.text.tokenizer import ImageMarks
from dgguf.videos import Pictures, VideoInput, read_video

NONE = "none"  # in place of a path: no tower, whatever lies beside the model
_KEPT_BYTES = 64 << 20  # of rows: some twenty images
_LOG = logging.getLogger(__name__)


def find_mmproj(model: Path) -> Path | None:
    """The mmproj file beside a model, or beside what it is a link to, if there is one.

    Raises:
        ImageError: there are several.
    """
    # The hub's cache has links, whose names tell more than what they lead to.
    for folder in dict.fromkeys((model.absolute().parent, model.resolve().parent)):
        found = sorted(path for path in folder.iterdir() if is_tower(path.name) and path.is_file())
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:4])
            raise ImageError(
                f"beside {model.name} lie several mmproj files, {names}: choose one with --mmproj"
            )
        if found:
            return found[0]
    return None


Shown = Callable[[str, int], AbstractContextManager[Callable[[], object]]]


@contextlib.contextmanager
def not_shown(name: str, n_layers: int) -> Iterator[Callable[[], None]]:
    """Shows nobody how far an image is."""
    yield lambda: None


@dataclass
class Reading:
    """An image that is being read.

    Attributes:
        began: by `time.perf_counter`.
        layer: of the tower, so many are done.
    """

    name: str
    n_layers: int
    began: float
    layer: int = 0

    @property
    def seconds_left(self) -> float | None:
        """Until it is read; None before the first layer is done."""
        seconds = time.perf_counter() - self.began
        return seconds * (self.n_layers - self.layer) / self.layer if self.layer else None


class ImageReader:
    """Reads images for one model; the tower is opened when the first is asked for.

    Args:
        model: the model's file.
        config: its geometry.
        marks: its tokens around images; None where its vocabulary has none.
        mmproj: the tower's file; None for the one beside the model, "none" for none at all.
        make_backend: gives what computes, for the tower's file and geometry.

    Raises:
        ImageError: there is no such file as `mmproj`.

    Attributes:
        shown: is called with the name of an image that is to be read and the tower's layers; what its context
            gives is called in the same thread when a layer is done.
        reading: the image that is being read, if one is; for whoever watches from another thread.
    """

    def __init__(
        self,
        model: Path,
        config: ModelConfig,
        marks: ImageMarks | None,
        mmproj: str | Path | None,
        make_backend: Callable[[GgufFile, VisionConfig], TowerBackend],
    ) -> None:
        if mmproj not in (None, NONE) and not Path(mmproj).is_file():
            raise ImageError(f"{mmproj}: there is no such vision tower")
        self._model, self._config, self._marks = model, config, marks
        self._mmproj = mmproj
        self._make_backend = make_backend
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self.shown: Shown = not_shown
        self.reading: Reading | None = None

    def read(self, sources: Sequence[Any], budget: int) -> list[ImageInput]:
        """Open images, after seeing that the model can read any.

        Raises:
            ImageError: one cannot be read, or the model has no tower.
            UnsupportedModelError: the tower's file is not this model's.
        """
        if sources:
            self._check_sees()
        return [each if isinstance(each, ImageInput) else read_image(each, budget) for each in sources]

    def read_videos(self, sources: Sequence[Any]) -> list[VideoInput]:
        """Open videos, after seeing that the model can read any.

        Raises:
            ImageError: one cannot be read, or the model has no tower or no token for a video.
            UnsupportedModelError: the tower's file is not this model's.
        """
        if sources:
            self._check_sees()
        if sources and self._marks and self._marks.video is None:
            raise ImageError("this model reads no videos: its vocabulary has no token for one; show images")
        return [each if isinstance(each, VideoInput) else read_video(each) for each in sources]

    def _check_sees(self) -> None:
        """See that the model has tokens for images, and a tower: opened, before anything is computed."""
        if self._marks is None:
            raise ImageError(
                "this model reads no images: its vocabulary has no token for one; ask without one"
            )
        self.open()

    @property
    def sees(self) -> bool:
        """Whether there is a tower, and the model has tokens for images; the tower is not opened."""
        if self._marks is None or self._mmproj == NONE:
            return False
        try:
            return self._mmproj is not None or find_mmproj(self._model) is not None
        except (ImageError, OSError):  # several, of which one is to be chosen; or nobody may look
            return False

    def _find(self) -> Path | None:
        """The tower's file, whether it is there or not; None where there is none beside the model."""
        return find_mmproj(self._model) if self._mmproj is None else Path(self._mmproj)

    @property
    def digest(self) -> str:
        """Tells towers apart, as `GgufFile.digest`; "none" where there is none that can be opened."""
        with contextlib.suppress(DggufError, OSError):
            if self.sees and (path := self._find()):
                with GgufFile(path) as file:
                    return file.digest
        return NONE

    @functools.cached_property
    def tower(self) -> VisionTower:
        """The tower, opened when it is first asked for.

        Raises:
            ImageError: there is none.
            UnsupportedModelError: its file is not this model's.
        """
        if self._mmproj == NONE:
            raise ImageError("there is no vision tower (--mmproj none), so images cannot be read")
        path = self._find()
        if path is None:
            raise ImageError(
                f"{self._model.name} has no vision tower beside it, so it cannot read images: make one from "
                "the checkpoint with `dgguf quantize HF_DIR --mmproj mmproj-BF16.gguf`, or give --mmproj FILE"
            )
        with contextlib.ExitStack() as on_error:
            file = on_error.enter_context(GgufFile(path))
            config = VisionConfig.from_file(file)
            config.check_fits(file, self._config, str(self._model))
            backend = self._make_backend(file, config)
            _compile_ahead(file, backend)
            _LOG.info("vision tower: %s", path)
            tower = VisionTower(config, load_vision(file, config, backend), backend)
            on_error.pop_all()
        return tower

    def open(self) -> None:
        """Open the tower, for whoever wants it before the first image; with the errors of `tower`."""
        _ = self.tower

    def rows(self, image: ImageInput) -> np.ndarray:
        """The rows of an image, (n_tokens, D) float32; kept while there is room."""
        if image.digest in self._kept:
            self._kept.move_to_end(image.digest)
            return self._kept[image.digest]
        reading = Reading(image.name, len(self.tower.weights.layers), time.perf_counter())
        self.reading = reading
        try:
            with self.shown(image.name, reading.n_layers) as advance:

                def count() -> None:
                    reading.layer += 1
                    advance()

                rows = self.tower.encode(image, count)
        finally:
            self.reading = None
        _LOG.info("%s: %d rows in %.1f s", image.name, len(rows), time.perf_counter() - reading.began)
        self._kept[image.digest] = rows
        while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return rows

    def spans(self, ids: np.ndarray, pictures: Pictures) -> tuple[Span, ...]:
        """Where in a prompt's ids, from `PromptEncoder`, each image and each frame of a video stands.

        Raises:
            ImageError: the ids have another number of images, or of rows of one.
        """
        if self._marks is None:
            return ()
        frames = [frame for video in pictures.videos for frame in video.frames]
        spans = [
            *self._spans(ids, self._marks.image, pictures.images, "images"),
            *self._spans(ids, self._marks.video, frames, "frames"),
        ]
        return tuple(sorted(spans, key=lambda span: span.first))

    def _spans(
        self, ids: np.ndarray, mark: int | None, images: Sequence[ImageInput], what: str
    ) -> Iterator[Span]:
        """A span for each run of a mark, which is an image's."""
        if not images:
            begins = np.flatnonzero(ids[:-1] == (self._marks.begin if self._marks else -1))
            if mark is not None and (ids[begins + 1] == mark).any():
                raise ImageError(f"the prompt's ids have rows of {what}, and none were given: give them, too")
            return
        borders = np.flatnonzero(np.diff(np.concatenate(([0], ids == mark, [0]))))
        runs = borders.reshape(-1, 2).tolist()
        if [end - first for first, end in runs] != [image.n_tokens for image in images]:
            raise ImageError(
                f"the prompt's ids have {len(runs)} {what}, of {sum(e - f for f, e in runs)} rows, and "
                f"{len(images)} were given, of {sum(image.n_tokens for image in images)}: encode it with them"
            )
        for (first, _), image in zip(runs, images, strict=True):
            yield Span(first, image.n_tokens, _key(image), functools.partial(self.rows, image))

    def close(self) -> None:
        """Let go of the tower's file."""
        if "tower" in self.__dict__:
            self.tower.weights.file.close()


def _compile_ahead(file: GgufFile, backend: TowerBackend) -> None:
    """Load the kernels of a tower, and compile those that are not kept."""
    from dgguf.backends.cpu import CpuBackend
    from dgguf.compiling.ahead import compile_ahead
    from dgguf.compiling.formats import formats_of
    from dgguf.compiling.needed import Work

    if not isinstance(backend, CpuBackend):
        return
    # As products take it: patches are a matrix, and places are rows that are looked up.
    tensors = [each for each in file.tensors.values() if each.name != PLACES and len(each.shape) > 1]
    panels, decoded = formats_of(tensors, lambda name: Role.VISION, backend.path)
    compile_ahead(Work(threads=backend.threads > 1, tower=backend.path, panels=panels, decoded=decoded))


def _key(image: ImageInput) -> int:
    """A negative number of 63 bits: equal for equal pixels."""
    return -1 - (int.from_bytes(image.digest, "little") >> 1)
