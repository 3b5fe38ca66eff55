"""The verbs of the vocabulary: logits, what a step reads of them, and back to embeddings."""

import ctypes
from collections.abc import Hashable

import numpy as np

from dgguf.backends.base import Prediction, not_finite
from dgguf.backends.cuda import elementwise, logits
from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.matmul import GpuMatrix
from dgguf.backends.cuda.memory import Array, upload
from dgguf.backends.cuda.plan import PlacementPlan
from dgguf.backends.cuda.products import Products
from dgguf.backends.cuda.queue import Queue
from dgguf.backends.cuda.rows import Deferred, only_halves

_THREADS = 256  # of a block of sampling.cu and soft_embed.cu
_WORDS = 16  # of the codes of a row in a unit, each for a thread of soft_embed.cu
_LOGITS_AT_ONCE = 4 * _THREADS


class Vocabulary(Products):
    """Head, sampling and soft embeddings; see `backends.base.Backend`."""

    def __init__(
        self, device: Device, plan: PlacementPlan, threads: int | None, reference: bool, queue: Queue | None
    ) -> None:
        super().__init__(device, plan, threads, reference, queue)
        self._reading: logits.Reading | None = None
        self._recorded: Hashable = None  # whose step the queue repeats, into `_reading`
        self._conditioned: logits.Reading | None = None  # what this pass has read by `soft_embed`

    def head(self, x: Array, w: GpuMatrix, softcap: float) -> Array:
        out = self._empty(x.shape[0], w.rows)
        self._product(x, w, softcap, out)
        return out

    def predict(
        self, x: Array, w: GpuMatrix, softcap: float, temperature: float, uniforms: np.ndarray
    ) -> Prediction:
        n = x.shape[0]
        reading = self._reading_of(n, w.rows)
        self._product(x, w, softcap, reading.logits)
        reading.inputs = x if self._reference else only_halves(x.shape, self._kernels.halves(x))
        t = reading.temperature = self._queue.input("temperature", np.array([temperature], np.float32))
        given = self._queue.input("uniforms", uniforms)
        slices = self._empty(n, logits.SLICES, 5, dtype=np.float64)
        self._read_slices("slice_statistics", [reading.logits, Array(t, None), slices])
        found = reading.argmax, reading.entropy, reading.rows.view
        self._queue.run(logits.row_statistics, n, slices.view, given, *found)
        self._queue.run(logits.draw, n, reading.logits.view, t, reading.rows.view, reading.sampled)
        self._keep_likeliest(reading)
        if self._queue.recording:
            return Prediction(np.empty(0), np.empty(0), np.empty(0), reading)
        return self._read(reading)

    def _reading_of(self, n: int, vocab_size: int) -> logits.Reading:
        """Where a step of n rows is written: what `some_rows` has given for it, or what has all rows."""
        part, self._conditioned = self._conditioned, None
        if part is not None and part is not self._reading and part.logits.shape == (n, vocab_size):
            return part
        if self._reading is None or self._reading.logits.shape != (n, vocab_size):
            self._reading = logits.Reading(self._memory, n, vocab_size)
            self._recorded = None
        return self._reading

    def some_rows(self, conditioning: logits.Reading, rows: np.ndarray) -> logits.Reading:
        n, (all_rows, vocab_size) = len(rows), conditioning.logits.shape
        # In the place of the last step's, which nobody asks for: they are most of what a reading takes.
        room = conditioning.logits.reshape(all_rows * vocab_size).piece(0, n, vocab_size)
        part, places = logits.Reading(self._memory, n, vocab_size, room), upload(rows.astype(np.int32))
        for source, out in zip(_kept(conditioning), _kept(part), strict=True):
            self._queue.run(elementwise.take_rows, n, source.view, places.view, out.view)
        return part

    def merge_rows(
        self, conditioning: logits.Reading, rows: np.ndarray, some: logits.Reading
    ) -> logits.Reading:
        places = upload(rows.astype(np.int32))
        pairs = [*zip(_kept(some), _kept(conditioning), strict=True), (some.rows, conditioning.rows)]
        pairs += zip(_inputs(some), _inputs(conditioning), strict=True)
        for source, out in pairs:
            self._queue.run(elementwise.put_rows, len(rows), source.view, places.view, out.view)
        conditioning.merged = True
        return conditioning

    def label_logits(
        self, x: Array, rows: np.ndarray, w: GpuMatrix, softcap: float, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        n = len(rows)
        some, every = self._empty(n, x.shape[1]), self._empty(n, w.rows)
        self._queue.run(elementwise.take_rows, n, x.view, self._integers("rows", rows).view, some.view)
        self._product(some, w, softcap, every)
        found, totals = self._columns_and_totals(every, labels)
        if not np.isfinite(totals).all():
            raise not_finite(int(rows[~np.isfinite(totals)][0]))
        return found, totals

    def _columns_and_totals(self, z: Array, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some columns of logits (S, V), and (S,) float64 log(sum(exp(z))): NaN where a z is not finite."""
        n = z.shape[0]
        slices = self._empty(n, logits.SLICES, 5, dtype=np.float64)
        one = self._queue.input("temperature of labels", np.ones(1, np.float32))
        self._read_slices("slice_statistics", [z, Array(one, None), slices])
        out = self._empty(n, len(columns))
        self._queue.run(elementwise.take_columns, n, z.view, self._integers("labels", columns).view, out.view)
        totals, bad = logits.log_sums(self.to_host(slices))
        return self.to_host(out), np.where(bad, np.nan, totals)

    def _read_slices(self, name: str, arrays: list[Array], *numbers: int) -> None:
        """Start a kernel that reads logits a slice to a block: that of logits.py, or its twin in sampling.cu.

        Args:
            name: of both.
            arrays: logits (C, V), temperature (1,), and what else it takes.
            numbers: that only the one in sampling.cu needs.
        """
        n, size = arrays[0].shape
        grid = n, logits.SLICES
        if self._reference:
            self._queue.run(getattr(logits, name), grid, *(array.view for array in arrays))
            return
        groups = -(-size // (logits.SLICES * _LOGITS_AT_ONCE))
        sizes = [ctypes.c_int(number) for number in (size, logits.SLICES, *numbers)]
        self._queue.launch("sampling", (("GROUPS", groups),), name, grid, _THREADS, [*arrays, *sizes])

    def _keep_likeliest(self, reading: logits.Reading) -> None:
        """Note the tokens that make up most of each distribution, for `soft_embed`."""
        n, grid = reading.logits.shape[0], (reading.logits.shape[0], logits.SLICES)
        given = [reading.logits, Array(reading.temperature, None), reading.rows]
        counts = self._empty(*grid, logits.BINS, dtype=np.int32)
        masses = self._empty(*grid, logits.BINS, dtype=np.uint64)
        edges, places = self._empty(n, dtype=np.int32), self._empty(*grid, 2, dtype=np.int32)
        chosen = edges.view, places.view, reading.counts.view
        self._read_slices("count_bins", [*given, counts, masses])
        self._queue.run(logits.choose_edge, n, counts.view, masses.view, reading.rows.view, *chosen)
        kept = [edges, places, reading.counts, reading.tokens, reading.weights]
        self._read_slices("keep_likeliest", [*given, *kept], reading.tokens.shape[1])

    def _read(self, reading: logits.Reading) -> Prediction:
        """Wait for the GPU and fetch what a step has predicted, with one copy."""
        reading.merged = False
        found = self.to_host(reading.found)
        argmax, sampled = found[:2].astype(np.int64)
        if argmax.min() < 0:
            raise not_finite(int(argmax.argmin()))
        return Prediction(argmax, sampled, found[2].view(np.float32), reading)

    def top_tokens(self, conditioning: logits.Reading, count: int) -> tuple[np.ndarray, np.ndarray]:
        if conditioning.merged:
            return self._top_of_kept(conditioning, count)
        return self._top_of_logits(conditioning, count)

    def _top_of_kept(self, reading: logits.Reading, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `top_tokens`, of the tokens that are kept for `soft_embed`."""
        tokens, weights, counts = map(self.to_host, (reading.tokens, reading.weights, reading.counts))
        inverse = self.to_host(reading.rows)[:, logits.INVERSE_TOTAL]
        ids, probabilities = (
            np.empty((len(counts), count), np.int64),
            np.zeros((len(counts), count), np.float32),
        )
        for row, known in enumerate(counts):
            best = np.argsort(-weights[row, :known], kind="stable")[:count]
            ids[row] = tokens[row, best[0]]
            ids[row, : len(best)] = tokens[row, best]
            probabilities[row, : len(best)] = weights[row, best] * inverse[row]
        return ids, probabilities

    def _top_of_logits(self, reading: logits.Reading, count: int) -> tuple[np.ndarray, np.ndarray]:
        n, given = reading.logits.shape[0], (reading.logits.view, reading.temperature)
        ids, probabilities = self._empty(n, count, dtype=np.int32), self._empty(n, count)
        rows = reading.rows.view
        self._queue.run(logits.top_tokens, n, *given, rows, ids.view, probabilities.view)
        return self.to_host(ids).astype(np.int64), self.to_host(probabilities)

    def log_probabilities(
        self, prediction: Prediction, w: GpuMatrix, softcap: float, tokens: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reading: logits.Reading = prediction.conditioning
        n = reading.logits.shape[0]
        if reading.merged:
            self._product(reading.inputs, w, softcap, reading.logits)
        ids = self._top_of_logits(reading, count)[0] if count else np.empty((n, 0), np.int64)
        wanted, columns = np.unique(np.column_stack([tokens, ids]), return_inverse=True)
        z, totals = self._columns_and_totals(reading.logits, wanted)
        if not np.isfinite(totals).all():
            raise not_finite(int(np.isfinite(totals).argmin()))
        logs = np.take_along_axis(z, columns.reshape(n, -1), axis=1) - totals[:, None]
        return logs[:, 0].astype(np.float32), ids, logs[:, 1:].astype(np.float32)

    def soft_embed(self, conditioning: logits.Reading, table: GpuMatrix, scale: float) -> Array:
        assert table.planes is not None
        self._conditioned = conditioning
        n, factor = conditioning.logits.shape[0], scale * table.unscale
        out = self._empty(n, table.columns)
        kept = [conditioning.tokens, conditioning.weights, conditioning.counts]
        if self._reference:
            arguments = *table.arguments(table.planes), *(array.view for array in kept), factor, out.view
            self._queue.run(logits.soft_embed, n, *arguments)
            return out
        planes = [Array(plane, None) for plane in (table.planes.low, table.planes.high, table.planes.scales)]
        sizes = [ctypes.c_int(size) for size in (table.columns, table.chunks, kept[0].shape[1])]
        self._queue.launch(
            "soft_embed", table.macros, "soft_embed", (n, -(-table.chunks * _WORDS // _THREADS)), _THREADS,
            [*planes, table.tables.values, *kept, out, *sizes, ctypes.c_float(factor)],
        )  # fmt: skip
        return out


def _kept(reading: logits.Reading) -> list[Array]:
    """What `soft_embed` reads, row by row."""
    return [reading.tokens, reading.weights, reading.counts.reshape(reading.counts.size, 1)]


def _inputs(reading: logits.Reading) -> list[Array]:
    """The head's inputs, row by row."""
    x = reading.inputs
    if not isinstance(x, Deferred):
        return [x]
    assert x.halves is not None
    return [x.halves.numbers, x.halves.scales.reshape(x.shape[0], 1)]
