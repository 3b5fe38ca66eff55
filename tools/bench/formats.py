"""Measure the products of each block format on one core: decoding, and with few and many rows.

    python tools/bench/formats.py [FORMAT …] [--rows 16 256] [--outputs 1408] [--inputs 2816]
    DGGUF_CPU_PATH=avx2 python tools/bench/formats.py

"BF16" is rounded to 8 bits, as by default; "BF16 as bfloat16" and "F16 as float32" are as --keep-weights
takes them, by instructions with half and a quarter of the 8-bit ones' peak. The default size is an
expert's: 16 rows come to each of 128 experts, 256 rows to the other matrices.
A GOP is 1e9 multiplications or additions. "decode" is a product with no rows at all; "x" is the time
in Q4_K's. Above the table: what the dot instructions reach without memory, and BLAS in float32.
Times are the best of several: other programs on the machine only add to them.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import numpy as np
import threadpoolctl

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu import matmul
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.matmul import CpuMatrix
from dgguf.backends.cpu.panels import KEPT_FORMATS
from dgguf.backends.cpu.roofline import Roofline, best_seconds
from dgguf.machine import processor
from dgguf.quants.block import FORMATS_BY_NAME

BASE = "Q4_K"


def sgemm_gops(rows: int, outputs: int, inputs: int) -> float:
    x, w = np.ones((rows, inputs), np.float32), np.ones((outputs, inputs), np.float32)
    out = np.empty((outputs, rows), np.float32)
    return 2e-9 * rows * outputs * inputs / best_seconds(lambda: np.matmul(w, x.T, out=out))


def format_seconds(name: str, rows: int, outputs: int, inputs: int, rng: np.random.Generator) -> float:
    """A product of `rows` rows with a matrix of random bits."""
    form = KEPT_FORMATS.get(name)
    block = form.format if form else FORMATS_BY_NAME[name]
    raw = rng.integers(0, 256, (outputs, block.row_bytes(inputs)), np.uint8)
    tensor = HostTensor(name, block, raw, inputs)
    w = CpuMatrix(tensor, form) if form else matmul.matrix(tensor, cpu_path() != "portable")
    x = matmul.prepare(rng.standard_normal((rows, inputs), np.float32), w)
    out = np.empty((rows, outputs), np.float32)
    with np.errstate(all="ignore"):  # random bits are no numbers now and then
        return best_seconds(lambda: matmul.product_alone(x, w, out))


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
    every = [name for name in FORMATS_BY_NAME if name not in integers]
    names = options.formats or [*every, *(form.name for form in matmul.kept_formats())]
    with threadpoolctl.threadpool_limits(1):
        print(f"machine  {processor()}, CPU path {cpu_path()}, one core")
        print(f"matrix   {options.outputs} x {options.inputs}")
        if cpu_path() != "portable":
            roofline = Roofline(cpu_path(), 1)
            print(f"peak     {max(roofline.gops() for _ in range(5)):.0f} GOP/s of dot instructions")
        blas = " · ".join(f"{sgemm_gops(rows, *shape):.0f} with {rows} rows" for rows in options.rows)
        print(f"sgemm    GFLOP/s: {blas}\n")
        print(
            "format           decode ns/weight"
            + "".join(f"{rows:>7} rows: GOP/s      x" for rows in options.rows)
        )
        base = {rows: format_seconds(BASE, rows, *shape, rng) for rows in options.rows}
        for name in names:
            line = f"{name:<17}{1e9 * format_seconds(name, 0, *shape, rng) / n_weights:16.4f}"
            for rows in options.rows:
                seconds = format_seconds(name, rows, *shape, rng)
                line += f"{2e-9 * rows * n_weights / seconds:20.0f}{seconds / base[rows]:7.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
