"""What 8-bit activations cost in accuracy, for each block format, next to llama.cpp's.

    python tools/accuracy/products.py [FORMAT …]
    DGGUF_CPU_PATH=avx2 python tools/accuracy/products.py

Prints relative errors against float64, of a product and of a whole feed-forward layer with random
weights. Inputs are normal, or some stand out (log-normal factors), as they do in real networks.
llama.cpp rounds activations to 8 bits with one scale for 256 inputs where blocks hold 256 weights
(Q8_K), else with a float16 scale for 32 (Q8_0); its products are otherwise taken to be exact. Plain
numbers, which dgguf multiplies in 8 bits, too, unless told otherwise, stand beside llama.cpp's with a Q8_0
made of them. "BF16 as bfloat16" and the like are as --keep-weights takes them, beside llama.cpp's products
for plain numbers, which round the inputs to the weights' type.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import gguf
import numpy as np

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu import matmul
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.matmul import CpuMatrix
from dgguf.backends.cpu.panels import KEPT_FORMATS, PANEL_FORMATS
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.quants.decode import decoder
from dgguf.threads.pool import Pool

HIDDEN, FEED_FORWARD, ROWS = 512, 256, 48
# Where a block keeps its float16 numbers, if not at 0 alone, and in what ratio the weights' mean is 0.
_FLOAT16_AT: dict[str, dict[int, float]] = {
    "Q4_1": {0: 1, 2: -7.5}, "Q5_1": {0: 1, 2: -15.5}, "Q2_K": {80: 1, 82: 1.5}, "Q4_K": {0: 1, 2: 7.5},
    "Q5_K": {0: 1, 2: 15.5}, "Q3_K": {108: 1}, "Q6_K": {208: 1}, "TQ1_0": {52: 1}, "TQ2_0": {64: 1},
}  # fmt: skip

Product = Callable[[np.ndarray, int], np.ndarray]


def random_matrix(
    name: str, rows: int, columns: int, rng: np.random.Generator
) -> tuple[CpuMatrix, np.ndarray]:
    """Random blocks whose scales are ordinary numbers of either sign, and their weights in float64.

    Plain numbers are normal.

    Args:
        name: of a format, or in KEPT_FORMATS.
    """
    kept = KEPT_FORMATS.get(name)
    block = kept.format if kept else FORMATS_BY_NAME[name]
    if block.block_size == 1:
        numbers = rng.standard_normal((rows, columns), np.float32)
        kind = gguf.GGMLQuantizationType[block.name]
        raw = gguf.quants.quantize(numbers, kind).view(np.uint8)
        weights = gguf.quants.dequantize(raw, kind).astype(np.float64)
        tensor = HostTensor(name, block, raw, columns)
        return CpuMatrix(tensor, kept) if kept else matmul.matrix(tensor, True), weights
    raw = rng.integers(0, 256, (rows * columns // block.block_size, block.type_size), np.uint8)
    if name == "IQ1_M":
        raw[:, 49:56:2] = raw[:, 49:56:2] & 0x0F | np.array([0x00, 0x00, 0x80, 0x30], np.uint8)  # 0.5
    elif name == "NVFP4":
        raw[:, :4] = rng.integers(0x30, 0x40, (len(raw), 4))
    elif name == "MXFP4":
        raw[:, 0] = rng.integers(126, 129, len(raw))
    else:
        scales = rng.uniform(0.5, 1, (len(raw), 1)) * rng.choice((-1, 1), (len(raw), 1))
        for at, ratio in _FLOAT16_AT.get(name, {0: 1}).items():
            raw[:, at : at + 2] = (scales * ratio).astype("<f2").view(np.uint8)
    raw, weights = raw.reshape(rows, -1), np.empty((rows, columns), np.float32)
    decoder(block)(raw, weights)
    return matmul.matrix(HostTensor(name, block, raw, columns), True), weights.astype(np.float64)


def q8_k(x: np.ndarray) -> np.ndarray:
    """What llama.cpp keeps of activations for super-blocks: a scale for 256, the largest's with its sign."""
    groups = x.astype(np.float32).reshape(-1, 256)
    largest = np.take_along_axis(groups, abs(groups).argmax(axis=1)[:, None], axis=1)
    inverse = np.float32(-127) / largest
    return (np.minimum(127, np.rint(groups * inverse)) / inverse.astype(np.float64)).reshape(x.shape)


def q8_0(x: np.ndarray) -> np.ndarray:
    """What it keeps for the other formats: a float16 scale for 32."""
    groups = x.astype(np.float32).reshape(-1, 32)
    scale = abs(groups).max(axis=1, keepdims=True) / np.float32(127)
    return (np.rint(groups / scale) * scale.astype(np.float16).astype(np.float64)).reshape(x.shape)


def as_weights(x: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """And for plain numbers: numbers of that type."""
    x = x.astype(np.float32)
    return gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind).astype(np.float64).reshape(x.shape)


def _feed_forward(x: np.ndarray, product: Product) -> np.ndarray:
    """down(gelu(gate(x)) * up(x)), of products with matrices 0 to 2."""
    gate, up = product(x, 0), product(x, 1)
    gelu = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return product(gelu * up, 2)


def errors(name: str, spread: float, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Relative errors of a "product" and a "layer": ours, and llama.cpp's.

    Args:
        spread: of the logarithm of the inputs' factors.
    """
    kept = KEPT_FORMATS.get(name)
    block = kept.format if kept else FORMATS_BY_NAME[name]
    hidden = max(HIDDEN, block.block_size)
    shapes = ((FEED_FORWARD, hidden), (FEED_FORWARD, hidden), (hidden, FEED_FORWARD))
    pairs = [random_matrix(name, *shape, rng) for shape in shapes]
    # As a norm's weight would, so that the nonlinearity works where it is one.
    units = [1 / (w.std() * math.sqrt(w.shape[1])) for _, w in pairs]
    rounded = q8_k if block.block_size == 256 else q8_0
    pool = Pool(1)

    def exact(x: np.ndarray, i: int) -> np.ndarray:
        return units[i] * (x.astype(np.float64) @ pairs[i][1].T)

    def ours(x: np.ndarray, i: int) -> np.ndarray:
        w, x = pairs[i][0], x.astype(np.float32)
        return units[i] * matmul.linear(matmul.prepare(x, w), w, pool).astype(np.float64)

    def theirs(x: np.ndarray, i: int) -> np.ndarray:
        if kept:
            return units[i] * (as_weights(x, gguf.GGMLQuantizationType[block.name]) @ pairs[i][1].T)
        weights = q8_0(pairs[i][1]) if block.block_size == 1 else pairs[i][1]
        return units[i] * (rounded(x) @ weights.T)

    x = rng.standard_normal((ROWS, hidden)) * np.exp(spread * rng.standard_normal((ROWS, hidden)))
    x = (x / x.std()).astype(np.float32)

    def relative(found: np.ndarray, wanted: np.ndarray) -> float:
        return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))

    product, layer = exact(x, 0), _feed_forward(x, exact)
    return {
        "product": (relative(ours(x, 0), product), relative(theirs(x, 0), product)),
        "layer": (relative(_feed_forward(x, ours), layer), relative(_feed_forward(x, theirs), layer)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what 8-bit activations cost in accuracy.")
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="GGML's names; default: all")
    options = parser.parse_args()
    print(f"relative errors in units of 0.001, CPU path {cpu_path()}\n")
    print("                   inputs normal                       some stand out")
    print("                 product       layer                 product       layer")
    print("format           ours theirs   ours theirs           ours theirs   ours theirs")
    for name in options.formats or [*PANEL_FORMATS, *(form.name for form in matmul.kept_formats())]:
        rng = np.random.default_rng(0)
        halves = [
            "   ".join(f"{1e3 * a:4.1f} {1e3 * b:6.1f}" for a, b in errors(name, spread, rng).values())
            for spread in (0, 1)
        ]
        print(f"{name:<16}" + "          ".join(halves))


if __name__ == "__main__":
    main()
