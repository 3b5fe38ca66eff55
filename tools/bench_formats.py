"""Measure the products of each block format on one core: decoding, and with few and many rows.

    python tools/bench_formats.py [FORMAT …] [--rows 16 256] [--outputs 1408] [--inputs 2816]
    DGGUF_CPU_PATH=avx2 python tools/bench_formats.py

The default size is an expert's: 16 rows come to each of 128 experts, 256 rows to the other matrices.
A GOP is 1e9 multiplications or additions. "decode" is a product with no rows at all; "x" is the time
in Q4_K's. Above the table: what the dot instructions reach without memory, and BLAS in float32.
Times are the best of several: other programs on the machine only add to them.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

import numba
import numpy as np
import threadpoolctl
from llvmlite import ir
from numba import types

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu import matmul, tiles
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.lanes import I16, I32, I64, constant, int64, intrinsic, splat, vector
from dgguf.benchmark import processor
from dgguf.quants.block import FORMATS_BY_NAME

BASE = "Q4_K"
SUMS = 12  # independent sums, enough to fill the pipelines


def best_seconds(work: Callable[[], Any], at_least: float = 0.15) -> float:
    """The shortest of the runs that fit into this many seconds, and of 3 at least."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < at_least:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def peak_gops(path: str) -> float:
    """The rate of this path's dot instructions on registers; of 4-bit codes where that matters."""
    kind = tiles.PATHS[path]
    pairs = kind.dot == "pairs"
    of = vector(I16, 2 * kind.lanes) if pairs else vector(I32, kind.lanes)

    @intrinsic
    def loop(typing: Any, count: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            start, body, end = b.block, b.append_basic_block("body"), b.append_basic_block("end")
            b.branch(body)
            b.position_at_end(body)
            i, sums = b.phi(I64), [b.phi(of) for _ in range(SUMS)]
            four = splat(b, b.trunc(i, I32), kind.lanes)
            following = [
                b.add(x, tiles.pairs_of_products(b, b.xor(four, four.type([k] * kind.lanes)), four, False))
                if pairs
                else tiles.four_products(b, kind, x, four, four)
                for k, x in enumerate(sums)
            ]
            next_i = b.add(i, int64(1))
            for k, (phi, value) in enumerate(zip(sums, following, strict=True)):
                phi.add_incoming(constant(of, [k] * of.count), start)
                phi.add_incoming(value, body)
            i.add_incoming(int64(0), start)
            i.add_incoming(next_i, body)
            b.cbranch(b.icmp_signed("<", next_i, args[0]), body, end)
            b.position_at_end(end)
            total = following[0]
            for x in following[1:]:
                total = b.xor(total, x)
            return b.zext(b.extract_element(total, ir.Constant(I32, 0)), I64)

        return types.int64(types.int64), generate

    run = numba.njit(lambda count: loop(count))
    count = 100_000
    return 2e-9 * 4 * kind.lanes * SUMS * count / best_seconds(lambda: run(count))


def sgemm_gops(rows: int, outputs: int, inputs: int) -> float:
    x, w = np.ones((rows, inputs), np.float32), np.ones((outputs, inputs), np.float32)
    out = np.empty((outputs, rows), np.float32)
    return 2e-9 * rows * outputs * inputs / best_seconds(lambda: np.matmul(w, x.T, out=out))


def format_seconds(name: str, rows: int, outputs: int, inputs: int, rng: np.random.Generator) -> float:
    """A product of `rows` rows with a matrix of random bits."""
    block = FORMATS_BY_NAME[name]
    raw = rng.integers(0, 256, (outputs, block.row_bytes(inputs)), np.uint8)
    w = matmul.matrix(HostTensor(name, block, raw, inputs), cpu_path() != "portable")
    x = matmul.prepare(rng.standard_normal((rows, inputs), np.float32), w)
    out = np.empty((rows, outputs), np.float32)
    with np.errstate(all="ignore"):  # random bits are no numbers now and then
        return best_seconds(lambda: matmul.product(x, w, 0, outputs, out))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the products of each block format on one core.")
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="GGML's names; default: all")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 256])
    parser.add_argument("--outputs", type=int, default=1408)
    parser.add_argument("--inputs", type=int, default=2816)
    options = parser.parse_args()
    shape = options.outputs, options.inputs
    n_weights = options.outputs * options.inputs
    rng = np.random.default_rng(0)
    integers = ("F64", "I8", "I16", "I32", "I64")
    names = options.formats or [name for name in FORMATS_BY_NAME if name not in integers]
    with threadpoolctl.threadpool_limits(1):
        print(f"machine  {processor()}, CPU path {cpu_path()}, one core")
        print(f"matrix   {options.outputs} x {options.inputs}")
        if cpu_path() != "portable":
            print(f"peak     {peak_gops(cpu_path()):.0f} GOP/s of dot instructions")
        blas = " · ".join(f"{sgemm_gops(rows, *shape):.0f} with {rows} rows" for rows in options.rows)
        print(f"sgemm    GFLOP/s: {blas}\n")
        print(
            "format    decode ns/weight" + "".join(f"{rows:>7} rows: GOP/s      x" for rows in options.rows)
        )
        base = {rows: format_seconds(BASE, rows, *shape, rng) for rows in options.rows}
        for name in names:
            line = f"{name:<10}{1e9 * format_seconds(name, 0, *shape, rng) / n_weights:16.4f}"
            for rows in options.rows:
                seconds = format_seconds(name, rows, *shape, rng)
                line += f"{2e-9 * rows * n_weights / seconds:20.0f}{seconds / base[rows]:7.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
