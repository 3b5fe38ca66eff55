"""Formats of one number per weight, least significant byte first.

Bytes are put together one by one, because rows in a file need not be aligned; the compiler makes
one wide load of them. Integers and float64 become the nearest float32.
"""

import numpy as np

from dgguf.jit import kernel, part
from dgguf.quants.half import (
    bfloat16_to_float32,
    float16_to_float32,
    float32_to_bfloat16,
    float32_to_float16,
)


@kernel
def decode_f32(raw: np.ndarray, out: np.ndarray) -> None:
    """IEEE single precision, SEEEEEEE EMMMMMMM MMMMMMMM MMMMMMMM."""
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for i in range(y.size):
            y[i] = np.uint32(read_uint32(x, 4 * i)).view(np.float32)


@kernel
def decode_f16(raw: np.ndarray, out: np.ndarray) -> None:
    """IEEE half precision, SEEEEEMM MMMMMMMM."""
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for i in range(y.size):
            y[i] = float16_to_float32(x[2 * i], x[2 * i + 1])


@kernel
def decode_bf16(raw: np.ndarray, out: np.ndarray) -> None:
    """The upper half of an F32, SEEEEEEE EMMMMMMM."""
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for i in range(y.size):
            y[i] = bfloat16_to_float32(x[2 * i], x[2 * i + 1])


@kernel
def decode_f64(raw: np.ndarray, out: np.ndarray) -> None:
    """IEEE double precision."""
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for i in range(y.size):
            y[i] = np.float32(np.uint64(_read_uint64(x, 8 * i)).view(np.float64))


@kernel
def decode_i8(raw: np.ndarray, out: np.ndarray) -> None:
    """Two's complement, 1 byte."""
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for i in range(y.size):
            y[i] = np.float32(np.int8(x[i]))


@kernel
def decode_i16(raw: np.ndarray, out: np.ndarray) -> None:
    """Two's complement, 2 bytes."""
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for i in range(y.size):
            y[i] = np.float32(np.uint16(x[2 * i] | np.uint16(x[2 * i + 1]) << np.uint16(8)).view(np.int16))


@kernel
def decode_i32(raw: np.ndarray, out: np.ndarray) -> None:
    """Two's complement, 4 bytes."""
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for i in range(y.size):
            word = np.uint32(read_uint32(x, 4 * i))
            y[i] = np.float32(word.view(np.int32))


@kernel
def decode_i64(raw: np.ndarray, out: np.ndarray) -> None:
    """Two's complement, 8 bytes."""
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for i in range(y.size):
            y[i] = np.float32(np.uint64(_read_uint64(x, 8 * i)).view(np.int64))


@kernel
def encode_f32(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """The bytes of each float32."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            bits = np.float32(x[row, i]).view(np.uint32)
            out[row, 4 * i] = np.uint8(bits & np.uint32(0xFF))
            out[row, 4 * i + 1] = np.uint8((bits >> np.uint32(8)) & np.uint32(0xFF))
            out[row, 4 * i + 2] = np.uint8((bits >> np.uint32(16)) & np.uint32(0xFF))
            out[row, 4 * i + 3] = np.uint8(bits >> np.uint32(24))


@kernel
def encode_f16(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Round to the nearest float16, ties to even; beyond 65520 becomes infinite."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            half = float32_to_float16(x[row, i])
            out[row, 2 * i] = np.uint8(half & np.uint16(0xFF))
            out[row, 2 * i + 1] = np.uint8(half >> np.uint16(8))


@kernel
def encode_bf16(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Round to the nearest bfloat16, ties to even."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            half = float32_to_bfloat16(x[row, i])
            out[row, 2 * i] = np.uint8(half & np.uint16(0xFF))
            out[row, 2 * i + 1] = np.uint8(half >> np.uint16(8))


@part
def read_uint32(x: np.ndarray, start: int) -> np.uint32:
    """The four bytes of `x` from `start`."""
    low = np.uint32(x[start]) | np.uint32(x[start + 1]) << np.uint32(8)
    high = np.uint32(x[start + 2]) | np.uint32(x[start + 3]) << np.uint32(8)
    return np.uint32(low | high << np.uint32(16))


@part
def _read_uint64(x: np.ndarray, start: int) -> np.uint64:
    return np.uint64(np.uint64(read_uint32(x, start)) | np.uint64(read_uint32(x, start + 4)) << np.uint64(32))


DECODERS = {
    "F32": decode_f32,
    "F16": decode_f16,
    "BF16": decode_bf16,
    "F64": decode_f64,
    "I8": decode_i8,
    "I16": decode_i16,
    "I32": decode_i32,
    "I64": decode_i64,
}
