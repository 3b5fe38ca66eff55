"""What is kept of a step's distributions over the vocabulary, and what is read from it."""

from dataclasses import dataclass

import numpy as np

from dgguf.backends.cpu.grain import by_numbers, by_products
from dgguf.backends.cpu.matmul import SCRATCH, CpuMatrix, decode_rows
from dgguf.backends.limits import CPU_SOFT_SLICES
from dgguf.quants.decode import decoder
from dgguf.threads.pool import Pool


@dataclass(frozen=True)
class Sparse:
    """The likeliest tokens of C distributions and their probabilities, renormalised.

    Attributes:
        tokens, weights: (C, most) int32 and float32; of row r the first counts[r] mean something.
        counts: (C,) int64.
    """

    tokens: np.ndarray
    weights: np.ndarray
    counts: np.ndarray

    def some(self, rows: np.ndarray) -> "Sparse":
        """Those at `rows`."""
        return Sparse(self.tokens[rows], self.weights[rows], self.counts[rows])

    def merged(self, rows: np.ndarray, some: "Sparse") -> "Sparse":
        """With others at `rows`."""
        for mine, others in (
            (self.tokens, some.tokens),
            (self.weights, some.weights),
            (self.counts, some.counts),
        ):
            mine[rows] = others
        return self


def top_tokens(conditioning: np.ndarray | Sparse, count: int, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """See `Backend.top_tokens`."""
    rows = len(conditioning.counts) if isinstance(conditioning, Sparse) else len(conditioning)
    tokens, weights = np.empty((rows, count), np.int64), np.zeros((rows, count), np.float32)

    def row(i: int) -> None:
        if isinstance(conditioning, Sparse):
            known = int(conditioning.counts[i])
            ids, p = conditioning.tokens[i, :known], conditioning.weights[i, :known]
        else:
            p = conditioning[i]
            ids = np.arange(len(p))
        n = min(count, len(p))
        some = np.argpartition(p, -n)[-n:]
        some = some[np.lexsort((some, -p[some]))]
        tokens[i, :n], weights[i, :n] = ids[some], p[some]
        tokens[i, n:] = tokens[i, 0]

    size = conditioning.tokens.size if isinstance(conditioning, Sparse) else conditioning.size
    pool.parallel_for(row, rows, most=by_numbers(size), blas=False)
    return tokens, weights


def soft_embed(probabilities: np.ndarray, table: CpuMatrix, scale: float, pool: Pool) -> np.ndarray:
    """See `Backend.soft_embed`. Each slice of the vocabulary is summed in order, then the slices are."""
    starts = list(range(0, table.rows, table.decoded_rows))
    slices = [s for s in np.array_split(starts, CPU_SOFT_SLICES) if len(s)]
    partial = np.zeros((len(slices), probabilities.shape[0], table.columns), np.float32)

    def one_slice(i: int) -> None:
        for first in slices[i]:
            rows = decode_rows(table, first, table.decoded_rows)
            partial[i] += probabilities[:, first : first + rows.shape[0]] @ rows

    threads = by_products(len(probabilities), table.rows * table.columns)
    pool.parallel_for(one_slice, len(slices), most=threads)
    out: np.ndarray = partial.sum(axis=0) * np.float32(scale)
    return out


def soft_embed_sparse(kept: Sparse, table: CpuMatrix, scale: float, pool: Pool) -> np.ndarray:
    """See `Backend.soft_embed`: only the tokens kept are decoded."""
    t = table.tensor
    decode = decoder(t.format)
    out = np.zeros((len(kept.counts), table.columns), np.float32)

    def row(r: int) -> None:
        for first in range(0, kept.counts[r], table.decoded_rows):
            some = slice(first, min(first + table.decoded_rows, kept.counts[r]))
            raw = np.take(t.raw, kept.tokens[r, some], axis=0)
            rows = SCRATCH.array(raw.shape[0], table.columns)
            decode(raw, rows)
            out[r] += kept.weights[r, some] @ rows

    pool.parallel_for(row, len(out), most=by_products(1, int(kept.counts.sum()) * table.columns))
    out *= np.float32(scale)
    return out
