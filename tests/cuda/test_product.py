"""qgemm.cu in the emulation, by itself: the decoding of codes, tiles of experts, and chunks of every number.

A sum of one weight and zeros is that weight: with the identity for x the decoding is held to what float64
rounds to, bit for bit, for every code in every place of a unit.
"""

import ctypes
import importlib.util
import shutil
import zlib

import numpy as np
import pytest

from dgguf.backends.cuda.layout import layout
from dgguf.backends.cuda.repack import pack_codes
from dgguf.quants.block import FORMATS, FORMATS_BY_NAME

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

NO_ASYNC = (("WITHOUT_ASYNC_COPIES", 1),)  # as before compute capability 8.0


def address(array):
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def units_of(rng, form, codes):
    """The planes of codes (rows, columns), whole units, with random scales of any sign, and the weights.

    Returns:
        low, high, scales; the weights as the kernel should round them, (rows, columns) float16.
    """
    rows, chunks = len(codes), codes.shape[1] // 64
    n = rows // 16 * chunks
    low, high = np.empty((n, 32, 4), np.uint32), np.empty((n, 32, form.high_bits), np.uint32)
    for block in range(rows // 16):
        some = slice(block * chunks, (block + 1) * chunks)
        pack_codes(codes[16 * block :][:16], form.high_bits, low[some], high[some])
    groups = 64 // form.group
    shape = (rows // 16, chunks, 8, 2, groups, 1 + form.minimum)
    scales = (rng.choice([-1, 1], shape) * 2.0 ** rng.uniform(-25, 6, shape)).astype(np.float16)
    by_row = scales.transpose(0, 3, 2, 1, 4, 5).reshape(rows, chunks * groups, -1).astype(np.float64)
    weights = by_row[:, :, :1] * form.values[codes].reshape(rows, chunks * groups, -1)
    if form.minimum:
        weights += by_row[:, :, 1:]
    return (low, high, scales), weights.astype(np.float16).reshape(rows, -1)


def product(
    form,
    planes,
    x,
    rows,
    n_out,
    kernel,
    tiles,
    gather=None,
    macros=(),
    blocks=3,
    done=0,
    backwards=False,
    x_scale=None,
    gated=None,
    splits=1,
):
    """The sums (n_out, rows) of a kernel, such as "64_wide".

    Args:
        splits: of the chunks of one matrix, whose sums are added up; tiles are then as many as there are.
        gated: (out float16 (n_out, rows / 2), reach, out_scales), to be written in place of sums.
        blocks: of "32_wide", which stay.
        done: how often others have asked for more.
        backwards: the last block, and of each the last warp, runs first.
    """
    from tests.support.cuda_emulation import library  # which needs numba-cuda

    names = ("HIGH_BITS", "GROUP", "MINIMUM", "TABLE", "HALVES")
    kind = tuple((name, int(value)) for name, value in zip(names, form.kind, strict=True))
    halves = form.values.astype(np.float16).view(np.uint16).astype(np.uint32)
    codes = np.arange(256)
    table = halves[codes & 15] | halves[codes >> 4] << np.uint32(16)
    base = np.array(1024 + form.offset, np.float16).view(np.uint16)
    x_scale = np.ones(len(x), np.float32) if x_scale is None else x_scale
    out = np.full((splits, n_out, rows), np.nan, np.float32)
    to, reach, out_scales = gated or (out, None, None)
    macros += (("GATED", 1),) * (gated is not None)
    sizes = (ctypes.c_int(i) for i in (rows, x.shape[1] // 64, n_out))
    dealt, listed = np.array([done], np.int32), tiles if isinstance(tiles, np.ndarray) else None
    ends = (ctypes.c_int(rows), ctypes.c_int(rows))
    arguments = [
        *map(address, (*planes, table)), ctypes.c_uint32(int(base) * 0x10001), address(x), address(x_scale),
        address(gather), address(listed), address(to), *sizes, ctypes.c_float(1), ctypes.c_float(0), *ends,
        address(dealt), ctypes.c_int(len(tiles)), address(reach), address(out_scales),
        ctypes.c_int(splits),
    ]  # fmt: skip
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
    run = library("qgemm", kind + macros)[f"run_qgemm_{kernel}"]
    row_blocks = -(-rows // (128 if kernel.endswith("wide") else 64))
    grid = (blocks, 1) if kernel == "32_wide" else (row_blocks, len(tiles))
    if listed is None and kernel != "32_wide":
        grid = len(tiles), row_blocks * splits
    run(pointers, *map(ctypes.c_int, (*grid, 128, 0, backwards)))  # no dynamic shared memory
    assert dealt == (0 if kernel == "32_wide" else done)
    return out[0] if splits == 1 else out


@pytest.mark.parametrize(("name", "form"), LAYOUTS.values(), ids=[name for name, _ in LAYOUTS.values()])
def test_every_code_in_every_place(name, form):
    """Scales and minimums of any size and sign, subnormal ones too; tiles of 16, 32 and 64 tokens."""
    n = 16 << form.high_bits  # codes, and units: each place of a unit meets each code
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    orders = rng.permuted(np.tile(np.arange(n, dtype=np.uint8), (1024, 1)), axis=1)
    planes, weights = units_of(rng, form, np.ascontiguousarray(orders.T).reshape(n * 16, 64))
    assert np.isfinite(weights).all()
    kernels = (16, "32"), (32, "32"), (16, "32_wide"), (32, "32_wide"), (64, "64"), (64, "64_wide")
    for tokens, kernel in kernels:
        tiles = np.array([(0, first, tokens) for first in range(0, 64, tokens)], np.int32)
        found = product(form, planes, np.eye(64, dtype=np.float16), n * 16, 64, kernel, tiles)
        np.testing.assert_array_equal(found.T, weights.astype(np.float32))


@pytest.mark.parametrize("macros", [(), NO_ASYNC], ids=["async", "no_async"])
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "Q5_0", "Q6_K", "Q2_K", "IQ4_NL", "F16"])
def test_chunks_of_every_number(name, macros):
    """Fewer than are on their way at a time, as many, more; tiles of experts that are full, half full, empty.

    The sums of four products of 16 columns a chunk are rounded to float32 each.
    """
    form, rng = layout(FORMATS_BY_NAME[name]), np.random.default_rng(zlib.crc32(name.encode()))
    rows, n_experts = 80, 3  # a block of 64 and a warp of another; a warp of two blocks of 16, one too many
    counts = [(0, 1), (0, 16), (1, 0), (1, 17), (2, 32), (2, 31)]
    for chunks in (1, 2, 3, 4, 7):
        columns = 64 * chunks
        if form.halves:
            weights = rng.standard_normal((n_experts * rows, columns)).astype(np.float16)
            shape = (
                n_experts * rows // 16,
                2,
                8,
                chunks,
                4,
                2,
                4,
                2,
            )  # of r: eight columns on, eight rows on
            low = weights.reshape(shape).transpose(0, 3, 4, 2, 6, 5, 1, 7)
            planes = (np.ascontiguousarray(low), None, None)
        else:
            codes = rng.integers(0, 16 << form.high_bits, (n_experts * rows, columns), np.uint8)
            planes, weights = units_of(rng, form, codes)
        x = rng.standard_normal((20, columns)).astype(np.float16)
        for kernel in ("32", "64") if form.halves else ("32", "32_wide", "64", "64_wide"):
            firsts = np.cumsum([0, *(count for _, count in counts)])
            tiles = np.array([(e, at, n) for (e, n), at in zip(counts, firsts[:-1], strict=True)], np.int32)
            gather = rng.integers(0, 20, firsts[-1]).astype(np.int32)
            found = product(form, planes, x, rows, int(firsts[-1]), kernel, tiles, gather, macros)
            for expert, first, count in tiles:
                w = weights[rows * expert :][:rows].astype(np.float64).T
                given = x[gather[first : first + count]].astype(np.float64)
                bound = (4 * chunks + 1) * 2.0**-24 * (abs(given) @ abs(w))
                assert (abs(found[first : first + count] - given @ w) <= bound).all(), (chunks, kernel)


@pytest.mark.parametrize("macros", [(), NO_ASYNC], ids=["async", "no_async"])
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "Q6_K", "IQ4_NL"])
def test_blocks_that_stay_do_what_others_do_once_each(name, macros):
    """Tiles of both heights behind each other, empty ones, strips that the matrix cuts short: to the bit."""
    form, rng = layout(FORMATS_BY_NAME[name]), np.random.default_rng(zlib.crc32(name.encode()))
    rows = 464  # four strips of 128, the last cut short
    tiles = np.array([(0, 0, 0), (0, 0, 32), (1, 32, 9), (1, 41, 0), (2, 41, 17), (2, 58, 0)], np.int32)
    for chunks in (1, 2, 3, 5):
        codes = rng.integers(0, 16 << form.high_bits, (3 * rows, 64 * chunks), np.uint8)
        planes, _ = units_of(rng, form, codes)
        x = rng.standard_normal((20, 64 * chunks)).astype(np.float16)
        gather = rng.integers(0, 20, 58).astype(np.int32)
        given = form, planes, x, rows, 58
        others = product(*given, "32", tiles, gather, macros)
        assert np.isfinite(others).all()
        for blocks in (1, 2, 30):  # each begins with an item of its own
            for backwards in (False, True):
                found = product(*given, "32_wide", tiles, gather, macros, blocks, backwards=backwards)
                np.testing.assert_array_equal(found, others)
        rest = product(*given, "32_wide", tiles, gather, macros, 2, done=3)  # items 2 to 4: of tile 1 a strip
        np.testing.assert_array_equal(rest[:, 128:], others[:, 128:])
        assert np.isnan(rest[:32, :128]).all()
        np.testing.assert_array_equal(rest[32:, :128], others[32:, :128])


@pytest.mark.parametrize("name", ["Q4_K", "Q5_0"])
def test_blocks_that_stay_take_a_single_matrix_tile_by_tile(name):
    form, rng = layout(FORMATS_BY_NAME[name]), np.random.default_rng(zlib.crc32(name.encode()))
    codes = rng.integers(0, 16 << form.high_bits, (464, 128), np.uint8)
    planes, _ = units_of(rng, form, codes)
    x = rng.standard_normal((70, 128)).astype(np.float16)
    listed = np.array([(0, 0, 32), (0, 32, 32), (0, 64, 6)], np.int32)
    others = product(form, planes, x, 464, 70, "32", listed)
    for blocks in (1, 2, 30):
        found = product(form, planes, x, 464, 70, "32_wide", [None] * 3, blocks=blocks)
        np.testing.assert_array_equal(found, others)
    rest = product(form, planes, x, 464, 70, "32_wide", [None] * 3, blocks=2, done=2)  # items 2 and 3
    missing = np.zeros((70, 464), bool)
    missing[64:, :128] = missing[:32, 128:256] = True
    np.testing.assert_array_equal(np.isnan(rest), missing)


@pytest.mark.parametrize("macros", [(), NO_ASYNC], ids=["async", "no_async"])
@pytest.mark.parametrize("name", ["Q4_K", "Q5_0"])
def test_blocks_that_divide_the_columns(name, macros):
    """Each leaves the sums of its chunks: what a product with these columns alone gives, to the bit."""
    form, rng = layout(FORMATS_BY_NAME[name]), np.random.default_rng(zlib.crc32(name.encode()))
    for chunks, splits in ((1, 2), (4, 3), (7, 3), (6, 2), (11, 3)):
        codes = rng.integers(0, 16 << form.high_bits, (208, 64 * chunks), np.uint8)
        planes, _ = units_of(rng, form, codes)
        x = rng.standard_normal((70, 64 * chunks)).astype(np.float16)
        share = -(-chunks // splits)
        for kernel, height in (("32", 32), ("64", 64), ("64_wide", 64)):
            tiles = [None] * -(-70 // height)
            found = product(form, planes, x, 208, 70, kernel, tiles, macros=macros, splits=splits)
            for i in range(splits):
                some = slice(i * share, (i + 1) * share)
                own = [np.ascontiguousarray(plane.reshape(13, chunks, -1)[:, some]) for plane in planes]
                wanted = np.zeros((70, 208), np.float32)
                if own[0].size:
                    given = np.ascontiguousarray(x[:, 64 * some.start : 64 * some.stop])
                    wanted = product(form, own, given, 208, 70, kernel, tiles, macros=macros)
                np.testing.assert_array_equal(found[i], wanted)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("macros", [(), NO_ASYNC], ids=["async", "no_async"])
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "Q5_0", "IQ4_NL", "F16"])
def test_gate_and_up_whose_rows_alternate(name, macros):
    """gelu(gate) * up of the very sums, rounded to float16 once; rows of any size, and one of zeros."""
    form, rng = layout(FORMATS_BY_NAME[name]), np.random.default_rng(zlib.crc32(name.encode()))
    rows, n_experts = 256, 2  # eight blocks of 16 rows of gate, as many of up
    tiles = np.array([(0, 0, 32), (0, 32, 3), (1, 35, 0), (1, 35, 17)], np.int32)
    columns = 64 * 4
    if form.halves:
        weights = rng.standard_normal((n_experts * rows, columns)).astype(np.float16)
        shape = n_experts * rows // 16, 2, 8, 4, 4, 2, 4, 2  # of r: eight columns on, eight rows on
        low = weights.reshape(shape).transpose(0, 3, 4, 2, 6, 5, 1, 7)
        planes = np.ascontiguousarray(low), None, None
    else:
        codes = rng.integers(0, 16 << form.high_bits, (n_experts * rows, columns), np.uint8)
        planes, weights = units_of(rng, form, codes)
    x = (100 * rng.standard_normal((20, columns))).astype(np.float16)
    x[7] = 0
    scales = (2.0 ** rng.integers(-12, 3, 20)).astype(np.float32)
    gather = rng.integers(0, 20, 52).astype(np.int32)
    largest = abs(weights.astype(np.float32)).sum(axis=1).reshape(n_experts, -1, 2, 16).max(axis=(1, 3))
    reach = (1024 * largest[:, 0]) * (1024 * largest[:, 1])
    for kernel in ("32", "64") if form.halves else ("32", "32_wide", "64", "64_wide"):
        given = form, planes, x, rows, 52, kernel, tiles, gather, macros
        sums = product(*given, x_scale=scales).astype(np.float64).reshape(52, -1, 2, 16)
        wanted = (gelu(sums[:, :, 0]) * sums[:, :, 1]).reshape(52, rows // 2)
        out, out_scales = np.full((52, rows // 2), np.nan, np.float16), np.full(52, np.nan, np.float32)
        product(*given, x_scale=scales, gated=(out, reach, out_scales))
        assert (np.log2(out_scales) % 1 == 0).all()
        found = out.astype(np.float64) * out_scales[:, None].astype(np.float64)
        size = abs(sums[:, :, 0] * sums[:, :, 1]).reshape(52, -1)  # float32 rounds the factor of gelu
        bound = 2.0**-11 * abs(wanted) + 2.0**-25 * out_scales[:, None] + 2.0**-22 * size
        assert (abs(found - wanted) <= bound).all(), kernel
