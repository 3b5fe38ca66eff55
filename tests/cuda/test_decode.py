"""The product's decoding of codes: bit for bit what float64 rounds to, for every code in every place.

Runs qgemm.cu in the emulation, with the identity for x: a sum of one weight and zeros is that weight.
"""

import ctypes
import importlib.util
import shutil
import zlib

import numpy as np
import pytest

from dgguf.backends.cuda.layout import layout
from dgguf.backends.cuda.repack import pack_codes
from dgguf.quants.block import FORMATS

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None,
        reason="numba-cuda is not installed: pip install '.[cuda13]'",
    ),
    pytest.mark.slow(3),
]
# A layout of each kind with each offset: what the kernel is given of a format.
LAYOUTS = {
    (form.kind, form.offset, form.values.tobytes()): (name, form)
    for name, form in ((f.name, layout(f)) for f in FORMATS.values())
    if not form.halves
}


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


def product(form, low, high, scales, rows, tokens):
    """x @ w.T by the emulated kernel for so many tokens, x the identity, w (rows, 64): (64, rows)."""
    from tests.support.cuda_emulation import library  # which needs numba-cuda

    names = ("HIGH_BITS", "GROUP", "MINIMUM", "TABLE", "HALVES")
    macros = tuple((name, int(value)) for name, value in zip(names, form.kind, strict=True))
    halves = form.values.astype(np.float16).view(np.uint16).astype(np.uint32)
    codes = np.arange(256)
    table = halves[codes & 15] | halves[codes >> 4] << np.uint32(16)
    base = np.array(1024 + form.offset, np.float16).view(np.uint16)
    x, x_scale = np.eye(64, dtype=np.float16), np.ones(64, np.float32)
    out = np.full((64, rows), np.nan, np.float32)
    arguments = [
        address(low), address(high), address(scales), address(table), ctypes.c_uint32(int(base) * 0x10001),
        address(x), address(x_scale), ctypes.c_void_p(), ctypes.c_void_p(), address(out), ctypes.c_int(rows),
        ctypes.c_int(1), ctypes.c_int(64), ctypes.c_float(1), ctypes.c_float(0), ctypes.c_int(rows),
        ctypes.c_int(rows),
    ]  # fmt: skip
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
    run = library("qgemm", macros)[f"run_qgemm_{tokens}"]
    run(pointers, ctypes.c_int(64 // tokens), ctypes.c_int(-(-rows // 64)), ctypes.c_int(128))
    return out


@pytest.mark.parametrize(("name", "form"), LAYOUTS.values(), ids=[name for name, _ in LAYOUTS.values()])
def test_every_code_in_every_place(name, form):
    """Scales and minimums of any size and sign, subnormal ones and zero too."""
    n = 16 << form.high_bits  # codes, and units: each place of a unit meets each code
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    orders = rng.permuted(np.tile(np.arange(n, dtype=np.uint8), (1024, 1)), axis=1)
    codes = np.ascontiguousarray(orders.T).reshape(n * 16, 64)
    low, high = np.empty((n, 32, 4), np.uint32), np.empty((n, 32, form.high_bits), np.uint32)
    for unit in range(n):
        pack_codes(codes[16 * unit :][:16], form.high_bits, low[unit : unit + 1], high[unit : unit + 1])
    groups = 64 // form.group
    shape = (n, 8, 2, groups, 1 + form.minimum)
    scales = (rng.choice([-1, 1], shape) * 2.0 ** rng.uniform(-25, 6, shape)).astype(np.float16)
    found = product(form, low, high, scales, n * 16, 32 if form.minimum else 64).T

    by_row = scales.transpose(0, 2, 1, 3, 4).reshape(n * 16, groups, -1).astype(np.float64)
    wanted = by_row[:, :, :1] * form.values[codes].reshape(n * 16, groups, -1)
    if form.minimum:
        wanted += by_row[:, :, 1:]
    wanted = wanted.astype(np.float16).reshape(n * 16, 64)
    assert np.isfinite(wanted).all()
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
