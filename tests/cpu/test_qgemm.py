"""8-bit products on every CPU path that this machine has, against exact integers and float64."""

import ctypes
import re
import zlib

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from dgguf.backends.cpu import activations, features, float_tile, matmul, panels, qgemm_tile
from dgguf.backends.cpu.unpack import PANEL_ROWS, emit_decoder
from dgguf.errors import BackendError
from dgguf.llvm_ir import I64
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.threads.pool import Pool
from tools.accuracy import products
from tools.accuracy.products import random_matrix
from tools.bench import counts

PATHS = [path for path in features.possible_paths() if path != "portable"]
KINDS = sorted({(p.minimum, p.group, max(4, p.bits)) for p in panels.PANEL_FORMATS.values()})
LARGEST = 2.0**-24  # relative error of a float32 operation


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def quantized(x, group=32, offset=0, size=1):
    """The bytes of `activations.prepare` in 8 bits, and the parts of its layout."""
    rows, columns = x.shape
    layout = group, offset, size
    out = np.empty((rows, activations.prepared_bytes(columns, layout)), np.uint8)
    activations.prepare(x, out, layout)
    scales, sums = np.split(out[:, size * columns :], [columns // 8], axis=1)
    codes = out[:, : size * columns].copy().view({1: np.int8, 2: np.int16}[size])
    if size == 2:  # of each four the first and third, then the second and fourth
        codes = codes.reshape(rows, -1, 2, 2).transpose(0, 1, 3, 2).reshape(rows, columns)
    of = np.int32 if offset else np.float32
    return out, codes, scales.copy().view(np.float32), sums.copy().view(of)


@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize(("offset", "size"), [(0, 1), (4, 1), (128, 1), (128, 2), (-32, 1)])
def test_activations(rng, group, offset, size):
    x = (rng.standard_normal((5, 96)) * 10.0 ** rng.integers(-20, 20, (5, 1))).astype(np.float32)
    x[1, 32:64] = 0
    _, codes, scales, sums = quantized(x, group, offset, size)
    largest = abs(x.reshape(5, 3, 32)).max(axis=2)
    np.testing.assert_allclose(scales, largest / 127, rtol=2 * LARGEST)
    restored = codes.reshape(5, 3, 32) * scales[:, :, None].astype(np.float64)
    # Half a step; the inverse of the scale and the product with it are rounded, 127 * 2**-22 of a step.
    assert (abs(restored - x.reshape(5, 3, 32)) <= largest[:, :, None] / 254 * (1 + 1e-4)).all()
    exact = codes.reshape(5, -1, group).sum(axis=2, dtype=np.int64)
    if offset < 0:  # of the first two of each four codes, and of the last two
        apart = codes.reshape(5, -1, group // 4, 2, 2).sum(axis=(2, 4), dtype=np.int64)
        np.testing.assert_array_equal(sums.view(np.int16), (offset * apart).astype(np.int16).reshape(5, -1))
    elif offset:
        np.testing.assert_array_equal(sums, -offset * exact)
    else:
        wanted = exact * scales.repeat(32 // group, axis=1).astype(np.float64)
        np.testing.assert_allclose(sums, wanted, rtol=LARGEST)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_stay_so(wrong):
    x = np.ones((1, 64), np.float32)
    x[0, 5] = wrong
    _, _, scales, _ = quantized(x)
    assert not np.isfinite(scales[0, 0])
    assert np.isfinite(scales[0, 1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("minimum", "group", "bits"), KINDS)
def test_tile_is_exact(rng, path, minimum, group, bits):
    """Integers up to the extremes, where 16-bit sums would overflow first, and scales of 1."""
    columns, most = 96, 2**bits - 1
    kind = qgemm_tile.PATHS[path]
    width = kind.width * kind.lanes
    address = qgemm_tile.tile_address(path, int(minimum), group, max(bits, qgemm_tile.LEAST_BITS[kind.dot]))
    tile = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 11)(address)
    for n_rows in range(1, kind.rows + 1):
        for codes_of, inputs_of in (
            [(0, most), (-127, 127)],
            [(most, most), (127, 127)],
            [(0, 0), (-127, -127)],
        ):
            codes = rng.choice(np.array(codes_of, np.uint8), (columns // 4, PANEL_ROWS, 4))
            codes[:8, 1::2] = rng.integers(0, most + 1, (8, PANEL_ROWS // 2, 4))
            x = rng.choice(np.array(inputs_of, np.float32), (n_rows, columns))
            x[:, ::32] = 127  # so that the scale is 1
            offset = 0 if minimum else 2 ** (bits - 1)
            in_16_bits = kind.adds_in_16_bits(minimum, group, bits)
            packed, *_ = quantized(x, group, -offset if in_16_bits else offset, kind.input_bytes(bits))
            scales = np.ones((columns // group, PANEL_ROWS), np.float32)
            minimums = rng.integers(-9, 9, scales.shape).astype(np.float32)
            out = np.full((n_rows, PANEL_ROWS), np.nan, np.float32)
            tile(
                n_rows, codes.ctypes.data, scales.ctypes.data, minimums.ctypes.data, packed.ctypes.data,
                packed.strides[0], columns, out.ctypes.data, out.strides[0], 0, 0,
            )  # fmt: skip
            weights = codes.transpose(1, 0, 2).reshape(PANEL_ROWS, columns).astype(np.int64)
            if minimum:
                weights = weights + minimums.T.repeat(group, axis=1).astype(np.int64)
            else:
                weights -= 2 ** (bits - 1)
            wanted = (x.astype(np.int64) @ weights.T)[:, :width]
            np.testing.assert_array_equal(out[:, :width], wanted)
            assert np.isnan(out[:, width:]).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", panels.PANEL_FORMATS)
def test_product(rng, monkeypatch, name, path):
    monkeypatch.setenv("DGGUF_CPU_PATH", path)
    for rows, outputs, columns in ((1, 40, 512), (11, 33, 256), (7, 100, 768)):
        w, weights = random_matrix(name, outputs, columns, rng)
        x = rng.standard_normal((rows, columns)).astype(np.float32)
        x *= np.exp(rng.standard_normal((rows, columns))).astype(np.float32)  # some stand out
        found = matmul.linear(matmul.prepare(x, w), w, Pool(2))
        exact = x.astype(np.float64) @ weights.T
        # Plain weights are rounded as inputs are; what is multiplied is then up to that much larger.
        step = np.zeros_like(weights)
        if FORMATS_BY_NAME[name].block_size == 1:
            step = abs(weights).reshape(outputs, -1, 32).max(axis=2).repeat(32, axis=1) / 127
        # An input is off by at most 1/254 of its group's largest; activations.quantize adds 1e-4 of it.
        largest = abs(x).reshape(rows, -1, 32).max(axis=2).repeat(32, axis=1)
        bound = largest / 254 * (1 + 1e-4) @ (abs(weights) + step / 2 * (1 + 1e-4)).T
        bound += abs(x) @ (step / 2 * (1 + 1e-4)).T
        # Sums in float32: K / 16 terms at most, or twice as many, of a code's and a minimum's part. Each
        # part is at most 16 times the largest weight, which is that of the code 0 or the highest.
        terms = 2 * columns // 16 + 8
        bound += terms * LARGEST * 32 * abs(x).sum(axis=1)[:, None] * abs(weights).max()
        assert (abs(found - exact) <= bound).all()
        # That is the worst case. Rounding at random has the variance of a step squared by 12.
        variance = (largest / 127) ** 2 / 12 @ (weights**2).T + x.astype(np.float64) ** 2 @ (step**2 / 12).T
        assert np.linalg.norm(found - exact) <= 1.4 * np.sqrt(variance.sum())


@pytest.mark.parametrize("name", panels.PANEL_FORMATS)
def test_paths_agree(rng, monkeypatch, name):
    """The integers are the same; only float32 sums differ, in the order of addition."""
    w, weights = random_matrix(name, 64, 512, rng)
    x = rng.standard_normal((9, 512)).astype(np.float32)
    results = []
    for path in PATHS:
        monkeypatch.setenv("DGGUF_CPU_PATH", path)
        results.append(matmul.linear(matmul.prepare(x, w), w, Pool(2)))
    for other in results[1:]:
        np.testing.assert_allclose(
            other, results[0], atol=1e-5 * abs(x).sum(axis=1).max() * abs(weights).max()
        )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", panels.PANEL_FORMATS)
def test_no_less_accurate_than_llama_cpp(rng, monkeypatch, name, path):
    monkeypatch.setenv("DGGUF_CPU_PATH", path)
    for spread in (0, 1):  # inputs are normal; some stand out
        for what, (ours, theirs) in products.errors(name, spread, rng).items():
            # With a scale for 32 on both sides, theirs is just rounded to float16: as good as equal. Plain
            # numbers are next to their Q8_0.
            most = 0.9 if FORMATS_BY_NAME[name].block_size == 256 else 1.015
            assert 0 < ours <= most * theirs, (spread, what, ours, theirs)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("neon", "is 'neon'; this CPU can run avx2, portable$"),
        ("sse", "is 'sse'; this CPU can run avx2, portable; all there are: avx512_vnni, .*, neon, portable$"),
    ],
)
def test_a_path_that_cannot_run_is_refused(monkeypatch, wanted, message):
    monkeypatch.setattr(features, "possible_paths", lambda: ("avx2", "portable"))
    monkeypatch.setenv("DGGUF_CPU_PATH", wanted)
    with pytest.raises(BackendError, match=message):
        features.cpu_path()


def test_the_best_path_is_chosen(monkeypatch):
    monkeypatch.setattr(features, "possible_paths", lambda: ("avx2", "portable"))
    monkeypatch.delenv("DGGUF_CPU_PATH", raising=False)
    assert features.cpu_path() == "avx2"
    monkeypatch.setenv("DGGUF_CPU_PATH", "portable")
    assert features.cpu_path() == "portable"


@pytest.mark.parametrize(
    ("cpu", "wanted"),
    [
        ("avx2 fma f16c avx512f avx512bw avx512vl avx512vnni", ["avx512_vnni", "avx_vnni", "avx2"]),
        ("avx2 fma f16c avxvnni", ["avx_vnni", "avx2"]),
        ("avx2 fma f16c avx512f avx512bw avx512vl", ["avx2"]),
        ("avx2 fma", []),
        ("neon fp-armv8 dotprod", ["neon"]),
        ("neon fp-armv8", []),
    ],
)
def test_paths_of_other_cpus(monkeypatch, cpu, wanted):
    monkeypatch.setattr(features, "compiled_features", lambda: frozenset(cpu.split()))
    assert list(features.possible_paths.__wrapped__()) == [*wanted, "portable"]


OF_ALL_KINDS = ["Q4_K", "Q6_K", "Q2_K", "Q8_0", "IQ4_NL", "IQ3_S", "F32", "F16", "BF16"]


@pytest.mark.parametrize("name", [*OF_ALL_KINDS, *(n for n in panels.KEPT_FORMATS if "bfloat16" not in n)])
def test_code_for_arm_is_written(name):
    """No Arm runs it here, but LLVM accepts it, and makes it of the instructions meant."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(
        cpu="apple-m1", opt=1
    )

    def assembly(n_arguments, write):
        module = ir.Module()
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * n_arguments), "code")
        builder = ir.IRBuilder(function.append_basic_block())
        write(builder, function.args)
        builder.ret_void()
        return machine.emit_assembly(llvm.parse_assembly(str(module)))

    layout = panels.panel_format(name)
    decoder = assembly(6, lambda b, args: emit_decoder(b, "neon", layout, args))
    assert name != "IQ4_NL" or decoder.count("\ttbl\t") == 8 * 4
    if layout.kept:
        lanes, width = qgemm_tile.PATHS["neon"].lanes, qgemm_tile.PATHS["neon"].width

        def write(b, args):
            inputs, panel, turns, out = args[:2], args[2], args[3], args[4:]
            rows, words = float_tile.ROWS, float_tile.INPUTS
            float_tile.write_tile(b, lanes, width, rows, inputs, panel, turns, out, words=words)

        tile = assembly(6, write)
        assert tile.count("\tfmla\t") == float_tile.ROWS * 4 * float_tile.INPUTS
        assert "\tbl\t" not in tile + decoder, "numbers are widened and multiplied by instructions alone"
        return
    kind, bits = qgemm_tile.PATHS["neon"], max(layout.bits, qgemm_tile.LEAST_BITS["sdot"])
    tile = assembly(
        10, lambda b, args: qgemm_tile.Tile(b, kind, layout.minimum, layout.group, bits, 4, args).write()
    )
    assert tile.count("\tsdot\t") == kind.rows * kind.width * 32 // 4


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ2_S"])
def test_vectors_without_a_register_lie_within_cache_lines(name):
    """On AVX2, where there are 16. No such CPU is needed: the code is read, not run."""
    form, kind = panels.panel_format(name), qgemm_tile.PATHS["avx2"]
    bits = max(form.bits, qgemm_tile.LEAST_BITS[kind.dot])
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()

    def write(b, args):
        qgemm_tile.write_tiles(b, kind, form.minimum, form.group, bits, list(args))

    for code in (
        counts.assembly(counts.CORES["avx2"], 11, write),
        counts.assembly(counts.CORES["avx2"], 6, lambda b, args: emit_decoder(b, "avx2", form, args)),
    ):
        stored = re.findall(r"\t(vmov\w+)\t%ymm\d+, -?\d*\(%r[sb]p", code)
        assert set(stored) <= {"vmovaps", "vmovdqa"}
