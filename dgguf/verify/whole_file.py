"""A model file read once, from its first byte to its last: digests, and blocks that hold no numbers.

The bytes are read instead of looked at in the map, so that a file that shrinks meanwhile is an error and
no signal. While one piece is read, the piece before is digested and looked at in threads of their own.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgguf.errors import ModelFileError
from dgguf.ggufio import layout
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.read_header import TensorInfo
from dgguf.quants.finite import finite_blocks
from dgguf.units import count

_PIECE = 1 << 22  # bytes that are read together
_BUFFERS = 4  # pieces in memory


@dataclass(frozen=True)
class ReadFile:
    """A file that was read to its end.

    Attributes:
        sha256: in hexadecimal digits.
        behind: bytes behind the last tensor and its padding.
    """

    path: Path
    n_bytes: int
    sha256: str
    behind: int


@dataclass(frozen=True)
class BadTensor:
    """A tensor with blocks whose scales, or values that themselves, are infinite or NaN.

    Attributes:
        name, type: of the tensor.
        path: of its file.
        n_blocks: how many there are; in plain types a block is a value.
        row, column: of the first one's first weight; rows are counted through all experts.
        offset: of that block in the file, in bytes.
    """

    name: str
    type: str
    path: Path
    n_blocks: int
    row: int
    column: int
    offset: int

    def __str__(self) -> str:
        plain = self.type in ("F32", "F16", "BF16", "F64")
        number = count(self.n_blocks, "place" if plain else "block")
        what = f"values at {number}" if plain else f"scales of {number}"
        return (
            f"the tensor {self.name!r:.99} ({self.type}): {what} are not finite, the "
            f"first in row {self.row}, column {self.column}, at byte {self.offset} of {self.path}"
        )


@dataclass(frozen=True)
class WholeFile:
    """What reading a model found.

    Attributes:
        files: one, or the parts of a split model.
        bad: tensors with blocks that hold no numbers, in the order in which they were found.
        seconds: it took.
    """

    files: tuple[ReadFile, ...]
    bad: tuple[BadTensor, ...]
    seconds: float

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return sum(file.n_bytes for file in self.files)

    @property
    def bytes_per_second(self) -> float:
        return self.n_bytes / max(self.seconds, 1e-9)


def read_whole(file: GgufFile, progress: Callable[[int], None] = lambda n_bytes: None) -> WholeFile:
    """Read every byte of a model, in order.

    Args:
        file: is open; all its parts are read.
        progress: told how many bytes more were read, often.

    Raises:
        ModelFileError: a file cannot be read, or has changed since it was opened (FileChangedError).
    """
    began = time.perf_counter()
    files: list[ReadFile] = []
    bad: list[BadTensor] = []
    alignment = file.get(layout.ALIGNMENT_KEY, int, layout.ALIGNMENT)
    for number, path in enumerate(file.paths):
        tensors = [tensor for tensor in file.tensors.values() if tensor.part == number]
        reader = _Reader(path, sorted(tensors, key=lambda tensor: tensor.offset), alignment)
        with file.reading():
            files.append(reader.read(progress))
        bad += reader.bad()
    return WholeFile(tuple(files), tuple(bad), time.perf_counter() - began)


class _Reader:
    """Reads one file.

    Args:
        tensors: that it holds, by offset.
        alignment: of them.
    """

    def __init__(self, path: Path, tensors: list[TensorInfo], alignment: int) -> None:
        self._path = path
        self._alignment = alignment
        self._tensors = tensors
        self._digest = hashlib.sha256()
        self._bad: dict[str, tuple[int, int]] = {}  # of a tensor: its first bad block, and how many

    def read(self, progress: Callable[[int], None]) -> ReadFile:
        buffers = [np.empty(_PIECE, np.uint8) for _ in range(_BUFFERS)]
        waiting: list[list[Future[None]]] = [[] for _ in buffers]  # for what a buffer's piece goes through
        try:
            with (
                self._path.open("rb", buffering=0) as file,
                ThreadPoolExecutor(1) as digester,  # one thread each: both take the pieces in order
                ThreadPoolExecutor(1) as scanner,
            ):
                n_bytes = os.fstat(file.fileno()).st_size
                for i, (tensor, start, size) in enumerate(self._pieces(n_bytes)):
                    for future in waiting[i % _BUFFERS]:
                        future.result()
                    piece = buffers[i % _BUFFERS][:size]
                    self._fill(file.readinto, piece)
                    waiting[i % _BUFFERS] = [digester.submit(self._digest.update, piece.data)]
                    if tensor is not None:
                        waiting[i % _BUFFERS].append(scanner.submit(self._scan, tensor, start, piece))
                    progress(size)
                for future in (future for futures in waiting for future in futures):
                    future.result()
        except OSError as error:
            raise ModelFileError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        ends = (layout.padded(tensor.offset + tensor.n_bytes, self._alignment) for tensor in self._tensors)
        behind = max(0, n_bytes - max(ends, default=n_bytes))
        return ReadFile(self._path, n_bytes, self._digest.hexdigest(), behind)

    def bad(self) -> Iterator[BadTensor]:
        """The tensors with bad blocks, in the order of the file."""
        for tensor in self._tensors:
            if tensor.name in self._bad:
                first, count = self._bad[tensor.name]
                row, column = divmod(first * tensor.format.block_size, tensor.shape[-1])
                offset = tensor.offset + first * tensor.format.type_size
                yield BadTensor(tensor.name, tensor.format.name, self._path, count, row, column, offset)

    def _pieces(self, n_bytes: int) -> Iterator[tuple[TensorInfo | None, int, int]]:
        """Tensor or None, first byte and size of the pieces of a file: of a tensor whole blocks."""
        position = 0
        for tensor in self._tensors:
            yield from _cut(None, position, tensor.offset)
            yield from _cut(tensor, tensor.offset, tensor.offset + tensor.n_bytes)
            position = tensor.offset + tensor.n_bytes
        if position > n_bytes:
            raise self._ended()
        yield from _cut(None, position, n_bytes)

    def _fill(self, readinto: Callable[[memoryview], int | None], piece: np.ndarray) -> None:
        done = 0
        while done < len(piece):
            more = readinto(piece[done:].data)
            if not more:
                raise self._ended()
            done += more

    def _scan(self, tensor: TensorInfo, start: int, piece: np.ndarray) -> None:
        finite = finite_blocks(tensor.format, piece)
        if not finite.all():
            first, count = self._bad.get(tensor.name, (-1, 0))
            if first < 0:
                first = (start - tensor.offset) // tensor.format.type_size + int(finite.argmin())
            self._bad[tensor.name] = first, count + int(np.count_nonzero(~finite))

    def _ended(self) -> ModelFileError:
        return ModelFileError(f"{self._path} is shorter than its header says: download it again")


def _cut(tensor: TensorInfo | None, start: int, end: int) -> Iterator[tuple[TensorInfo | None, int, int]]:
    unit = tensor.format.type_size if tensor else 1
    step = _PIECE // unit * unit
    for first in range(start, end, step):
        yield tensor, first, min(step, end - first)
