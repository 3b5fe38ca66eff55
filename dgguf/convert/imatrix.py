"""Importance matrices: for each matrix of a model, how large its inputs were on some text.

    GGUF layout      general.type "imatrix"; for each matrix two F32 tensors, NAME.in_sum2 (matrices,
                     columns), sums of squared inputs, and NAME.counts (matrices, 1), rows added up
    legacy layout    int32 entries · each: int32 length, name, int32 calls, int32 n, n float32 ·
                     int32 chunks · int32 length, name of the text

A stack of experts has one row of columns for each expert. The encoders take the mean square of each
column as the weight of its errors. Source of the layouts: llama.cpp's `llama-imatrix`.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from dgguf.convert.target import check_name
from dgguf.errors import ConversionError, ModelFileError
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.layout import MAGIC, padding
from dgguf.ggufio.write_header import pack_header
from dgguf.model.tensor_names import GATE_EXPERTS, GATE_UP_EXPERTS, UP_EXPERTS, layer_and_kind
from dgguf.quants.block import FORMATS_BY_NAME, BlockFormat
from dgguf.whole_file import whole_file

_SAME_INPUTS = dict.fromkeys((GATE_EXPERTS, UP_EXPERTS), GATE_UP_EXPERTS) | {GATE_UP_EXPERTS: GATE_EXPERTS}
_MAX_ENTRIES = 1 << 20
_MAX_NAME = 1 << 12
_MAX_COUNT = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Imatrix:
    """What an imatrix file says.

    Attributes:
        path: the file.
        dataset: the text that it was collected from; "" if it does not say.
        n_chunks: pieces of the text.
        importances: matrix name → float32, flat: columns, for each expert in turn.
    """

    path: Path
    dataset: str
    n_chunks: int
    importances: Mapping[str, np.ndarray]

    def of(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The importances of a matrix, (experts or 1, columns); None if the file has none.

        Where all of a matrix are 0, nothing is known of it, as it never got an input: then they are 1.

        Raises:
            ConversionError: they are of another number than the matrix has.
        """
        # The experts' gate and up have the same inputs, whether they are one tensor or two.
        _, kind = layer_and_kind(name)
        twin = _SAME_INPUTS.get(kind, kind)
        values = self.importances.get(name, self.importances.get(name.removesuffix(kind) + twin))
        if values is None:
            return None
        n_matrices = shape[0] if len(shape) == 3 else 1
        if values.size != n_matrices * shape[-1]:
            raise ConversionError(
                f"{self.path} has {values.size} importances for {name}, which has "
                f"{n_matrices * shape[-1]}: it was made for another model"
            )
        matrices = values.reshape(n_matrices, shape[-1])
        return np.ascontiguousarray(np.where(matrices.any(axis=1, keepdims=True), matrices, np.float32(1)))


@dataclass(frozen=True, eq=False)
class Sums:
    """What was seen of the inputs of a matrix, or of each matrix of a stack.

    Attributes:
        squares: (matrices, columns) float64, each column's squared inputs added up.
        counts: (matrices,) float64, the rows that were added up.
    """

    squares: np.ndarray
    counts: np.ndarray

    @classmethod
    def zero(cls, n_matrices: int, columns: int) -> Self:
        return cls(np.zeros((n_matrices, columns)), np.zeros(n_matrices))


@dataclass(frozen=True, eq=False)
class _Entry:
    """A tensor of an imatrix file; see `header.TensorEntry`."""

    name: str
    values: np.ndarray
    format: BlockFormat = FORMATS_BY_NAME["F32"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def n_bytes(self) -> int:
        return self.values.nbytes


def write_imatrix(
    path: Path,
    sums: Mapping[str, Sums],
    *,
    datasets: Sequence[str],
    n_chunks: int,
    chunk_size: int,
    force: bool = False,
) -> None:
    """Write a file of the GGUF layout; it appears when it is whole.

    Args:
        datasets: what the texts are called.
        n_chunks: pieces of the texts that were run.
        chunk_size: tokens of a piece.
        force: replace `path` if it exists.

    Raises:
        ConversionError: the file exists or cannot be written.
    """
    check_name(path, force)
    entries = []
    for name in sorted(sums):
        entries.append(_Entry(f"{name}.in_sum2", sums[name].squares.astype("<f4")))
        entries.append(_Entry(f"{name}.counts", sums[name].counts.astype("<f4")[:, None]))
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": list(datasets),
        "imatrix.chunk_count": np.uint32(n_chunks),
        "imatrix.chunk_size": np.uint32(chunk_size),
    }
    try:
        with whole_file(path) as part, part.open("wb") as file:
            file.write(pack_header(metadata, entries))
            for entry in entries:
                file.write(entry.values.tobytes() + padding(entry.n_bytes))
    except OSError as error:
        raise ConversionError(f"{path} cannot be written: {error.strerror}") from error


def read_imatrix(path: Path) -> Imatrix:
    """Read a file of either layout.

    Raises:
        ConversionError: the file cannot be read, is damaged or no imatrix.
    """
    try:
        with path.open("rb") as file:
            is_gguf = file.read(len(MAGIC)) == MAGIC
        imatrix = _read_gguf(path) if is_gguf else _read_legacy(path, path.read_bytes())
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from None
    except ModelFileError as error:
        raise ConversionError(str(error)) from None
    for name, values in imatrix.importances.items():
        if not np.isfinite(values).all() or values.min(initial=0) < 0:
            raise ConversionError(f"{path} is damaged: the importances of {name} are no mean squares")
    return imatrix


def _read_gguf(path: Path) -> Imatrix:
    with GgufFile(path) as file, file.reading():
        if file.get("general.type", str, "") != "imatrix":
            raise ConversionError(f"{path} is a GGUF file but no imatrix: its general.type says otherwise")
        found = {}
        for name, tensor in file.tensors.items():
            if not name.endswith(".in_sum2"):
                continue
            base = name.removesuffix(".in_sum2")
            counts = file.tensors.get(f"{base}.counts")
            if counts is None or tensor.format.name != "F32" or counts.format.name != "F32":
                raise ConversionError(f"{path} is damaged: {name} has no counts, or is not F32")
            sums = np.frombuffer(file.data(name).tobytes(), "<f4").reshape(-1, tensor.shape[-1])
            times = np.frombuffer(file.data(f"{base}.counts").tobytes(), "<f4")
            if times.size != len(sums):
                raise ConversionError(
                    f"{path} is damaged: {base} has {times.size} counts for {len(sums)} rows"
                )
            # An expert that never got an input: all its columns matter alike.
            seen = times[:, None] > 0
            with np.errstate(all="ignore"):  # what is not finite is refused below
                means = np.where(seen, sums / np.where(seen, times[:, None], 1), np.float32(1))
            found[base] = means.astype(np.float32).ravel()
        datasets = file.get("imatrix.datasets", list[str], [])
        n_chunks = file.get("imatrix.chunk_count", int, 0, least=0, most=_MAX_COUNT)
        return Imatrix(path, ", ".join(datasets), n_chunks, found)


def _read_legacy(path: Path, data: bytes) -> Imatrix:
    position = 0

    def take(count: int) -> bytes:
        nonlocal position
        if count < 0 or position + count > len(data):
            raise ConversionError(f"{path} is cut off, or no imatrix file")
        position += count
        return data[position - count : position]

    def integer(limit: int) -> int:
        value: int = struct.unpack("<i", take(4))[0]
        if not 0 <= value <= limit:
            raise ConversionError(f"{path} is damaged, or no imatrix file")
        return value

    found = {}
    for _ in range(integer(_MAX_ENTRIES)):
        name = take(integer(_MAX_NAME)).decode("utf-8", "replace")
        n_calls = integer(_MAX_COUNT)
        values = np.frombuffer(take(4 * integer(len(data) // 4)), "<f4")
        with np.errstate(all="ignore"):
            found[name] = values / np.float32(n_calls) if n_calls else values
    if not found:
        raise ConversionError(f"{path} is no imatrix file: it has no entries")
    n_chunks, dataset = 0, ""
    if position < len(data):
        n_chunks = integer(_MAX_COUNT)
        dataset = take(integer(_MAX_NAME)).decode("utf-8", "replace")
    return Imatrix(path, dataset, n_chunks, found)
