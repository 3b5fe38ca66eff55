"""Carrying out a plan: rows are decoded, encoded and written a slice at a time, on all cores.

The file grows as OUT.partial and gets its name only when it is whole and on the disk.
"""

import contextlib
import functools
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dgguf.backends.cpu.pool import Pool, usable_cores
from dgguf.convert.header import padded
from dgguf.convert.plan import Plan, TensorPlan
from dgguf.convert.source import StoredTensor
from dgguf.errors import ConversionError
from dgguf.quants.decode import decoder
from dgguf.quants.encode import ENCODERS

# Weights in a slice: few enough that its float32 values stay in a core's cache.
_SLICE_WEIGHTS = 1 << 19
_SLICES_PER_THREAD = 4  # between two writes
_F16_LIMIT = 65520.0  # rounds to infinity


@dataclass(frozen=True)
class TensorWritten:
    """One tensor is in the file.

    Attributes:
        index: its place in the plan, from 0.
        name: its GGUF name.
        n_bytes: what it takes in the file.
        seconds: since the conversion began.
    """

    index: int
    name: str
    n_bytes: int
    seconds: float


@dataclass(frozen=True)
class Finished:
    """The file is whole and has its name.

    Attributes:
        path: the file.
        n_bytes: its size.
        seconds: since the conversion began.
    """

    path: Path
    n_bytes: int
    seconds: float


Event = TensorWritten | Finished


def run(plan: Plan, out: Path, force: bool = False) -> Iterator[Event]:
    """Write the planned file; closing the iterator cancels and leaves nothing behind.

    Args:
        plan: from `plan.plan`.
        out: the file to write, in a folder that exists.
        force: replace `out` if it exists.

    Yields:
        `TensorWritten` for each tensor in the plan's order, then `Finished`.

    Raises:
        ConversionError: `out` cannot be written or exists, the disk is full, or a tensor holds values
            that cannot be converted.
    """
    out = Path(out)
    started = time.perf_counter()
    _check_target(plan, out, force)
    pool = Pool(usable_cores())
    with _new_file(out, force) as file:
        file.write(plan.header)
        for index, tensor in enumerate(plan.tensors):
            _write_tensor(file, pool, tensor)
            yield TensorWritten(index, tensor.name, tensor.n_bytes, time.perf_counter() - started)
    yield Finished(out, plan.n_bytes, time.perf_counter() - started)


def _check_target(plan: Plan, out: Path, force: bool) -> None:
    """Refuse what would destroy something or cannot end well."""
    if not out.parent.is_dir():
        raise ConversionError(f"there is no folder {out.parent} to write {out.name} in")
    if out.is_dir():
        raise ConversionError(f"{out} is a folder; name the file to write")
    if out.exists() and not out.is_file():
        raise ConversionError(f"{out} is a device or a pipe, which cannot hold a model; name a file to write")
    if out.exists():
        if not force:
            raise ConversionError(f"{out} exists: choose another name or use --force")
        sources = {part.path for tensor in plan.tensors for part in tensor.source.parts}
        if any(path.exists() and path.samefile(out) for path in sources):
            raise ConversionError(f"{out} is a file of the source itself: choose another name")
    free = shutil.disk_usage(out.parent).free
    if free < plan.n_bytes:
        raise ConversionError(
            f"{out} will take {plan.n_bytes / 1e9:.2f} GB, but its disk has only {free / 1e9:.2f} GB free"
        )


@contextlib.contextmanager
def _new_file(out: Path, force: bool) -> Iterator[BinaryIO]:
    """A file that appears as `out` when the context ends well, and not at all otherwise."""
    partial = out.with_name(out.name + ".partial")
    try:
        file = partial.open("wb" if force else "xb")
    except FileExistsError:
        raise ConversionError(
            f"{partial} exists, from a conversion that was cut off or still runs: delete it or use --force"
        ) from None
    except OSError as error:
        raise ConversionError(f"{partial} cannot be written: {error.strerror}") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if out.exists() and not force:
            raise ConversionError(f"{out} has come to exist meanwhile: choose another name or use --force")
        partial.replace(out)
        _sync_folder(out.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConversionError(f"{out} cannot be written: {error.strerror}") from error
        raise


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, on systems that let folders be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_tensor(file: BinaryIO, pool: Pool, tensor: TensorPlan) -> None:
    """Encode a tensor's rows batch by batch and append them, padded to the alignment."""
    slice_rows = max(1, _SLICE_WEIGHTS // tensor.shape[-1])
    batch_rows = min(tensor.n_rows, slice_rows * _SLICES_PER_THREAD * pool.threads)
    batch = np.empty((batch_rows, tensor.format.row_bytes(tensor.shape[-1])), np.uint8)
    for start in range(0, tensor.n_rows, batch_rows):
        out = batch[: min(batch_rows, tensor.n_rows - start)]
        pool.run(functools.partial(_encode_slice, tensor, start, out, slice_rows), -(-len(out) // slice_rows))
        file.write(out.data)
    file.write(bytes(padded(tensor.n_bytes) - tensor.n_bytes))


def _encode_slice(tensor: TensorPlan, start: int, out: np.ndarray, slice_rows: int, number: int) -> None:
    """Encode slice `number` of a batch: `out` takes the tensor's rows from `start` on."""
    target = out[number * slice_rows : (number + 1) * slice_rows]
    first = start + number * slice_rows
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
            ENCODERS[tensor.format.name](values[place], target[place])


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
        raise ConversionError(f"{where} holds values that are not finite: the checkpoint is damaged")
    if tensor.format.name == "F16" and largest >= _F16_LIMIT:
        raise ConversionError(f"{where} holds {largest:g}, which is beyond F16: convert to BF16 instead")
