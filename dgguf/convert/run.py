"""Carrying out a plan: rows are decoded, encoded and written a slice at a time, on all cores."""

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgguf.compiling.ahead import compile_ahead
from dgguf.compiling.needed import Work
from dgguf.convert.encode_tensor import TensorEncoder, TensorError
from dgguf.convert.output import OutputFile, OutputFiles
from dgguf.convert.plan import ConversionPlan, FilePlan
from dgguf.errors import ConversionError
from dgguf.machine import usable_cores
from dgguf.mapping.mapped_file import reading
from dgguf.quants.finite import finite_rows
from dgguf.threads.pool import Pool


@dataclass(frozen=True)
class RowsWritten:
    """Some rows of a tensor are in the file, but not all.

    Attributes:
        index: the tensor's place in the plan, from 0.
        n_weights: of it so far.
        seconds: since the conversion began.
    """

    index: int
    n_weights: int
    seconds: float


@dataclass(frozen=True)
class TensorWritten:
    """One tensor is in the file.

    Attributes:
        index: its place in the plan, from 0.
        name: its GGUF name.
        n_bytes: what it takes in the file.
        seconds: since the conversion began.
        resumed: whether an earlier conversion had written it.
        error: what it lost, if that is measured; never of a tensor that was there before.
    """

    index: int
    name: str
    n_bytes: int
    seconds: float
    resumed: bool = False
    error: TensorError | None = None


@dataclass(frozen=True)
class ConversionFinished:
    """The files are whole and have their names.

    Attributes:
        path: the file, or the first of its parts.
        n_bytes: size of all.
        seconds: since the conversion began.
    """

    path: Path
    n_bytes: int
    seconds: float


ConversionEvent = RowsWritten | TensorWritten | ConversionFinished


def run(
    plan: ConversionPlan, out: Path, force: bool = False, *, resume: bool = False, measure: bool = False
) -> Generator[ConversionEvent, None, None]:
    """Write the planned files; closing the iterator cancels.

    A conversion that is cancelled or meets a full disk leaves OUT.partial, once it holds large tensors,
    and any other failure leaves nothing.

    Args:
        plan: from `plan.plan`.
        out: the file to write, in a folder that exists; of a split model, the name its parts go by.
        force: replace `out` if it exists.
        resume: go on with the partial files of a conversion that was cut off, if there are any.
        measure: compare what was written with the source, for `TensorWritten.error`.

    Yields:
        `TensorWritten` for each tensor in the plan's order, after `RowsWritten` for each batch of it
        but the last; then `ConversionFinished`.

    Raises:
        ConversionError: `out` cannot be written or exists, the disk is full, or a tensor holds values
            that cannot be converted.
        FileChangedError: a file of the source was cut or written to meanwhile, or its disk failed.
    """
    started = time.perf_counter()
    index = 0
    with OutputFiles(plan, Path(out), force=force, resume=resume) as files:
        _compile_ahead(plan)
        pool = Pool(usable_cores())
        for file_plan, file in files:
            _check_progress(file_plan, file, pool)
            file.begin()
            for number, tensor in enumerate(file_plan.tensors):
                resumed = number < file.n_done
                encoder = TensorEncoder(tensor, pool, measure=measure)
                if not resumed:
                    with reading(tensor.source.maps):
                        n_rows = 0
                        for batch in encoder.batches():
                            file.write(batch.data)
                            n_rows += len(batch)
                            if n_rows < tensor.n_rows:
                                n_weights = n_rows * tensor.shape[-1]
                                yield RowsWritten(index, n_weights, time.perf_counter() - started)
                    file.end_tensor(tensor)
                    for part in tensor.source.parts:
                        if part.map is not None:
                            part.map.release(part.raw)
                seconds = time.perf_counter() - started
                error = None if resumed else encoder.error
                yield TensorWritten(index, tensor.name, tensor.n_bytes, seconds, resumed, error)
                index += 1
        files.finish()
    yield ConversionFinished(files.paths[0], plan.n_bytes, time.perf_counter() - started)


def _compile_ahead(plan: ConversionPlan) -> None:
    """Compile what turns the source's formats into those that are planned."""
    decoded, encoded = set(), set()
    for tensor in plan.tensors:
        formats = {part.format.name for part in tensor.source.parts}
        decoded |= formats
        encoded |= {tensor.format.name} if formats != {tensor.format.name} else set()
    work = Work(usable_cores() > 1, decoded=tuple(sorted(decoded)), encoded=tuple(sorted(encoded)))
    compile_ahead(work)


def _check_progress(plan: FilePlan, file: OutputFile, pool: Pool) -> None:
    """Refuse to go on with tensors that this conversion would have written otherwise, or are damaged."""

    def refuse(why: str) -> ConversionError:
        file.keep = True
        return ConversionError(f"the partial file's {why}: use --force to begin anew")

    def check(number: int) -> None:
        tensor = plan.tensors[number]
        row_bytes = tensor.n_bytes // tensor.n_rows
        with reading(tensor.source.maps):
            sample = TensorEncoder(tensor, pool).sample()
        if file.read(number, sample.nbytes) != sample.tobytes():
            raise refuse(f"{tensor.name} is from another source or other settings")
        for first in range(0, tensor.n_bytes, sample.nbytes):
            part = file.read(number, min(sample.nbytes, tensor.n_bytes - first), first)
            if not finite_rows(tensor.format, np.frombuffer(part, np.uint8).reshape(-1, row_bytes)).all():
                raise refuse(f"{tensor.name} holds blocks that are not finite")

    pool.parallel_for(check, file.n_done)
