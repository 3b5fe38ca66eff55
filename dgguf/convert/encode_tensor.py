"""One tensor from its source's rows to the bytes in the file, slice by slice."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dgguf.convert.plan import TensorPlan
from dgguf.convert.source import StoredTensor
from dgguf.errors import ConversionError
from dgguf.quants.decode import decoder
from dgguf.quants.encode import ENCODERS, NO_IMPORTANCE
from dgguf.quants.finite import finite_rows
from dgguf.threads.pool import Pool

# Weights in a slice: few enough that its float32 values stay in a core's cache.
_SLICE_WEIGHTS = 1 << 19
_SLICES_PER_THREAD = 4  # between two writes
# What rounds to infinity in F16; the blocks' scales are F16 too.
_F16_LIMIT = 65520.0
# What rounds to infinity in other formats, and the type that holds it.
_LIMITS = {"F32": (math.inf, ""), "MXFP4": (math.inf, ""), "BF16": (2.0**128 - 2.0**119, "F32")}


@dataclass(frozen=True)
class TensorError:
    """What a tensor lost.

    Attributes:
        relative: root mean square error over root mean square.
        worst_relative: the same of the worst block's error, still over the tensor's root mean square.
        worst_row, worst_column: where that block begins; rows are counted through all experts.
    """

    relative: float
    worst_relative: float
    worst_row: int
    worst_column: int


@dataclass
class _Loss:
    """Sums over a slice: squared errors, squares, the worst block's squared error and its place."""

    error: float
    square: float
    worst: float
    row: int
    column: int


class TensorEncoder:
    """Encodes one tensor, batch by batch, on all threads.

    Args:
        measure: decode what was encoded and compare, for `error`.
    """

    def __init__(self, tensor: TensorPlan, pool: Pool, *, measure: bool = False) -> None:
        self._tensor = tensor
        self._pool = pool
        self._slice_rows = max(1, _SLICE_WEIGHTS // tensor.shape[-1])
        self._losses: dict[int, _Loss] | None = {} if measure else None

    def batches(self) -> Iterator[np.ndarray]:
        """The tensor's bytes in order, (rows, row_bytes); each array is valid until the next."""
        tensor, slice_rows = self._tensor, self._slice_rows
        batch_rows = min(tensor.n_rows, slice_rows * _SLICES_PER_THREAD * self._pool.threads)
        batch = np.empty((batch_rows, tensor.format.row_bytes(tensor.shape[-1])), np.uint8)
        for start in range(0, tensor.n_rows, batch_rows):
            out = batch[: min(batch_rows, tensor.n_rows - start)]
            self._pool.parallel_for(
                functools.partial(self._encode_slice, start, out), -(-len(out) // slice_rows)
            )
            yield out

    def sample(self) -> np.ndarray:
        """The tensor's first rows, encoded: to see whether a file already holds them."""
        rows = min(self._slice_rows, self._tensor.n_rows)
        out = np.empty((rows, self._tensor.format.row_bytes(self._tensor.shape[-1])), np.uint8)
        self._encode_slice(0, out, 0)
        return out

    @property
    def error(self) -> TensorError | None:
        """What was lost, after the last batch; None unless it was measured."""
        if self._losses is None:
            return None
        losses = [loss for _, loss in sorted(self._losses.items())]
        square = sum(loss.square for loss in losses)
        worst = max(losses, key=lambda loss: loss.worst)
        size = self._tensor.format.block_size
        mean_square = square / self._tensor.n_weights
        if not square:
            return TensorError(0.0, 0.0, worst.row, worst.column)
        return TensorError(
            math.sqrt(sum(loss.error for loss in losses) / square),
            math.sqrt(worst.worst / size / mean_square),
            worst.row,
            worst.column,
        )

    def _encode_slice(self, start: int, out: np.ndarray, number: int) -> None:
        """Encode slice `number` of a batch: `out` takes the tensor's rows from `start` on."""
        tensor = self._tensor
        target = out[number * self._slice_rows : (number + 1) * self._slice_rows]
        first = start + number * self._slice_rows
        values = np.empty((len(target), tensor.shape[-1]), np.float32)
        _decode_rows(tensor.source.parts, first, values)
        _check_values(tensor, values)
        for copy in tensor.source.copies:
            others = np.empty_like(values)
            _decode_rows(copy, first, others)
            if not np.array_equal(values, others):
                raise ConversionError(
                    f"{copy[0].path}: the tensor {copy[0].name} differs from {tensor.source.parts[0].name}, "
                    "to which it should be tied: a GGUF holds it once"
                )
        for part, rows, place in _pieces(tensor.source.parts, first, len(target)):
            if part.format == tensor.format:
                target[place] = rows
            else:
                _encode_rows(tensor, first + place.start, values[place], target[place])
        _check_encoded(tensor, first, target)
        if self._losses is not None:
            self._losses[first] = _loss(tensor, first, values, target)


def _encode_rows(tensor: TensorPlan, first: int, values: np.ndarray, out: np.ndarray) -> None:
    """Encode rows from `first` on, each expert's with the importances of its own columns."""
    encode = ENCODERS[tensor.format.name]
    if tensor.importance is None:
        encode(values, NO_IMPORTANCE, out)
        return
    rows_each = tensor.n_rows // len(tensor.importance)
    done = 0
    while done < len(values):
        matrix, row = divmod(first + done, rows_each)
        stop = min(len(values), done + rows_each - row)
        encode(values[done:stop], tensor.importance[matrix], out[done:stop])
        done = stop


def _loss(tensor: TensorPlan, first: int, values: np.ndarray, encoded: np.ndarray) -> _Loss:
    decoded = np.empty_like(values)
    decoder(tensor.format)(encoded, decoded)
    decoded -= values
    blocks = (
        np.square(decoded, dtype=np.float64).reshape(len(values), -1, tensor.format.block_size).sum(axis=2)
    )
    row, block = np.unravel_index(int(blocks.argmax()), blocks.shape)
    return _Loss(
        float(blocks.sum()),
        float(np.square(values, dtype=np.float64).sum()),
        float(blocks[row, block]),
        first + int(row),
        int(block) * tensor.format.block_size,
    )


def _decode_rows(parts: Sequence[StoredTensor], first: int, out: np.ndarray) -> None:
    """Fill `out`, (rows, columns) float32, with rows of the parts laid end to end, from `first` on."""
    for part, rows, place in _pieces(parts, first, len(out)):
        decoder(part.format)(rows, out[place])


def _pieces(
    parts: Sequence[StoredTensor], first: int, count: int
) -> Iterator[tuple[StoredTensor, np.ndarray, slice]]:
    """Rows `first` to `first + count` of parts laid end to end: part, its rows, where they come to lie."""
    position = 0
    for part in parts:
        start, stop = max(first, position), min(first + count, position + len(part.raw))
        if start < stop:
            yield part, part.raw[start - position : stop - position], slice(start - first, stop - first)
        position += len(part.raw)


def _check_values(tensor: TensorPlan, values: np.ndarray) -> None:
    largest = max(abs(float(values.min())), abs(float(values.max())))
    where = f"{tensor.source.parts[0].path}: the tensor {tensor.name}"
    if not math.isfinite(largest):
        raise ConversionError(f"{where} holds values that are not finite: the source is damaged")
    limit, wider = _LIMITS.get(tensor.format.name, (_F16_LIMIT, "BF16"))
    if largest >= limit:
        raise ConversionError(
            f"{where} holds {largest:g}, which is beyond {tensor.format.name}: convert to {wider} instead"
        )


def _check_encoded(tensor: TensorPlan, first: int, encoded: np.ndarray) -> None:
    """Refuse scales that are no numbers, such as sums of importances beyond float32 lead to."""
    finite = finite_rows(tensor.format, encoded)
    if not finite.all():
        where = f"{tensor.source.parts[0].path}: the tensor {tensor.name}"
        importances = " with its importances" if tensor.importance is not None else ""
        raise ConversionError(
            f"{where}{importances} gives {tensor.format.name} scales that are not finite, first in row "
            f"{first + int(finite.argmin())}: "
            "give it another type by --tensor-type" + ", or check the imatrix" * bool(importances)
        )
