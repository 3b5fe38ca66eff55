"""Every verb of the CUDA backend against its float64 twin: on a GPU, or without one.

`test_without_gpu.py` runs this file in a process of its own. With NUMBA_ENABLE_CUDASIM=1, which has to be
set before numba is imported, numba's simulator runs the small kernels and g++ compiles the C++ ones;
without it a GPU runs them all. The simulator makes a Python thread of each GPU thread: small shapes.
"""

import gc
import math
import sys
import weakref
import zlib
from dataclasses import replace

import numpy as np
import pytest
from numba import cuda

from dgguf.backends.base import HostTensor, Role, Visible
from dgguf.backends.cpu import CpuBackend
from dgguf.backends.cuda import experts as expert_kernels
from dgguf.backends.cuda import jit, logits, matmul
from dgguf.backends.cuda import memory as memory_module
from dgguf.backends.cuda.backend import CudaBackend
from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.memory import Array, Memory, pointer, upload
from dgguf.backends.cuda.plan import PlacementPlan, Sizes
from dgguf.backends.cuda.queue import Queue
from dgguf.errors import NumericsError
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache, LayerCache
from dgguf.model.canvas import Branches, Call, Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from dgguf.quants.block import FORMATS_BY_NAME
from tests.cuda.test_repack import decoded, host_tensor
from tests.support import reference, twins
from tests.support.cuda_emulation import COMPILER, EmulatedLauncher
from tests.support.synthetic.vocabulary import Vocabulary, tiny_vocabulary
from tests.support.synthetic.writer import TINY, write_model
from tests.support.twins import EPS, gelu, rms, rotated, softmax

if jit.SIMULATED:
    from numba.cuda.simulator import kernelapi

    def shared_array(self, shape, dtype):
        """The simulator's own gives two threads that ask at the same time an array each."""
        caller = sys._getframe(1)
        place = caller.f_code, caller.f_lasti
        return self._allocations.setdefault(place, np.empty(shape, dtype))

    kernelapi.FakeCUDAShared.array = shared_array
    # The simulator waits for its threads in a busy loop: let it give way often.
    sys.setswitchinterval(1e-5)
ROUNDED = 2e-3  # of the fast path: float16 weights and activations, float32 sums
ALL_RESIDENT = PlacementPlan(Sizes(0, (0,) * 9, 0, 0), frozenset())


class SimulatedDevice(Device):
    """The simulator's; its compute capability is older than any that `Device` accepts."""

    def __init__(self):
        self._cuda, self.number, self.name, self.capability = cuda, 0, "simulator", (9, 0)
        self.shared_bytes, self.multiprocessors = 227 << 10, 132
        self.stream = cuda.stream()


class CountingQueue(Queue):
    """A GPU's, which keeps the names of the C++ kernels that it starts and how often it repeats."""

    def __init__(self, device):
        super().__init__(device, device.launcher())
        self.launched = []
        self.repeated = 0

    def launch(self, source, macros, name, *arguments):
        super().launch(source, macros, name, *arguments)
        self.launched.append(name)

    def repeat(self):
        super().repeat()
        self.repeated += 1


class SimulatedQueue(Queue):
    """Records what it is asked for as calls to repeat; as with a graph, only the addresses are kept."""

    def __init__(self, device):
        super().__init__(device, EmulatedLauncher())
        self.launched = self._launcher.launched
        self.repeated = 0
        self._calls = []

    def _do(self, call, *arguments):
        if self.recording:
            self._calls.append((call, arguments))
        else:
            call(*arguments)

    def run(self, *arguments):
        self._do(super().run, *arguments)

    def launch(self, *arguments):
        self._do(super().launch, *arguments)

    def copy_in(self, *arguments):
        self._do(super().copy_in, *arguments)

    def record(self, compute):
        self._calls = []
        self.recording = True
        try:
            compute()
        finally:
            self.recording = False

    def repeat(self):
        self.repeated += 1
        for call, arguments in self._calls:
            call(*arguments)


def make_backend(path, plan=ALL_RESIDENT):
    if jit.SIMULATED and path == "fast" and COMPILER is None:
        pytest.skip("the C++ kernels run without a GPU only where there is a g++")
    device = SimulatedDevice() if jit.SIMULATED else Device(0)
    queue = SimulatedQueue(device) if jit.SIMULATED else CountingQueue(device)
    return CudaBackend(device, plan, 2, reference=path == "reference", queue=queue)


@pytest.fixture(params=["reference", "fast"])
def path(request):
    return request.param


@pytest.fixture
def backend(path):
    return make_backend(path)


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def tensor(rng, name, *shape):
    """A random tensor in a file's format, and what it decodes to."""
    made = host_tensor(rng, name, shape)
    return made, decoded(made)


def products(backend):
    """The kernels of qgemm.cu that it has started."""
    return [name for name in backend._queue.launched if name.startswith("qgemm")]


def close(found, wanted, tolerance=4e-6):
    twins.close(found, wanted, tolerance)


HOT = ["Q4_K", "Q5_0", "Q8_0", "Q6_K"]
KINDS = [
    "Q1_0",
    "Q4_0",
    "Q5_1",
    "Q2_K",
    "Q3_K",
    "IQ4_XS",
    "NVFP4",
    "F16",
    "BF16",
    "F32",
]  # with HOT, one of each kind


@pytest.mark.parametrize("name", HOT + KINDS)
def test_linear(backend, rng, path, name):
    columns = 256 if FORMATS_BY_NAME[name].block_size > 64 else 192
    rows, outputs = (2, 17) if path == "reference" else (5, 37)  # the simulator is slow
    x, (w, weights) = normal(rng, rows, columns), tensor(rng, name, outputs, columns)
    found = backend.to_host(backend.linear(upload(x), backend.load_matrix(w)))
    close(found, x.astype(np.float64) @ weights.T, ROUNDED)


@pytest.mark.parametrize(
    ("rows", "outputs"), [(1, 16), (16, 70), (17, 16), (32, 70), (33, 130), (66, 16), (79, 16)]
)
def test_linear_at_the_edges_of_tiles(rng, rows, outputs):
    """Row blocks and token tiles that are not full, more than one of each, one chunk and three."""
    backend = make_backend("fast")
    for columns in (32, 160):
        x, (w, weights) = normal(rng, rows, columns), tensor(rng, "Q8_0", outputs, columns)
        found = backend.to_host(backend.linear(upload(x), backend.load_matrix(w)))
        close(found, x.astype(np.float64) @ weights.T, ROUNDED)
    assert products(backend) == ["qgemm_32" if rows <= 32 else "qgemm_64"] * 2


@pytest.mark.parametrize("names", [("Q8_0", "Q8_0", "Q8_0"), ("Q4_K", "Q4_K", "Q6_K"), ("F32", "F32")])
def test_matrices_of_the_same_rows_are_one_launch(rng, names):
    """Of one layout they lie behind each other; the numbers are those of each alone, to the bit."""
    backend, alone = make_backend("fast"), make_backend("fast")
    shapes = ((48, 256), (16, 256), (80, 256))
    tensors = [
        replace(tensor(rng, name, *shape)[0], name=f"{i}")
        for i, (name, shape) in enumerate(zip(names, shapes, strict=False))
    ]
    x, y = (upload(normal(rng, 37, 256)) for _ in range(2))
    matrices, one_by_one = backend.load_matrices(tensors), [alone.load_matrix(t) for t in tensors]
    for given in (x, y, x):
        for w, single in zip(reversed(matrices), reversed(one_by_one), strict=True):
            found = backend.to_host(backend.linear(given, w))
            np.testing.assert_array_equal(found, alone.to_host(alone.linear(given, single)))
    for be, n in ((backend, len(set(names))), (alone, len(names))):
        assert len(products(be)) == 3 * n
    ids = np.array([5, 15])
    for w, single in zip(matrices, one_by_one, strict=True):  # each still stands for itself
        np.testing.assert_array_equal(
            *(be.to_host(be.embed(m, ids, 1.0)) for be, m in ((backend, w), (alone, single)))
        )


def test_matrices_of_very_different_size_are_not_joined(rng):
    """Their scales would lose bits."""
    backend = make_backend("fast")
    weights = [normal(rng, 16, 64), normal(rng, 16, 64) * np.float32(1000)]
    tensors = [
        HostTensor(str(i), FORMATS_BY_NAME["F32"], w.view(np.uint8), 64) for i, w in enumerate(weights)
    ]
    x = normal(rng, 3, 64)
    given, matrices = upload(x), backend.load_matrices(tensors)
    for w, m in zip(weights, matrices, strict=True):
        found = backend.to_host(backend.linear(given, m))
        close(found, x.astype(np.float64) @ w.T.astype(np.float64), ROUNDED)
    assert len(products(backend)) == 2


def test_the_wide_kernel_is_the_narrow_one(rng, monkeypatch):
    """To the bit, with a warp that has one row block, one that has none, and matrices side by side."""
    x, (w, _) = normal(rng, 70, 160), tensor(rng, "Q5_0", 144, 160)
    found = []
    for blocks in (1, 1000):
        monkeypatch.setattr("dgguf.backends.cuda.matmul.WIDE_BLOCKS", blocks)
        backend = make_backend("fast")
        found.append(backend.to_host(backend.linear(upload(x), backend.load_matrix(w))))
        assert products(backend) == ["qgemm_64_wide" if blocks == 1 else "qgemm_64"]
    np.testing.assert_array_equal(*found)


def test_columns_are_divided_where_rows_are_few(rng):
    """By the shapes of the full-size model: `o` and the dense `down` of a canvas, not of a prompt."""
    backend = make_backend("fast")
    w = backend.load_matrix(replace(tensor(rng, "Q8_0", 16, 64)[0], role=Role.ATTENTION))
    for rows, columns, tiles, wanted in (
        (2816, 4096, 4, 3), (2816, 8192, 4, 3), (2816, 2112, 4, 3), (2816, 4096, 8, 2), (2816, 4096, 16, 1),
        (2816, 4096, 1, 3), (2816, 1024, 4, 2), (2816, 512, 4, 1),
    ):  # fmt: skip
        large = replace(w, packed=replace(w.packed, rows=rows, columns=columns))
        n = matmul.splits(large, tiles)
        assert n == wanted
        height = 32 if tiles == 1 else 64
        name, grid, _ = matmul.variant(large, height, tiles, 132, n_splits=n)
        assert name == (
            "qgemm_32" if tiles == 1 else "qgemm_64_wide" if n * tiles * 22 >= 256 else "qgemm_64"
        )
        assert grid == (tiles, n * (22 if "wide" in name else 44))
        assert matmul.splits(replace(large, divides=False), tiles) == 1


@pytest.mark.parametrize("gated", [False, True])
def test_the_bench_finds_the_error_of_a_product(rng, gated):
    """Of matrices behind each other, or gate and up; with the weights that it was given, and with others."""
    from tools.bench.gpu.errors import largest_error
    from tools.bench.gpu.nodes import Node

    backend, started = make_backend("fast"), []
    sizes, role = ((64, 64), Role.MLP) if gated else ((32, 48), Role.ATTENTION)
    made = [tensor(rng, "Q8_0", n, 192)[0] for n in sizes]
    tensors = [replace(t, name=f"{i}", role=role) for i, t in enumerate(made)]
    w, other = backend.load_matrices(tensors), backend.load_matrices(tensors[::-1])
    launch = backend._queue.launch
    backend._queue.launch = lambda *given: (started.append(given), launch(*given))
    x = upload(normal(rng, 5, 192))
    backend.gated(x, *w) if gated else backend.linear(x, w[0])
    source, macros, name, grid, threads, arguments = next(given for given in started if given[0] == "qgemm")
    for whole, low, high in ((w, 1e-7, ROUNDED), (other, 0.1, 10)):
        node = Node(
            name, source, macros, grid, threads, tuple(arguments), (whole[0].joined.whole,),
            lambda: launch(source, macros, name, grid, threads, arguments),
        )  # fmt: skip
        assert low < largest_error(node, backend._queue) < high


def test_linear_of_rows_of_very_different_size(backend, rng):
    """Beyond what float16 holds, in both directions."""
    sizes = np.array([[1e-7], [1.0], [1e6], [0.0]], np.float32)
    x, (w, weights) = normal(rng, 4, 64) * sizes, tensor(rng, "Q8_0", 16, 64)
    found = backend.to_host(backend.linear(upload(x), backend.load_matrix(w)))
    wanted = x.astype(np.float64) @ weights.T
    assert (abs(found - wanted) <= ROUNDED * abs(wanted).max(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_linear_with_weights_of_any_size(backend, rng, size):
    weights = normal(rng, 16, 64) * np.float32(size)
    w = HostTensor("w", FORMATS_BY_NAME["F32"], weights.view(np.uint8), 64)
    x = normal(rng, 3, 64)
    found = backend.to_host(backend.linear(upload(x), backend.load_matrix(w)))
    wanted = x.astype(np.float64) @ weights.T.astype(np.float64)
    assert abs(found - wanted).max() <= ROUNDED * abs(wanted).max()


def test_the_fast_product_is_the_reference_but_for_rounding(rng):
    """With weights and activations that float16 holds, only the order of the sums differs."""
    x = rng.integers(-8, 9, (40, 128)).astype(np.float32)
    w, _ = tensor(rng, "Q8_0", 48, 128)
    found = [
        be.to_host(be.linear(upload(x), be.load_matrix(w)))
        for be in (make_backend("fast"), make_backend("reference"))
    ]
    close(*found, 3e-4)  # a code times a scale is rounded to float16


@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL"])
def test_embed(backend, rng, name):
    table, weights = tensor(rng, name, 50, 256)
    ids = np.array([3, 49, 3, 0])
    found = backend.to_host(backend.embed(backend.load_matrix(table), ids, 5.5))
    close(found, weights[ids] * 5.5, 1e-3)


@pytest.mark.parametrize("shape", [(3, 33), (3, 2, 16)])
def test_rms_norm(backend, rng, shape):
    x, w = normal(rng, *shape), normal(rng, shape[-1])
    close(backend.to_host(backend.rms_norm(upload(x), upload(w), EPS)), rms(x, w))
    close(backend.to_host(backend.rms_norm(upload(x), None, EPS)), rms(x))


def test_rms_norm_of_zeros_is_zero(backend):
    assert not backend.to_host(backend.rms_norm(upload(np.zeros((2, 8), np.float32)), None, EPS)).any()


def test_add_and_residual(backend, rng):
    x, y, w = normal(rng, 3, 33), normal(rng, 3, 33), normal(rng, 33)
    close(backend.to_host(backend.add(upload(x), upload(y))), x + y)
    found = backend.to_host(backend.residual(upload(x), upload(y), upload(w), EPS, 0.75))
    close(found, (x + rms(y, w)) * 0.75)


def test_put_rows(backend, rng):
    x, rows = normal(rng, 7, 33), normal(rng, 3, 33)
    given = upload(x)
    found = backend.to_host(backend.put_rows(given, 2, rows))
    np.testing.assert_array_equal(found, np.concatenate((x[:2], rows, x[5:])))
    np.testing.assert_array_equal(backend.to_host(given), x)


def test_residual_of_sum(backend, rng):
    x, y, z = (normal(rng, 3, 33) for _ in range(3))
    v, w, u = (normal(rng, 33) for _ in range(3))
    found = backend.residual_of_sum(*map(upload, (x, y, v, z, w, u)), EPS, 0.75)
    close(backend.to_host(found), (x + rms(rms(y, v) + rms(z, w), u)) * 0.75)


def test_gated_gelu(backend, rng):
    gate, up = 4 * normal(rng, 3, 25), normal(rng, 3, 25)
    close(backend.to_host(backend.geglu(upload(gate), upload(up))), gelu(gate) * up)


@pytest.mark.parametrize("columns", [33, 132])
def test_a_residual_adds_up_what_blocks_left_of_a_product(rng, monkeypatch, columns):
    """With no kernel more than of a product that is whole; and whoever else asks gets the sum."""
    monkeypatch.setattr("dgguf.backends.cuda.matmul._LEAST_CHUNKS", 1)
    w, weights = tensor(rng, "Q8_0", columns, 192)
    x, given, z = normal(rng, 3, columns), normal(rng, 3, 192), normal(rng, 3, columns)
    v, u, more = (normal(rng, columns) for _ in range(3))
    y = given.astype(np.float64) @ weights.T
    for of_sum in (False, True):
        backend = make_backend("fast")
        matrix = backend.load_matrix(replace(w, role=Role.MLP))
        assert matmul.splits(matrix, 1) == 3
        made = backend.linear(upload(given), matrix)
        stream, factor = upload(x), upload(u)
        if of_sum:
            out = backend.residual_of_sum(stream, made, upload(v), upload(z), upload(more), factor, EPS, 0.5)
            wanted = (x + rms(rms(y, v) + rms(z, more), u)) * 0.5
        else:
            out = backend.residual(stream, made, factor, EPS, 0.5)
            wanted = (x + rms(y, u)) * 0.5
        close(backend.to_host(out), wanted, ROUNDED)
        name = "residual_of_sum" if of_sum else "residual"
        assert backend._queue.launched == ["to_half", "qgemm_32", name]
        close(backend.to_host(made), y, ROUNDED)
        close(
            backend.to_host(backend.residual(stream, made, factor, EPS, 0.5)), (x + rms(y, u)) * 0.5, ROUNDED
        )


def product_input(backend, x):
    """An array as the products read it."""
    halves = backend._kernels.halves(x)
    numbers, scales = backend.to_host(halves.numbers), backend.to_host(halves.scales)
    assert not numbers[:, x.shape[1] :].any()
    return numbers[:, : x.shape[1]].astype(np.float64) * scales[:, None]


SIZES = np.array([[1.0], [1e-4], [3e5]], np.float32)  # of rows
COLUMNS = [33, 132, 1100]  # single ones and groups of four; less than a warp has, and more than a block


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_residual_comes_with_its_norms(rng, columns):
    """One kernel for all that reads these rows, whatever is asked for first."""
    x, y = normal(rng, 3, columns) * SIZES, normal(rng, 3, columns)
    w, *weights = (normal(rng, columns) for _ in range(4))
    wanted = (x + rms(y, w)) * 0.75
    for first in (0, 1, None):
        backend = make_backend("fast")
        out = backend.residual(upload(x), upload(y), upload(w), EPS, 0.75)
        norms = [backend.rms_norm(out, upload(weight), EPS) for weight in weights]
        assert not backend._queue.launched
        if first is None:
            backend.to_host(out)
        else:
            product_input(backend, norms[first])
        for norm, weight in zip(norms[:2], weights, strict=False):
            close(product_input(backend, norm), rms(wanted, weight), 1e-3)
        assert (abs(backend.to_host(out) - wanted) < 4e-6 * abs(wanted).max(axis=1, keepdims=True)).all()
        assert backend._queue.launched == ["residual"]
        close(product_input(backend, norms[2]), rms(wanted, weights[2]), 1e-3)  # there is room for two
        close(backend.to_host(norms[0]), rms(wanted, weights[0]))  # and in float32


def test_a_norm_that_nobody_holds_is_not_computed(rng):
    backend = make_backend("fast")
    x, w, weight = upload(normal(rng, 3, 33)), upload(normal(rng, 33)), upload(normal(rng, 33))
    out = backend.residual(x, x, w, EPS, 1.0)
    dropped, norm = (weakref.ref(backend.rms_norm(out, weight, EPS)), backend.rms_norm(out, weight, EPS))
    assert dropped() is None  # nor does it keep its memory until the residual is computed
    product_input(backend, norm)
    assert backend._queue.launched == ["residual"]


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("n_used", [None, 1, 3])
def test_a_residual_of_sums_over_experts(rng, columns, n_used):
    backend = make_backend("fast")
    x, y = normal(rng, 3, columns) * SIZES, normal(rng, 3, columns)
    v, w, u, next_weight = (normal(rng, columns) for _ in range(4))
    z = normal(rng, 3 * (n_used or 1), columns)
    addend, summed = upload(z), z
    if n_used:
        slots = rng.permutation(3 * n_used).astype(np.int32)
        shares = normal(rng, 3, n_used)
        addend = backend._rows.combine(upload(z), upload(slots), upload(shares))
        summed = (z[slots].reshape(3, n_used, columns) * shares[:, :, None]).sum(axis=1)
    out = backend.residual_of_sum(upload(x), upload(y), upload(v), addend, upload(w), upload(u), EPS, 0.5)
    norm = backend.rms_norm(out, upload(next_weight), EPS)
    wanted = (x + rms(rms(y, v) + rms(summed, w), u)) * 0.5
    close(product_input(backend, norm), rms(wanted, next_weight), 1e-3)
    assert (abs(backend.to_host(out) - wanted) < 6e-6 * abs(wanted).max(axis=1, keepdims=True)).all()
    assert backend._queue.launched == ["residual_of_sum"]
    if n_used:
        close(backend.to_host(addend), summed)


@pytest.mark.parametrize("columns", COLUMNS)
def test_what_products_read_is_written_once(rng, columns):
    """The gated GELU, a norm of what is there, and numbers as they are."""
    backend = make_backend("fast")
    gate, up, weight = 4 * normal(rng, 3, columns), normal(rng, 3, columns) * SIZES, normal(rng, columns)
    for given, wanted in (
        (backend.geglu(upload(gate), upload(up)), gelu(gate) * up),
        (backend.rms_norm(upload(up), upload(weight), EPS), rms(up, weight)),
        (upload(up), up),
    ):
        for _ in range(2):
            found = product_input(backend, given)
            assert (
                abs(found - wanted) <= 2.0**-11 * abs(wanted) + 1e-6 * abs(wanted).max(axis=1)[:, None]
            ).all()
    assert backend._queue.launched == ["geglu", "norm_row", "to_half"]


@pytest.mark.parametrize("with_queries", [True, False])
@pytest.mark.parametrize(("dim", "own_values"), [(16, True), (10, False), (192, True)])
def test_heads_are_prepared_at_once(rng, dim, own_values, with_queries):
    backend = make_backend("fast")
    q, k, v = normal(rng, 3, 5, dim), normal(rng, 3, 2, dim), normal(rng, 3, 2, dim)
    q_weight, k_weight = normal(rng, dim), normal(rng, dim)
    store = LayerCache(*(backend.kv_store((2, 9, dim)) for _ in range(2)), None, length=3)
    rotation, raw_keys = backend.rope_angles(np.arange(7, 10), dim, 100.0, None), upload(k)
    queries = backend.norm_rope(upload(q), upload(q_weight), EPS, rotation) if with_queries else None
    keys = backend.norm_rope(raw_keys, upload(k_weight), EPS, rotation)
    values = backend.rms_norm(upload(v) if own_values else raw_keys, None, EPS)
    places = np.array([4, 0, 2])
    backend.store_rows(keys, values, store, places)
    if queries is not None:
        close(backend.to_host(queries), rotated(rms(q, q_weight), 7, 100.0, None), 6e-5)
    assert backend._queue.launched == ["norm_rope_store"]
    stored = [backend.to_host(a)[:, 3 + places].transpose(1, 0, 2) for a in (store.keys, store.values)]
    close(stored[0], rotated(rms(k, k_weight), 7, 100.0, None), 1e-3)
    close(stored[1], rms(v if own_values else k), 1e-3)


@pytest.mark.parametrize("factors", [None, np.array([1, 1, 1e30, 1e30], np.float32)])
def test_norm_rope(backend, rng, factors):
    x, w = normal(rng, 3, 2, 8), normal(rng, 8)
    rotation = backend.rope_angles(
        np.arange(1000, 1003), 8, 100.0, None if factors is None else upload(factors)
    )
    wanted = rotated(rms(x, w), 1000, 100.0, factors)
    close(
        backend.to_host(backend.norm_rope(upload(x), upload(w), EPS, rotation)), wanted, 6e-5
    )  # angles are float32


def twin_attention(q, all_keys, all_values, past, window, causal):
    rows, heads, dim = q.shape
    group = heads // all_keys.shape[1]
    wanted = np.zeros((rows, heads, dim))
    for row in range(rows):
        for head in range(heads):
            if causal:
                seen = [j for j in range(past + row + 1) if window is None or j > past + row - window]
            else:
                seen = [j for j in range(past + rows) if window is None or j >= past - (window - 1)]
            scores = np.array([q[row, head].astype(np.float64) @ all_keys[j, head // group] for j in seen])
            wanted[row, head] = softmax(scores) @ all_values[seen, head // group]
    return wanted.reshape(rows, -1)


def attention_with(backend, q, k, v, store, causal):
    """Attention of a call with these keys and values."""
    call = Call.encode(len(q)) if causal else Call.denoise(Canvas(np.zeros(len(q), np.int64)))
    backend.store_rows(upload(k), upload(v), store, call.rows)
    return backend.attention(upload(q), store, call.visible(store))


def attend(backend, rng, rows, heads, kv_heads, dim, past, window, causal):
    """Attention by the backend and by its twin, after a past; the rest of the cache is NaN."""
    q = normal(rng, rows, heads, dim) * np.float32(2 / math.sqrt(dim))
    k, v, keys, values = (normal(rng, n, kv_heads, dim) for n in (rows, rows, past, past))
    capacity = past + rows + 3
    stores = []
    for given in (keys, values):
        host = np.full((kv_heads, capacity, dim), np.nan, np.float16)
        host[:, :past] = given.transpose(1, 0, 2)
        stores.append(upload(host))
    store = LayerCache(*stores, window)
    store.length = past
    found = backend.to_host(attention_with(backend, q, k, v, store, causal))
    assert store.length == past  # nothing was committed
    return found, twin_attention(
        q, np.concatenate([keys, k]), np.concatenate([values, v]), past, window, causal
    )


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("past", [0, 9])
def test_attention(backend, rng, window, causal, past):
    close(*attend(backend, rng, 6, 4, 2, 16, past, window, causal), 3e-3)


@pytest.mark.parametrize("dim", [32, 48, 64, 256, 512])
@pytest.mark.parametrize(("window", "causal"), [(None, True), (None, False), (20, True), (20, False)])
def test_attention_over_several_tiles(rng, dim, window, causal):
    """More keys than a tile, more queries than a block, every number of warps."""
    close(*attend(make_backend("fast"), rng, 9, 4, 2, dim, 70, window, causal), 3e-3)


def test_attention_of_a_head_size_that_is_no_multiple_of_16(rng):
    backend = make_backend("fast")
    close(*attend(backend, rng, 3, 2, 1, 8, 4, None, True), 3e-3)
    assert not backend._queue.launched  # the reference did it
    assert "attention with heads of 8 by a plain, slow kernel; steps to be recorded" in backend.describe()


def test_attention_does_not_overflow(backend):
    x = np.full((2, 1, 16), 1e4, np.float32)
    store = LayerCache(*(upload(np.zeros((1, 2, 16), np.float16)) for _ in range(2)), None)
    close(backend.to_host(attention_with(backend, x, x, x, store, False)), np.full((2, 16), 1e4))


@pytest.mark.parametrize("n_runs", [1, 2])
def test_attention_sees_what_it_is_told(backend, rng, n_runs):
    """Any rows of the store, more than a tile of them: as in tests/cpu/test_verbs.py."""
    rows, past = 9, 70
    q = normal(rng, rows, 4, 16) * np.float32(0.5)
    k, v, keys, values = (normal(rng, n, 2, 16) for n in (rows, rows, past, past))
    all_keys, all_values = np.concatenate([keys, k]), np.concatenate([values, v])
    stores = [backend.kv_store((2, past + rows, 16)) for _ in range(2)]
    store = LayerCache(*stores, None)
    backend.store_rows(upload(all_keys), upload(all_values), store, np.arange(past + rows))
    first = np.sort(rng.integers(0, 30, rows))
    runs = np.stack((first, first + 8), axis=-1)[None]
    if n_runs == 2:
        own = past + np.arange(rows) // 3 * 3
        runs = np.concatenate([runs, np.stack((own, own + 3), axis=-1)[None]])
        runs[0, :4] = 0  # the first rows see nothing of the first run
    found = backend.to_host(backend.attention(upload(q), store, Visible(runs)))
    wanted = np.zeros(q.shape)
    for row in range(rows):
        seen = [j for begin, end in runs[:, row] for j in range(begin, end)]
        for head in range(4):
            scores = all_keys[seen, head // 2].astype(np.float64) @ q[row, head]
            wanted[row, head] = softmax(scores) @ all_values[seen, head // 2]
    close(found, wanted.reshape(rows, -1), 3e-3)


def test_branches_do_not_see_each_other(backend, rng):
    """Suffixes and canvases of branches; what lies in the store between them is not a number."""
    past, branches = 5, Branches(np.array([2, 9, 1]), 3, 5)
    size = past + branches.n_places
    nan = np.full((2, size, 16), np.nan, np.float16)
    store = LayerCache(upload(nan), upload(nan), 7, length=past)
    all_keys, all_values = (np.full((size, 2, 16), np.nan) for _ in range(2))
    calls = [Call.encode_suffixes(branches), Call.denoise_branches(branches, np.array([0, 2]))]
    places = [np.arange(-past, 0), *(call.rows for call in calls)]
    for rows in places:
        k, v = normal(rng, len(rows), 2, 16), normal(rng, len(rows), 2, 16)
        all_keys[past + rows], all_values[past + rows] = k, v
        backend.store_rows(upload(k), upload(v), store, rows)
    for call in calls:
        q, seen = normal(rng, len(call.rows), 4, 16) * np.float32(0.5), call.visible(store)
        found = backend.to_host(backend.attention(upload(q), store, seen))
        wanted = np.zeros(q.shape)
        for row in range(len(q)):
            mine = [j for begin, end in seen.runs[:, row] for j in range(begin, end)]
            for head in range(4):
                scores = all_keys[mine, head // 2] @ q[row, head].astype(np.float64)
                wanted[row, head] = softmax(scores) @ all_values[mine, head // 2]
        assert np.isfinite(wanted).all()
        close(found, wanted.reshape(len(q), -1), 3e-3)


def test_a_call_may_write_some_rows(backend, rng):
    k, again = normal(rng, 4, 2, 16), normal(rng, 2, 2, 16)
    store = LayerCache(*(backend.kv_store((2, 9, 16)) for _ in range(2)), None, length=3)
    backend.store_rows(upload(k), upload(-k), store, np.arange(4))
    backend.store_rows(upload(again), upload(-again), store, np.array([1, 3]))
    k[[1, 3]] = again
    keys, values = backend.to_host(store.keys), backend.to_host(store.values)
    np.testing.assert_array_equal(keys[:, 3:7], k.transpose(1, 0, 2).astype(np.float16))
    np.testing.assert_array_equal(values, -keys)


def test_copy_rows(backend, rng):
    host = normal(rng, 2, 9, 4).astype(np.float16)
    store, other = backend.kv_store((2, 9, 4)), backend.kv_store((2, 5, 4))
    store.view.copy_to_device(host)
    backend.copy_rows(store, 3, 5, other)
    np.testing.assert_array_equal(backend.to_host(other), host[:, 3:8])
    backend.copy_rows(store, 3, 5, store)  # they overlap
    np.testing.assert_array_equal(backend.to_host(store)[:, :5], host[:, 3:8])


def router(rng, n, hidden, scale=3.0):
    weights = (scale * normal(rng, n, hidden)).astype(np.float32)
    raw = weights.view(np.uint8)
    return HostTensor("router", FORMATS_BY_NAME["F32"], raw, hidden, Role.ROUTER), weights


def test_route(backend, rng):
    x, scale, expert_scale = normal(rng, 5, 32), normal(rng, 32), normal(rng, 8)
    w, weights = router(rng, 8, 32)
    chosen, given = backend.route(
        upload(x), backend.load_matrix(w), upload(scale), upload(expert_scale), 3, EPS
    )
    p = softmax(rms(x, scale) / math.sqrt(32) @ weights.T.astype(np.float64))
    wanted = np.argsort(-p, axis=1)[:, :3]
    np.testing.assert_array_equal(backend.to_host(chosen), wanted)
    kept = np.take_along_axis(p, wanted, axis=1)
    close(backend.to_host(given), kept / kept.sum(axis=1, keepdims=True) * expert_scale[wanted])


def test_equal_router_scores_go_to_the_lower_expert(backend, rng):
    w, _ = router(rng, 4, 32, 0.0)
    x, ones = np.ones((1, 32), np.float32), np.ones(32, np.float32)
    chosen, weights = backend.route(upload(x), backend.load_matrix(w), upload(ones), upload(ones[:4]), 2, EPS)
    assert backend.to_host(chosen).tolist() == [[0, 1]]
    assert backend.to_host(weights).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("rows", "hidden", "n", "n_used"), [(33, 200, 8, 3), (2, 372, 130, 8), (1, 31, 5, 5)]
)
def test_route_at_the_edges_of_tiles(rng, rows, hidden, n, n_used):
    """Tiles of rows, columns and experts that are not full, more than one of each; odd columns."""
    backend = make_backend("fast")
    x, scale, expert_scale = normal(rng, rows, hidden), normal(rng, hidden), normal(rng, n)
    w, weights = router(rng, n, hidden, 0.5)
    given = backend.load_matrix(w), upload(scale), upload(expert_scale), n_used, EPS
    routed, found = backend.route(upload(x), *given)
    chosen, found = backend.to_host(routed), backend.to_host(found)
    p = softmax(rms(x, scale) / math.sqrt(hidden) @ weights.T.astype(np.float64))
    wanted = np.argsort(-p, axis=1)[:, :n_used]
    np.testing.assert_array_equal(chosen, wanted)
    assert_grouped(chosen, n, *grouped(backend, routed))
    kept = np.take_along_axis(p, wanted, axis=1)
    close(found, kept / kept.sum(axis=1, keepdims=True) * expert_scale[wanted])


def test_the_fast_router_chooses_as_the_reference_where_scores_are_equal(rng):
    """Rows whose norm is a power of two, small whole weights: all sums are exact, and many scores equal."""
    n, hidden = 32, 192
    x = (rng.choice([-1, 1], (6, hidden)) * np.exp2(np.arange(6))[:, None]).astype(np.float32)
    weights = rng.integers(-1, 2, (n, hidden)).astype(np.float32)
    weights[n // 2 :] = weights[: n // 2]
    w = HostTensor("router", FORMATS_BY_NAME["F32"], weights.view(np.uint8), hidden, Role.ROUTER)
    ones, found = np.ones(hidden, np.float32), []
    for path in ("reference", "fast"):
        backend = make_backend(path)
        given = backend.load_matrix(w), upload(ones), upload(ones[:n]), 8, 0.0
        found.append([backend.to_host(a) for a in backend.route(upload(x), *given)])
    np.testing.assert_array_equal(found[0][0], found[1][0])
    scores = np.take_along_axis(x @ weights.T, found[0][0], axis=1)
    assert (np.diff(scores, axis=1) == 0).sum() > 12
    close(found[0][1], found[1][1])


def grouped(backend, routed):
    """row_of, slot_of, tiles and their height, as the router has left them."""
    groups = routed.groups
    return *map(backend.to_host, (groups.row_of, groups.slot_of, groups.tiles)), groups.height


def assert_grouped(chosen, n_experts, row_of, slot_of, tiles, height):
    """The choices lie in the order of experts, stably, and tiles cover each expert's."""
    flat = chosen.ravel()
    order = np.argsort(flat, kind="stable")
    np.testing.assert_array_equal(row_of, order // chosen.shape[1])
    np.testing.assert_array_equal(order[slot_of], np.arange(flat.size))
    assert len(tiles) == expert_kernels.n_tiles(flat.size, n_experts, height)
    covered = []
    for expert, first, count in tiles:
        assert 0 <= count <= height
        assert (flat[order][first : first + count] == expert).all()
        covered += range(first, first + count)
    assert covered == list(range(flat.size))


@pytest.mark.parametrize(
    ("rows", "n", "n_used", "height"), [(1, 4, 2, 32), (71, 2, 1, 64), (300, 7, 3, 64), (40, 600, 2, 32)]
)
def test_the_last_block_of_the_router_groups_the_rows(rng, rows, n, n_used, height):
    """As `group_rows` does, twice; tiles that are full, idle experts, and more of them than threads."""
    backend = make_backend("fast")
    w, _ = router(rng, n, 16, 0.5)
    matrix, ones = backend.load_matrix(w), [upload(np.ones(size, np.float32)) for size in (16, n)]
    for _ in range(2):
        x = normal(rng, rows, 16)
        routed, _ = backend.route(upload(x), matrix, *ones, n_used, EPS)
        found = grouped(backend, routed)
        assert found[-1] == height
        assert_grouped(backend.to_host(routed), n, *found)
    assert not backend.to_host(backend._arrived).any()


@pytest.mark.parametrize("height", [1, 3, 32])
def test_group_rows(rng, height):
    n_experts = 6
    chosen = np.stack([rng.permutation(n_experts - 1)[:2] for _ in range(11)]).astype(np.int32)  # one idle
    flat = chosen.ravel()
    n_tiles = expert_kernels.n_tiles(flat.size, n_experts, height)
    row_of, matrix_of, slot_of = (upload(np.zeros(flat.size, np.int32)) for _ in range(3))
    tiles = upload(np.full((n_tiles, 3), -1, np.int32))
    outputs = [a.view for a in (row_of, matrix_of, slot_of, tiles)]
    expert_kernels.group_rows[n_experts, jit.THREADS](upload(chosen).view, *outputs, height)
    row_of, matrix_of, slot_of, tiles = (a.copy_to_host() for a in outputs)
    np.testing.assert_array_equal(matrix_of, np.sort(flat))
    assert_grouped(chosen, n_experts, row_of, slot_of, tiles, height)


def expert_tensors(rng, names, n, ff, hidden, layer=0):
    shapes = ((n, ff, hidden), (n, ff, hidden), (n, hidden, ff))
    made = []
    for name, shape in zip(names, shapes, strict=True):
        t, weights = tensor(rng, name, *shape)
        made.append((replace(t, role=Role.EXPERTS, layer=layer), weights))
    return made


def twin_experts(x, g, u, d, chosen, weights):
    wanted = np.zeros_like(x, np.float64)
    for row in range(len(x)):
        for expert, weight in zip(chosen[row], weights[row], strict=True):
            h = gelu(g[expert] @ x[row]) * (u[expert] @ x[row])
            wanted[row] += weight * (d[expert] @ h)
    return wanted


def load_experts(backend, tensors):
    """As the network loads a layer's."""
    gate, up, down = tensors
    return *backend.load_matrices([gate, up]), backend.load_matrix(down)


@pytest.mark.parametrize(
    ("path", "names", "rows", "hidden"),
    [
        ("reference", ("Q8_0", "Q8_0", "Q5_0"), 3, 32),
        ("fast", ("Q8_0", "Q8_0", "Q5_0"), 40, 64),
        ("fast", ("Q4_K", "Q4_K", "Q8_0"), 9, 256),
        ("fast", ("Q8_0", "Q5_0", "Q5_0"), 9, 64),
        ("fast", ("F16", "F32", "Q5_1"), 1, 64),
    ],
)
def test_experts(rng, path, names, rows, hidden):
    backend = make_backend(path)
    ff, n = 32, 5
    x, weights = normal(rng, rows, hidden), normal(rng, rows, 2)
    chosen = np.stack([rng.permutation(n - 1)[:2] for _ in range(rows)]).astype(np.int32)  # one expert idle
    (gate, g), (up, u), (down, d) = expert_tensors(rng, names, n, ff, hidden)
    matrices = load_experts(backend, (gate, up, down))
    found = backend.to_host(backend.experts(upload(x), *matrices, upload(chosen), upload(weights)))
    close(found, twin_experts(x, g, u, d, chosen, weights), 2 * ROUNDED)


def test_gate_and_up_of_experts_in_one_product(rng, monkeypatch):
    """The numbers of two, to the bit, of kernels of either width, with stacks of different size."""
    x, weights = normal(rng, 40, 64), normal(rng, 40, 2)
    chosen = np.stack([rng.permutation(4)[:2] for _ in range(40)]).astype(np.int32)
    tensors = [t for t, _ in expert_tensors(rng, ("Q5_0",) * 3, 5, 96, 64)]
    louder = tensors[1].raw.copy()
    scales = louder.reshape(-1, 22)[:, :2]
    scales[...] = (4 * scales.copy().view(np.float16)).view(np.uint8)
    tensors[1] = replace(tensors[1], raw=louder)
    tensors = [replace(t, name="fused") for t in tensors]  # as halves of one tensor have
    found = []
    for blocks, joined in ((1000, False), (1000, True), (1, True)):
        monkeypatch.setattr("dgguf.backends.cuda.matmul.WIDE_BLOCKS", blocks)
        backend = make_backend("fast")
        matrices = load_experts(backend, tensors) if joined else map(backend.load_matrix, tensors)
        out = backend.experts(upload(x), *matrices, upload(chosen), upload(weights))
        found.append(backend.to_host(out))
        name = "qgemm_32_wide" if blocks == 1 else "qgemm_32"
        assert products(backend) == [name] * (2 if joined else 3)
    assert abs(found[0]).max() > 0
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize(("names", "gated"), [(("Q4_K",) * 2, True), (("Q4_K", "Q6_K"), False)])
@pytest.mark.parametrize("rows", [5, 37])
def test_gate_and_up_give_the_product_of_both(rng, names, gated, rows):
    """In one kernel if they have one layout; what is not of whole units, or is no gate, does without."""
    x, weights = normal(rng, rows, 256), []
    tensors = []
    for i, name in enumerate(names):
        made, values = tensor(rng, name, 128, 256)
        tensors.append(replace(made, name=f"{i}", role=Role.MLP))
        weights.append(values.T.astype(np.float64))
    backend = make_backend("fast")
    found = backend.gated(upload(x), *backend.load_matrices(tensors))
    down, values = tensor(rng, "Q8_0", 64, 128)
    after = backend.linear(found, backend.load_matrix(down))
    g, u = (x.astype(np.float64) @ w for w in weights)
    close(backend.to_host(after), (gelu(g) * u) @ values.T.astype(np.float64), 3 * ROUNDED)
    close(backend.to_host(found), gelu(g) * u, 2 * ROUNDED)
    product = "qgemm_32" if rows <= 32 else "qgemm_64"
    assert products(backend) == [product] * (2 if gated else 3)
    assert ("geglu" in backend._queue.launched) != gated
    alone = make_backend("fast")
    for given in ([replace(t, role=Role.ATTENTION) for t in tensors], tensors):
        given = [replace(t, raw=t.raw[:96]) if t.role is Role.MLP else t for t in given]  # no whole units
        plain = alone.gated(upload(x), *alone.load_matrices(given))
        n = len(given[0].raw)
        close(alone.to_host(plain), (gelu(g) * u)[:, :n], 2 * ROUNDED)
        alone.linear(plain, alone.load_matrix(tensor(rng, "Q8_0", 16, n)[0]))
    assert alone._queue.launched.count("geglu") == 2


def test_gate_and_up_of_experts_give_the_product_of_both(rng, monkeypatch):
    """Of kernels of either width the same, to the bit; streamed, too."""
    x, weights = normal(rng, 40, 64), normal(rng, 40, 2)
    chosen = np.stack([rng.permutation(4)[:2] for _ in range(40)]).astype(np.int32)
    tensors, (g, u, d) = zip(*expert_tensors(rng, ("Q5_0",) * 3, 5, 128, 64), strict=True)
    found = []
    for blocks, streamed in ((1000, set()), (1, set()), (1000, {0})):
        monkeypatch.setattr("dgguf.backends.cuda.matmul.WIDE_BLOCKS", blocks)
        backend = make_backend("fast", PlacementPlan(ALL_RESIDENT.sizes, frozenset(streamed)))
        matrices = load_experts(backend, [replace(t, name="fused") for t in tensors])
        out = backend.experts(upload(x), *matrices, upload(chosen), upload(weights))
        found.append(backend.to_host(out))
        assert products(backend) == ["qgemm_32_wide" if blocks == 1 else "qgemm_32"] * 2
        assert "geglu" not in backend._queue.launched
    close(found[0], twin_experts(x, g, u, d, chosen, weights), 2 * ROUNDED)
    for others in found[1:]:
        np.testing.assert_array_equal(found[0], others)


@pytest.mark.parametrize(("path", "streamed"), [("reference", set()), ("fast", {0})])
def test_a_single_expert(rng, path, streamed):
    backend = make_backend(path, PlacementPlan(ALL_RESIDENT.sizes, frozenset(streamed)))
    x, weights, chosen = normal(rng, 3, 32), normal(rng, 3, 1), np.zeros((3, 1), np.int32)
    tensors, (g, u, d) = zip(*expert_tensors(rng, ("Q8_0",) * 3, 1, 32, 32), strict=True)
    out = backend.experts(upload(x), *load_experts(backend, tensors), upload(chosen), upload(weights))
    close(backend.to_host(out), twin_experts(x, g, u, d, chosen, weights), 2 * ROUNDED)


def test_many_rows_of_one_expert(rng):
    """More than a tile of them: the kernel for many tokens, and its second tile."""
    backend = make_backend("fast")
    x, weights = normal(rng, 70, 64), np.ones((70, 1), np.float32)
    (gate, g), (up, u), (down, d) = expert_tensors(rng, ("Q8_0",) * 3, 2, 32, 64)
    chosen = np.ones((70, 1), np.int32)
    chosen[3] = 0
    matrices = load_experts(backend, (gate, up, down))
    found = backend.to_host(backend.experts(upload(x), *matrices, upload(chosen), upload(weights)))
    close(found, twin_experts(x, g, u, d, chosen, weights), 2 * ROUNDED)
    assert products(backend) == ["qgemm_64"] * 2


@pytest.mark.parametrize(("path", "streamed"), [("reference", {0, 2}), ("fast", {1}), ("fast", {0, 1, 2})])
def test_streamed_experts_are_the_resident_ones(rng, monkeypatch, path, streamed):
    """Layer after layer, twice over, in chunks that do not divide them; the same numbers to the bit."""
    monkeypatch.setattr("dgguf.backends.cuda.stream.PINNED_BYTES", 1000)
    x, weights = normal(rng, 2, 32), normal(rng, 2, 1)
    chosen = upload(np.array([[2], [1]], np.int32))
    layers = [expert_tensors(rng, ("Q8_0", "Q8_0", "Q5_0"), 3, 32, 32, layer) for layer in range(3)]
    results = []
    for plan in (ALL_RESIDENT, PlacementPlan(ALL_RESIDENT.sizes, frozenset(streamed))):
        backend = make_backend(path, plan)
        loaded = [load_experts(backend, [t for t, _ in layer]) for layer in layers]
        held = [[w.joined.whole if w.joined else w for w in layer] for layer in loaded]
        away = {i for i, layer in enumerate(held) if any(w.planes is None for w in layer)}
        assert away == (set() if plan is ALL_RESIDENT else streamed)
        for order in ((0, 1, 2), (0, 1, 2), (2, 0)):  # the last as after an interrupt
            for layer in order:
                out = backend.experts(upload(x), *loaded[layer], chosen, upload(weights))
                results.append(backend.to_host(out))
    for resident, other in zip(results[:8], results[8:], strict=True):
        np.testing.assert_array_equal(resident, other)


def test_head(backend, rng):
    x, (w, weights) = 0.1 * normal(rng, 4, 32), tensor(rng, "Q8_0", 70, 32)
    wanted = 30 * np.tanh(x.astype(np.float64) @ weights.T / 30)
    close(backend.to_host(backend.head(upload(x), backend.load_matrix(w), 30.0)), wanted, 8e-3)


def read(backend, logits, temperature, uniforms):
    """`predict` of given logits: through a head that returns them."""
    w = HostTensor("head", FORMATS_BY_NAME["F32"], np.zeros((logits.shape[1], 128), np.uint8), 32)
    matrix = backend.load_matrix(w)
    backend._product = lambda x, w, cap, out: out.view.copy_to_device(logits)
    x = upload(np.zeros((len(logits), 32), np.float32))
    return backend.predict(x, matrix, 30.0, temperature, uniforms)


@pytest.mark.parametrize("size", [3, 200, 1000])
def test_predict(backend, rng, size):
    logits = 3 * normal(rng, 6, size)
    uniforms = np.array([0.0, 0.1, 0.5, 0.9, 0.999, 1 - 2**-53])
    p = softmax(logits.astype(np.float64) / 0.7)
    found = read(backend, logits, 0.7, uniforms)
    np.testing.assert_array_equal(found.argmax, logits.argmax(axis=1))
    wanted = [np.searchsorted(np.cumsum(row), u, side="right") for row, u in zip(p, uniforms, strict=True)]
    np.testing.assert_array_equal(found.sampled[:5], wanted[:5])
    assert 0 <= found.sampled[5] < size
    close(found.entropy, -(p * np.log(p)).sum(axis=1), 1e-6)


def test_every_token_is_drawn_at_its_share(backend, rng):
    """A sweep of uniforms over one distribution, against numpy's inverse of it."""
    row = 2 * normal(rng, 1, 150)
    uniforms = np.linspace(0, 1, 64, endpoint=False)
    found = read(backend, np.repeat(row, 64, axis=0), 1.0, uniforms)
    cumulative = np.cumsum(softmax(row[0].astype(np.float64)))
    np.testing.assert_array_equal(found.sampled, np.searchsorted(cumulative, uniforms, side="right"))


def test_equal_logits_go_to_the_lower_token(backend):
    logits = np.zeros((2, 130), np.float32)
    logits[1, 77:] = 1.0
    found = read(backend, logits, 1.0, np.zeros(2))
    assert found.argmax.tolist() == [0, 77]


def test_the_impossible_is_never_drawn(backend):
    logits = np.array([[0.0, -1e4, 0.0, -1e4], [-1e4, 0.0, -1e4, -1e4]], np.float32)
    found = read(backend, logits, 1.0, np.array([1 - 2**-53, 0.0]))
    assert found.sampled.tolist() == [2, 1]
    close(found.entropy, np.array([math.log(2), 0.0]))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's; a GPU gives none
def test_predict_refuses_what_is_not_finite(backend, wrong):
    logits = np.zeros((3, 100), np.float32)
    logits[1, 3] = wrong
    with pytest.raises(NumericsError, match="position 1"):
        read(backend, logits, 1.0, np.full(3, 0.5))


@pytest.mark.parametrize("size", [3, 1000])
def test_label_logits(backend, rng, size):
    """As the whole head says, of rows in any order."""
    x, (w, _) = upload(normal(rng, 5, 32)), tensor(rng, "Q8_0", size, 32)
    matrix, rows, labels = backend.load_matrix(w), np.array([4, 0, 4]), np.array([size - 1, 0])
    z = backend.to_host(backend.head(x, matrix, 30.0))[rows].astype(np.float64)
    found, totals = backend.label_logits(x, rows, matrix, 30.0, labels)
    close(found, z[:, labels], 1e-6)
    close(totals, np.log(np.exp(z).sum(axis=1)), 1e-6)


@pytest.mark.parametrize("size", [3, 1000])
def test_log_probabilities(backend, rng, size):
    """At temperature 1, whatever that of the step was."""
    x, (w, _) = upload(normal(rng, 5, 32)), tensor(rng, "Q8_0", size, 32)
    matrix, tokens = backend.load_matrix(w), rng.integers(0, size, 5)
    z = backend.to_host(backend.head(x, matrix, 30.0)).astype(np.float64)
    logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    prediction = backend.predict(x, matrix, 30.0, 0.5, np.full(5, 0.5))
    for count in (1, 3):
        own, ids, likeliest = backend.log_probabilities(prediction, matrix, 30.0, tokens, count)
        close(own, np.take_along_axis(logs, tokens[:, None], axis=1)[:, 0], 1e-5)
        close(likeliest, -np.sort(-logs, axis=1)[:, :count], 1e-5)
        close(np.take_along_axis(logs, ids, axis=1), likeliest, 1e-5)
    assert backend.log_probabilities(prediction, matrix, 30.0, tokens, 0)[2].shape == (len(tokens), 0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's; a GPU gives none
def test_label_logits_refuse_what_is_not_finite(backend, rng, wrong):
    z, (w, _) = np.zeros((2, 90), np.float32), tensor(rng, "Q8_0", 90, 32)
    z[1, 80] = wrong
    matrix = backend.load_matrix(w)
    backend._product = lambda x, w, cap, out: out.view.copy_to_device(z)
    with pytest.raises(NumericsError, match="position 3"):
        backend.label_logits(
            upload(np.zeros((4, 32), np.float32)), np.array([0, 3]), matrix, 30.0, np.array([1])
        )


def kept(p, most):
    """What `soft_embed` uses of a distribution: all but the tail, or as many tokens as there is room for."""
    order = np.argsort(-p, kind="stable")
    n = min(most, int(np.searchsorted(np.cumsum(p[order]), 1 - logits.TAIL)) + 1)
    return np.sort(order[:n])


@pytest.mark.parametrize("most", [512, 5])
@pytest.mark.parametrize("spread", [0.0, 3.0, 200.0])
def test_soft_embed(backend, rng, monkeypatch, spread, most):
    """With logits that lie apart, the fewest tokens are those of the rule to the last."""
    monkeypatch.setattr(logits, "MOST_TOKENS", most)  # a constant to compiled kernels
    if most != 512 and not jit.SIMULATED:
        pytest.skip("the kernels are compiled for 512")
    table, weights = tensor(rng, "Q8_0", 90, 64)
    z = spread * np.stack([rng.permutation(90) for _ in range(3)]).astype(np.float32) / 30
    conditioning = read(backend, z, 0.9, np.full(3, 0.5)).conditioning
    found = backend.to_host(backend.soft_embed(conditioning, backend.load_matrix(table), 2.0))
    p = softmax(z.astype(np.float64) / 0.9)
    counts, tokens = backend.to_host(conditioning.counts), backend.to_host(conditioning.tokens)
    for row in range(3):
        wanted = kept(p[row], most)
        if spread:
            np.testing.assert_array_equal(tokens[row, : counts[row]], wanted)
        mean = p[row, wanted] / p[row, wanted].sum() @ weights[wanted] * 2
        close(found[row], mean, 1e-5)


@pytest.mark.parametrize("name", HOT + KINDS)
def test_soft_embed_of_every_kind_of_layout(rng, name):
    """Every place of a unit, rows of both halves, columns that fill no chunk and more than a block has."""
    backend = make_backend("fast")
    columns = {32: 1120, 64: 1152}.get(FORMATS_BY_NAME[name].block_size, 1280)
    table, weights = tensor(rng, name, 40, columns)
    matrix = backend.load_matrix(table)
    conditioning = logits.Reading(backend._memory, 3, 40)
    counts, kept_ = np.array([1, 40, 17], np.int32), np.zeros((3, logits.MOST_TOKENS), np.int32)
    shares = np.full(kept_.shape, np.nan, np.float32)
    wanted = np.empty((3, columns))
    for row, count in enumerate(counts):
        kept_[row, :count] = rng.permutation(40)[:count]
        shares[row, :count] = rng.random(count)
        p = shares[row, :count].astype(np.float64)
        wanted[row] = p / p.sum() @ weights[kept_[row, :count]] * 5.5
    for array, host in (
        (conditioning.counts, counts), (conditioning.tokens, kept_), (conditioning.weights, shares)
    ):  # fmt: skip
        array.view.copy_to_device(host)
    found = backend.to_host(backend.soft_embed(conditioning, matrix, 5.5))
    exact = FORMATS_BY_NAME[name].block_size == 32  # others' scales are products, rounded to float16
    close(found, wanted, 1e-5 if exact else 1e-3)
    assert backend._queue.launched == ["soft_embed"]


def test_equally_likely_tokens_are_kept_by_number(backend, rng):
    """As many as there is room for, from every slice: here 600 of one bin and 20 likelier ones behind."""
    z = np.full((2, 700), -50.0, np.float32)
    z[:, 5:605] = 1.0
    z[1, 650:670] = 3.0
    conditioning = read(backend, z, 1.0, np.full(2, 0.5)).conditioning
    assert backend.to_host(conditioning.counts).tolist() == [512, 512]
    tokens = backend.to_host(conditioning.tokens)
    np.testing.assert_array_equal(tokens[0], np.arange(5, 517))
    np.testing.assert_array_equal(tokens[1], [*range(5, 497), *range(650, 670)])


def test_the_fast_sampling_decides_as_the_reference(rng):
    """Argmax, draw and the tokens kept, to the bit; slices of one and of two groups, full and not."""
    for size in (4096, 4099):
        values = rng.standard_normal((2, size)).astype(np.float16)  # with equal ones
        values = values.astype(np.float32) * np.array([[2.0], [0.5]], np.float32)
        found, uniforms = [], rng.random(2)
        for path in ("reference", "fast"):
            backend = make_backend(path)
            prediction = read(backend, values, 0.6, uniforms)
            conditioning = prediction.conditioning
            counts = backend.to_host(conditioning.counts)
            assert counts[0] > 100
            assert counts[1] == 512
            kept_ = [backend.to_host(a) for a in (conditioning.tokens, conditioning.weights)]
            found.append((prediction, counts, *([a[row, : counts[row]] for row in range(2)] for a in kept_)))
        plain, fast = found
        np.testing.assert_array_equal(plain[0].argmax, fast[0].argmax)
        np.testing.assert_array_equal(plain[0].sampled, fast[0].sampled)
        close(plain[0].entropy, fast[0].entropy, 1e-6)
        np.testing.assert_array_equal(plain[1], fast[1])
        for row in range(2):
            np.testing.assert_array_equal(plain[2][row], fast[2][row])
            close(plain[3][row], fast[3][row], 1e-6)


def test_likeliest(backend, rng):
    z = rng.integers(-9, 10, (3, 50)).astype(np.float32)  # with equal ones
    conditioning = read(backend, z, 0.9, np.full(3, 0.5)).conditioning
    ids, probabilities = backend.top_tokens(conditioning, 7)
    wanted = np.argsort(-z, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(ids, wanted)
    p = softmax(z.astype(np.float64) / 0.9)
    close(probabilities, np.take_along_axis(p, wanted, axis=1), 1e-6)


def test_no_bin_is_missed():
    assert math.exp(-logits.BINS / logits.BINS_PER_NAT) * 1_000_000 < logits.TAIL


def test_results_are_the_same_each_time(backend, rng):
    x, (w, _) = normal(rng, 3, 64), tensor(rng, "Q8_0", 200, 64)
    matrix = backend.load_matrix(w)
    first, second = (backend.predict(upload(x), matrix, 30.0, 0.7, np.full(3, 0.5)) for _ in range(2))
    np.testing.assert_array_equal(first.entropy, second.entropy)
    np.testing.assert_array_equal(first.sampled, second.sampled)


def test_memory_is_used_again_only_when_nobody_refers_to_it():
    memory = Memory()
    a = memory.empty((4, 6))
    b = a.reshape(24)
    address = pointer(a.view)
    del a
    assert pointer(memory.empty((4, 6)).view) != address  # b still refers to it
    del b
    taken = [memory.empty((2, 3, 4)) for _ in range(2)]
    assert address in [pointer(t.view) for t in taken]
    assert isinstance(taken[0], Array)
    assert memory.n_bytes <= 3 * 256


def test_steps_of_some_rows_get_by_with_the_memory_of_all(monkeypatch):
    """As turbo starts them: each number of rows would else leave a buffer of each size class."""
    monkeypatch.setattr(memory_module, "allocate", lambda n_bytes: np.empty(n_bytes, np.uint8))
    memory = Memory()

    def step(n):
        shapes = (n, 2816), (n, 4096), (n, 8, 704), (n, 8, 704), (n, 8, 2816), (n, 16)
        return [memory.empty(shape) for shape in shapes]

    step(256)
    of_all = memory.n_bytes
    for n in np.random.default_rng(1).permutation(np.arange(1, 256)):
        arrays = step(int(n))
        taken = [array._lease._buffer.n_bytes for array in arrays]
        assert all(array.view.nbytes <= n_bytes for array, n_bytes in zip(arrays, taken, strict=True))
        del arrays
    assert memory.n_bytes < 1.4 * of_all
    step(256)
    assert memory.n_bytes < 1.4 * of_all


SMALL = replace(
    TINY, block_count=2, full_every=2, canvas_length=4, sliding_window=3, key_length=32, key_length_swa=16,
    expert_count=3, embedding_length=32, feed_forward_length=32, head_count=2, head_count_kv=1,
    head_count_kv_swa=1,
)  # fmt: skip


def write_small(path, type_name, **changes):
    """A model with 60 tokens."""
    whole = tiny_vocabulary()
    few = Vocabulary(whole.tokens[:60], whole.types[:60], [])
    write_model(path, replace(SMALL, **changes), type_name, vocabulary=few)


def load_network(backend, gguf_path):
    file = GgufFile(gguf_path)
    config = ModelConfig.from_file(file)
    return Transformer(config, load_weights(file, config, backend), backend)


NODES = 33  # of a step of one layer, its three copies among them


def test_repeated_steps_are_the_same_to_the_bit(tmp_path):
    """Steps that differ in canvas, temperature and uniforms, recorded and not, with a commit in between."""
    write_small(tmp_path / "m.gguf", "Q8_0", block_count=1)
    results = []
    for records in (False, True):
        backend = make_backend("fast")
        backend._records = records
        model = load_network(backend, tmp_path / "m.gguf")
        cache = KVCache(model.config, backend, 32, 4)
        rng = np.random.default_rng(1)
        repeated = 0
        for _ in range(2):
            previous = None
            for _ in range(4):
                canvas, uniforms = rng.integers(0, 60, 4), rng.random(4)
                previous = model.denoise(Canvas(canvas), cache, previous, rng.uniform(0.4, 0.8), uniforms)
                results.append(previous)
                if backend._queue.repeated > repeated:  # equal draws alone would not show it
                    repeated += 1
                    np.testing.assert_array_equal(backend._queue._pinned["tokens", 4], canvas)
                    np.testing.assert_array_equal(backend._queue._pinned["uniforms", 4], uniforms)
            model.encode(rng.integers(0, 60, 3), cache)
        assert (
            backend._queue.repeated == 5 * records
        )  # steps 3 and 4 of the first canvas, 2 to 4 of the other
        if records and jit.SIMULATED:
            assert len(backend._queue._calls) == NODES
    for plain, repeated in zip(results[:8], results[8:], strict=True):
        np.testing.assert_array_equal(plain.argmax, repeated.argmax)
        np.testing.assert_array_equal(plain.sampled, repeated.sampled)
        np.testing.assert_array_equal(plain.entropy, repeated.entropy)
    assert len({tuple(p.entropy) for p in results[:8]}) == 8  # no two steps are alike


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's; a GPU gives none
def test_the_layer_and_the_tensor_of_what_is_not_finite_are_named(tmp_path):
    write_small(tmp_path / "m.gguf", "Q8_0")
    with GgufFile(tmp_path / "m.gguf") as file:
        tensor = file.tensors["blk.1.attn_q.weight"]
    with (tmp_path / "m.gguf").open("r+b") as out:
        out.seek(tensor.offset)
        out.write(np.array([np.nan], np.float16).tobytes())
    backend = make_backend("reference")
    model = load_network(backend, tmp_path / "m.gguf")
    cache = KVCache(model.config, backend, 32, 5)
    model.encode(np.array([1, 2, 3]), cache)
    with pytest.raises(NumericsError, match=r"first in layer 1: the tensor blk\.1\.attn_q\.weight holds"):
        model.denoise(Canvas(np.array([1, 2, 3, 4])), cache, None, 0.7, np.full(4, 0.5))


def test_a_recording_ends_with_the_arrays_of_the_cache(tmp_path):
    """The cache is trimmed, and other ids come to the same positions in other arrays."""
    write_small(tmp_path / "m.gguf", "Q8_0", block_count=1)
    results = []
    for records in (False, True):
        backend = make_backend("reference")
        backend._records = records
        model = load_network(backend, tmp_path / "m.gguf")
        cache = KVCache(model.config, backend, 32, 5)
        rng = np.random.default_rng(1)
        for n_steps in (3, 2):
            cache.truncate(0)
            model.encode(rng.integers(0, 60, 5), cache)
            previous = None
            for _ in range(n_steps):
                canvas = Canvas(rng.integers(0, 60, 4))
                previous = model.denoise(canvas, cache, previous, 0.7, rng.random(4))
            cache.trim()
        previous = model.denoise(canvas, cache, previous, 0.7, rng.random(4))  # in the middle of a canvas
        results.append(previous)
    np.testing.assert_array_equal(results[0].entropy, results[1].entropy)
    gone = weakref.ref(cache.layers[0])
    del cache
    gc.collect()
    assert gone() is None  # what a recording was made for does not keep memory


def test_a_step_that_cannot_be_recorded_is_computed(tmp_path):
    write_small(tmp_path / "m.gguf", "Q8_0", block_count=1)
    backend = make_backend("fast")
    model = load_network(backend, tmp_path / "m.gguf")
    cache = KVCache(model.config, backend, 32, 4)

    def broken(compute):
        raise RuntimeError("no graphs here")

    backend._queue.record = broken
    previous = model.denoise(Canvas(np.arange(4)), cache, None, 0.7, np.full(4, 0.5))
    for _ in range(2):  # the first compiles, the second would be recorded
        assert "; steps to be recorded as one graph; " in backend.describe()
        previous = model.denoise(Canvas(np.arange(4)), cache, previous, 0.7, np.full(4, 0.5))
    assert np.isfinite(previous.entropy).all()
    assert "; steps started kernel by kernel (no graphs here); " in backend.describe()


def run_network(path, gguf_path, plan, tokens, canvas):
    """Logits of a self-conditioned step after a prompt encoded in two calls, and the step before it."""
    backend = make_backend(path, plan)
    model = load_network(backend, gguf_path)
    cache = KVCache(model.config, backend, 32, 4)
    model.encode(tokens[:4], cache)
    model.encode(tokens[4:], cache)
    prediction = model.denoise(Canvas(canvas), cache, None, 0.8, np.full(len(canvas), 0.5))
    return prediction, backend.to_host(model.logits(Canvas(canvas), cache, prediction))


@pytest.mark.parametrize(
    ("path", "type_name", "streamed"),
    [("fast", "Q8_0", (0,)), ("fast", "F16", ()), ("reference", "F32", ())],
)
def test_the_whole_network(path, type_name, streamed, tmp_path):
    """A prompt in two calls, a step, a self-conditioned step: against the float64 network of reference.py."""
    write_small(tmp_path / "m.gguf", type_name)
    rng = np.random.default_rng(1)
    tokens, canvas = rng.integers(0, 60, 7), rng.integers(0, 60, 4)
    prediction, found = run_network(
        path, tmp_path / "m.gguf", PlacementPlan(ALL_RESIDENT.sizes, frozenset(streamed)), tokens, canvas
    )
    network = reference.from_gguf(tmp_path / "m.gguf")
    past = network.encode(tokens)
    z = network.denoise(canvas, past) / 0.8
    p = softmax(z)
    np.testing.assert_array_equal(prediction.argmax, z.argmax(axis=1))
    close(prediction.entropy, -(p * np.log(p)).sum(axis=1), 0.02)
    wanted = network.denoise(canvas, past, p)
    assert abs(found - wanted).max() < (0.02 if path == "reference" else 0.1), abs(found - wanted).max()


def beside_the_cpu(path, gguf_path, committed):
    """The same network on the GPU and, in float32, on the CPU, behind so many tokens: models and caches."""
    found = []
    for backend in (make_backend(path), CpuBackend(1, exact=True)):
        model = load_network(backend, gguf_path)
        cache = KVCache(model.config, backend, 320, 96)
        model.encode(np.random.default_rng(5).integers(0, 60, committed), cache)
        found.append((model, cache))
    return found


def test_branches_are_read_as_on_the_cpu(path, tmp_path):
    """What `decide` asks: suffixes and canvases side by side that do not see each other, some of them."""
    write_small(tmp_path / "m.gguf", "Q8_0")
    rng = np.random.default_rng(2)
    branches = Branches(np.array([2, 4, 1]), 3, 7)
    suffixes, canvases = rng.integers(0, 60, 7), rng.integers(0, 60, (2, 3))
    slots, labels, results = np.array([5, 0, 2]), np.array([3, 50]), []
    for model, cache in beside_the_cpu(path, tmp_path / "m.gguf", 7):
        model.encode_suffixes(branches, suffixes, cache)
        results.append(model.read_labels(branches, np.array([0, 2]), canvases, slots, labels, cache))
    for found, wanted in zip(*results, strict=True):
        assert abs(found - wanted).max() < (0.02 if path == "reference" else 0.1)


@pytest.mark.parametrize(("path", "length"), [("fast", 16), ("fast", 17), ("reference", 16)])
def test_short_canvases_are_the_cpus(path, tmp_path, length):
    """Of another length than the model's, behind more tokens than a window, with a step before."""
    write_small(tmp_path / "m.gguf", "Q8_0", block_count=1 + (path == "fast"))
    canvas, results = Canvas(np.random.default_rng(3).integers(0, 60, length)), []
    for model, cache in beside_the_cpu(path, tmp_path / "m.gguf", 6):
        first = model.denoise(canvas, cache, None, 0.8, np.full(length, 0.5))
        z = model.backend.to_host(model.logits(canvas, cache, first))
        results.append((z, first.entropy, first.argmax))
    for found, wanted in zip(*results, strict=True):
        assert abs(found - wanted).max() < (0.02 if path == "reference" else 0.1)
