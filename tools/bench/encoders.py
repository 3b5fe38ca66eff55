"""How fast each encoder is on one core; beside ggml's, also whether the bytes are the same.

    python tools/bench/encoders.py [TYPE …] [--ggml llama.cpp/build/bin/libggml-base.so]

Encodes normally distributed rows of 2816 weights, for half a second and at least three times, and prints
the fastest in million weights a second, without and with importances. With ggml's library, both encode
the same rows in turn, and some million weights of other distributions are compared byte by byte.
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.quants.encode import ENCODERS, NO_IMPORTANCE, WEIGHTED, Encoder

COLUMNS = 2816
ROWS = 186  # as many weights as a slice of a conversion
SECONDS = 0.5


def ggml_encoder(library: ctypes.CDLL, name: str) -> Encoder:
    """ggml's quantizer of a type, with the signature of dgguf's."""
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64),
        ctypes.c_void_p,
    ]

    def encode(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
        given = importance.ctypes.data if importance.size else None
        kind = FORMATS_BY_NAME[name].ggml_type
        chunk(kind, x.ctypes.data, out.ctypes.data, 0, len(x), x.shape[1], given)

    return encode


def speed(encode: Encoder, x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> float:
    """Million weights a second."""
    encode(x[:1], importance, out[:1])  # compiles
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        began = time.perf_counter()
        encode(x, importance, out)
        times.append(time.perf_counter() - began)
    return x.size / min(times) / 1e6


def distributions(rng: np.random.Generator) -> list[np.ndarray]:
    """Weights as they are found in models, and not so found."""
    shape = (ROWS, COLUMNS)
    normal = rng.standard_normal(shape)
    each = rng.standard_normal((ROWS, 1))
    arrays = [
        normal * 0.02,
        rng.laplace(size=shape),
        rng.standard_t(3, shape),
        rng.uniform(-1, 1, shape),
        normal * np.exp(3 * each),
        normal + 2 * each,
        np.where(rng.random(shape) < 0.9, 0, normal),
        rng.integers(-8, 9, shape) / 8,
    ]
    arrays = [array.astype(np.float32) for array in arrays]
    arrays.append((arrays[0].view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))  # BF16 sources
    return arrays


def differing_blocks(
    name: str, encode: Encoder, other: Encoder, arrays: list[np.ndarray], importance: np.ndarray
) -> tuple[int, int]:
    """Blocks with another byte, and all blocks."""
    fmt, differ, total = FORMATS_BY_NAME[name], 0, 0
    for x in arrays:
        ours = np.zeros((len(x), fmt.row_bytes(COLUMNS)), np.uint8)
        theirs = np.zeros_like(ours)
        encode(x, importance, ours)
        other(x, importance, theirs)
        blocks = (ours != theirs).reshape(-1, fmt.type_size).any(axis=1)
        differ, total = differ + int(blocks.sum()), total + len(blocks)
    return differ, total


def measure(name: str, importances: list[np.ndarray], other: Encoder | None) -> str:
    """The line of one type."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, COLUMNS), np.float32)
    out = np.empty((ROWS, FORMATS_BY_NAME[name].row_bytes(COLUMNS)), np.uint8)
    line = f"{name:<7}"
    arrays = distributions(rng) if other else []
    for importance in importances:
        if importance.size and name not in WEIGHTED:
            break
        found = speed(ENCODERS[name], x, importance, out)
        line += f" {found:>9.1f}"
        if other:
            theirs = speed(other, x, importance, out)
            differ, total = differing_blocks(name, ENCODERS[name], other, arrays, importance)
            line += f" {theirs:>7.1f} {found / theirs:>5.1f} {differ:>6} of {total:>6}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the encoders, beside ggml's if given.")
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--ggml", type=Path, metavar="LIBRARY", help="libggml-base.so of a llama.cpp build")
    options = parser.parse_args()
    library = ctypes.CDLL(str(options.ggml)) if options.ggml else None
    make: Callable[[str], Encoder | None] = lambda name: library and ggml_encoder(library, name)  # noqa: E731
    rng = np.random.default_rng(2)
    importances = [NO_IMPORTANCE, rng.exponential(size=COLUMNS).astype(np.float32)]
    head = f" {'dgguf':>9}" + f" {'ggml':>7} {'ratio':>5} {'blocks differ':>16}" * bool(library)
    print(f"million weights/s on one core: without importances, then with\n{'type':<7}{head}{head}")
    for name in [name.upper() for name in options.types] or list(ENCODERS):
        print(measure(name, importances, None if name in ("F32", "F16", "BF16") else make(name)), flush=True)


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
