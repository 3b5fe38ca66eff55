"""The kernels of a pass of the full-size model, noted as the backend starts them: on a GPU, or without one.

The weights are random and need no file; all layers share one layer's experts. Without a GPU nothing is
computed: arrays are numpy's, undefined, and kernels are noted in place of being started, with the grids and
arguments that a GPU would get. `tools/bench/cuda_kernels.py` measures the nodes, `model.py` models them.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numba import cuda

from dgguf.backends.base import HostTensor, Role
from dgguf.backends.cuda import memory, products
from dgguf.backends.cuda.backend import CudaBackend
from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.jit import THREADS
from dgguf.backends.cuda.layout import layout
from dgguf.backends.cuda.matmul import GpuMatrix, Router
from dgguf.backends.cuda.memory import Array, Memory
from dgguf.backends.cuda.plan import PlacementPlan, Sizes
from dgguf.backends.cuda.queue import Queue
from dgguf.backends.cuda.repack import Packed
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from tools.bench.gpu.full_size import VOCABULARY, FullSizeFile

ALL_RESIDENT = PlacementPlan(Sizes(0, (0,) * 30, 0, 0), frozenset())


@dataclass(frozen=True)
class Node:
    """A kernel as it was started.

    Attributes:
        name: of its function.
        module: of a numba kernel, or the source without .cu.
        macros: what a C++ kernel is compiled for.
        grid: blocks, (x, y).
        threads: of a block.
        arguments: arrays and numbers.
        matrices: that it reads.
        start: starts it again.
    """

    name: str
    module: str
    macros: tuple[tuple[str, int], ...]
    grid: tuple[int, int]
    threads: int
    arguments: tuple[Any, ...]
    matrices: tuple[GpuMatrix, ...]
    start: Callable[[], None] = field(repr=False)

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for nodes that do the same work, each with arrays of its own."""
        shapes = tuple(getattr(a, "shape", None) for a in self.arguments)
        roles = tuple((w.tensor.role, w.tensor.format.name) for w in self.matrices)
        return self.name, self.macros, self.grid, self.threads, shapes, roles

    @property
    def array_bytes(self) -> int:
        """Of all arrays but matrices: what it reads and writes if it does so once."""
        own = {id(plane) for w in self.matrices for plane in vars(w.planes).values()}
        arrays = [view_of(a) for a in self.arguments if hasattr(a, "shape")]
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays if id(a) not in own)


def view_of(argument: Any) -> Any:
    """The array of numba behind an argument of a kernel of either kind."""
    return argument.view if isinstance(argument, Array) else argument


class NotingQueue(Queue):
    """Notes what it starts.

    Args:
        starts: whether kernels are started, too; without a GPU they are not.

    Attributes:
        starts: as given.
        nodes: since it was last set to an empty list.
    """

    def __init__(self, device: Device, launcher: Any, starts: bool) -> None:
        super().__init__(device, launcher)
        self.nodes: list[Node] = []
        self.starts = starts
        self._matrices: dict[int, GpuMatrix] = {}

    def add(self, w: GpuMatrix) -> None:
        """Know a matrix by its planes."""
        self._matrices.update((id(plane), w) for plane in vars(w.planes).values())

    def _note(
        self, name: str, module: str, macros: Any, grid: Any, threads: int, arguments: Any, start: Any
    ) -> None:
        whole = (grid, 1) if isinstance(grid, int) else tuple(grid)
        found = {id(w): w for a in arguments if (w := self._matrices.get(id(view_of(a)))) is not None}
        node = Node(name, module, macros, whole, threads, tuple(arguments), tuple(found.values()), start)
        self.nodes.append(node)
        if self.starts:
            start()

    def run(self, kernel: Any, blocks: int | tuple[int, int], *arguments: Any) -> None:
        function, start = kernel.py_func, super().run
        module = function.__module__.rpartition(".")[2]
        self._note(
            function.__name__,
            module,
            (),
            blocks,
            THREADS,
            arguments,
            lambda: start(kernel, blocks, *arguments),
        )

    def launch(
        self, source: str, macros: Any, name: str, grid: Any, threads: int, arguments: Any, shared: int = 0
    ) -> None:
        start = super().launch
        self._note(
            name, source, macros, grid, threads, arguments,
            lambda: start(source, macros, name, grid, threads, arguments, shared),
        )  # fmt: skip

    def copy_in(self, host: np.ndarray, view: Any) -> None:
        if self.starts:
            super().copy_in(host, view)

    def record(self, compute: Callable[[], Any]) -> None:
        if self.starts:
            super().record(compute)
        else:
            compute()

    def repeat(self) -> None:
        if self.starts:
            super().repeat()


class KeepingMemory(Memory):
    """Gives no buffer away twice while nodes are to be started again.

    Attributes:
        kept: what was given since it was last set to an empty list; None to keep nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Array] | None = None

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        made = super().empty(shape, dtype)
        if self.kept is not None:
            self.kept.append(made)
        return made


@cuda.jit
def nothing() -> None:
    """Does nothing."""


@cuda.jit
def fill(words: Any, kept: int, fixed: int) -> None:
    """words (n,) uint32: `fixed`, and at the bits of `kept` noise that depends on the place alone."""
    for i in range(
        cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, words.size, cuda.gridDim.x * cuda.blockDim.x
    ):
        noise = np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        noise ^= noise >> np.uint64(29)
        noise *= np.uint64(0xBF58476D1CE4E5B9)
        words[i] = np.uint32(noise >> np.uint64(32)) & np.uint32(kept) | np.uint32(fixed)


class RandomBackend(CudaBackend):
    """The CUDA backend with weights that are made where they lie."""

    def __init__(self, device: Device, queue: NotingQueue) -> None:
        super().__init__(device, ALL_RESIDENT, 1, queue=queue)
        self._memory: KeepingMemory = KeepingMemory()
        self._shared: dict[Any, Any] = {}
        self._times_seen: Counter[str] = Counter()
        self._key: Any = None  # what `_upload` fills

    def load_matrix(self, tensor: HostTensor) -> Any:
        if tensor.role is not Role.ROUTER:
            return super().load_matrix(tensor)
        rows = tensor.raw.shape[0]
        weights = np.random.default_rng(tensor.layer).standard_normal((tensor.columns, rows), np.float32)
        return Router(tensor, rows, tensor.columns, products.upload(weights))

    def _pack(self, tensor: HostTensor) -> Packed:
        form, rows = layout(tensor.format), tensor.raw.shape[-2]
        stack = math.prod(tensor.raw.shape[:-2])
        data = np.empty(stack * form.matrix_bytes(rows, tensor.columns), np.uint8)  # nobody looks into it
        exponent = 5 if tensor.role is Role.EMBEDDING else 8  # logits as wide as a trained model's
        most = (
            32.0 * tensor.columns * 2.0**-exponent
        )  # a row's sum; codes and scales of 8 bits make a weight of 32
        return Packed(form, stack, rows, tensor.columns, exponent, data, np.full(stack, most, np.float32))

    def _join(self, packs: list[Packed], *, in_turn: bool = False) -> Packed:
        data = np.empty(sum(own.data.size for own in packs), np.uint8)
        return replace(packs[0], rows=sum(own.rows for own in packs), data=data)

    def _place(self, tensor: HostTensor, packed: Packed) -> GpuMatrix:
        self._times_seen[tensor.name] += 1
        kind = tensor.name, self._times_seen[tensor.name]
        if tensor.role is Role.EXPERTS:  # 537 MB a layer, more than any L2 holds: one layer's serve all
            kind = tensor.name.rpartition(".")[0].rpartition(".")[2], self._times_seen[tensor.name]
        self._key = packed.layout, kind
        w = super()._place(tensor, packed)
        self._noting.add(w)
        return w

    def _upload(self, packed: Packed) -> Any:
        if self._key not in self._shared:
            form, n_bytes = packed.layout, packed.data.size
            data = self._shared[self._key] = memory.allocate(n_bytes)
            n_codes = packed.n_units * form.code_bytes
            bits = (0x8FFF8FFF, 0x20002000) if form.halves else (0xFFFFFFFF, 0)
            self._fill(data[:n_codes], *bits)
            if n_codes < n_bytes:
                self._fill(data[n_codes:], 0x03FF03FF, 0x30003000)
        return self._shared[self._key]

    @property
    def _noting(self) -> NotingQueue:
        assert isinstance(self._queue, NotingQueue)
        return self._queue

    def _fill(self, data: Any, kept: int, fixed: int) -> None:
        self._queue.run(fill, 1024, data.view(np.uint32), kept, fixed)

    def load_vector(self, tensor: HostTensor) -> Array:
        return products.upload(np.ones(tensor.columns, np.float32))

    def kv_store(self, shape: tuple[int, int, int]) -> Array:
        data = memory.allocate(2 * math.prod(shape))
        self._fill(data, 0x83FF83FF, 0x30003000)
        return Array(data.view(np.float16).reshape(*shape), None)

    def to_host(self, x: Array) -> np.ndarray:
        return super().to_host(x) if self._noting.starts else np.ones(x.shape, x.view.dtype)


class NoDevice(Device):
    """Stands for a GPU where there is none."""

    def __init__(self) -> None:
        self.number, self.name, self.capability = 0, "no GPU", (9, 0)
        self.shared_bytes, self.multiprocessors = 227 << 10, 132
        self.stream = SimpleNamespace(synchronize=lambda: None)

    def launcher(self) -> Any:
        return None


@contextlib.contextmanager
def no_gpu() -> Iterator[Device]:
    """Arrays are numpy's within, and never touched: what is asked for is only noted."""

    def empty(shape: Any, dtype: Any = np.float32, *args: Any, **options: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    names: dict[str, Any] = {"device_array": empty, "pinned_array": empty}
    names |= {"to_device": lambda x: x, "stream": lambda: None}
    with contextlib.ExitStack() as stack:
        for name, replacement in names.items():
            stack.enter_context(mock.patch.object(cuda, name, replacement))
        yield NoDevice()


class Network:
    """The full-size model with random weights.

    Attributes:
        backend, model, config: of it.
    """

    def __init__(self, device: Device, *, starts: bool, type_name: str = "Q4_K_M") -> None:
        file: Any = FullSizeFile(type_name)
        self.config = ModelConfig.from_file(file)
        self.queue = NotingQueue(device, device.launcher(), starts)
        self.backend = RandomBackend(device, self.queue)
        self.model = Transformer(self.config, load_weights(file, self.config, self.backend), self.backend)

    def cache(self, committed: int, rows: int) -> KVCache:
        """A KV cache with so many committed positions and room for `rows` more."""
        made = KVCache(self.config, self.backend, committed + 2 * rows, rows)
        for _ in range(committed // rows):
            made.reserve(rows)
            made.commit(np.zeros(rows, np.int64))
        return made

    def step(self, committed: int, rows: int) -> list[Node]:
        """The nodes of a denoising step of `rows` positions behind so many, which is not the first."""
        cache, uniforms = self.cache(committed, rows), np.full(rows, 0.5)
        canvas = Canvas(np.random.default_rng(1).integers(0, VOCABULARY, rows))
        previous = self.model.denoise(canvas, cache, None, 0.6, uniforms)
        self.backend._records = False
        return self._noted(lambda: self.model.denoise(canvas, cache, previous, 0.6, uniforms))

    def encoding(self, committed: int, rows: int) -> list[Node]:
        """The nodes of encoding `rows` tokens behind so many."""
        cache = self.cache(committed, rows)
        tokens = np.random.default_rng(1).integers(0, VOCABULARY, rows)
        return self._noted(lambda: self.model.encode(tokens, cache))

    def _noted(self, compute: Callable[[], Any]) -> list[Node]:
        """What this starts; its arrays stay until the next call."""
        self.queue.nodes, self.backend._memory.kept = [], []
        compute()
        nodes, self.queue.nodes = self.queue.nodes, []
        return nodes
