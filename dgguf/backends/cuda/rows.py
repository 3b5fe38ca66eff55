"""The small verbs between products, which wait until somebody asks for what they give.

The network is written in small verbs, and several of them in a row read the same memory: a residual and
the norms of it; the norms and rotations of all heads and the KV cache's new rows. Here a verb only notes
what is to be done. When a product or the attention asks for its input, one kernel of rows.cu or heads.cu
does all that was noted of these rows. What nobody asks for is never computed.
"""

import ctypes
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgguf.backends.base import LayerStore
from dgguf.backends.cuda.layout import UNIT_COLUMNS
from dgguf.backends.cuda.memory import Array, Memory, upload
from dgguf.backends.cuda.plain_rows import PlainRows, Rotation
from dgguf.backends.cuda.queue import Queue

_HEADS = 8  # of a block of heads.cu, a warp each


def threads(columns: int) -> int:
    """Of a block of rows.cu."""
    return 128 if columns <= 1024 else 256


@dataclass(frozen=True)
class Halves:
    """Rows as the products read them.

    Attributes:
        numbers: float16 (rows, columns padded to whole units), each row times a factor.
        scales: float32 (rows,), what undoes it.
    """

    numbers: Array
    scales: Array


class Deferred(Array):
    """An array that is computed when somebody asks for its `view` or its `halves`.

    Args:
        shape: of it.
        compute: gives it, when it is called with this object; keeps what it needs for that.

    Attributes:
        halves: it as the products read it, if that has been computed.
        in_two: it with what its float16 lack, for the vision tower's products, if that has been computed.
    """

    def __init__(self, shape: tuple[int, ...], compute: Callable[[Any], Array]) -> None:
        self.shape = shape
        self.halves: Halves | None = None
        self.in_two: Deferred | None = None
        self._compute = compute
        self._value: Array | None = None

    @property
    def waits(self) -> bool:
        """Whether nothing of it has been computed."""
        return self._value is None and self.halves is None

    def ready(self) -> Array:
        if self._value is None:
            self.set(self._compute(self))
            assert self._value is not None
        return self._value

    @property
    def view(self) -> Any:
        return self.ready().view

    def set(self, value: Array) -> None:
        """It has been computed, together with something else perhaps."""
        self._value = value
        self._compute = _nothing  # lets go of the inputs

    def reshape(self, *shape: int) -> Array:
        return self.ready().reshape(*shape)

    def piece(self, first: int, *shape: int) -> Array:
        return self.ready().piece(first, *shape)


def _nothing(_: Any) -> Array:
    raise AssertionError("it has been computed, or only products read it")


def only_halves(shape: tuple[int, ...], halves: Halves) -> Deferred:
    """An array that only products read."""
    made = Deferred(shape, _nothing)
    made.halves = halves
    return made


class Norm(Deferred):
    """rms_norm of `source`, times `weight` (n,) if given."""

    def __init__(self, plain: PlainRows, source: Array, weight: Array | None, eps: float) -> None:
        super().__init__(source.shape, lambda _: plain.rms_norm(source, weight, eps))
        self.source, self.weight, self.eps = source, weight, eps


class Residual(Deferred):
    """A new residual stream.

    Attributes:
        norms: of it, that were asked for before it was computed, as long as somebody refers to them.
    """

    def __init__(self, shape: tuple[int, ...], compute: Callable[["Residual"], Array]) -> None:
        super().__init__(shape, compute)
        self.norms: list[weakref.ref[Norm]] = []


class Gated(Deferred):
    """gelu(gate) * up."""

    def __init__(self, plain: PlainRows, gate: Array, up: Array) -> None:
        super().__init__(gate.shape, lambda _: plain.geglu(gate, up))
        self.gate, self.up = gate, up


class Combined(Deferred):
    """The sum of shares[t, a] * y[slots[t * A + a]] over a: what a row's experts gave."""

    def __init__(self, plain: PlainRows, y: Array, slots: Array, shares: Array) -> None:
        super().__init__((shares.shape[0], y.shape[1]), lambda _: plain.combine(y, slots, shares))
        self.y, self.slots, self.shares = y, slots, shares


class Parts(Deferred):
    """The sum of some products with a matrix's columns, each with a share of them.

    Attributes:
        parts: float32 (n * rows * columns,), one (rows, columns) behind the other.
        n: of them.
    """

    def __init__(self, plain: PlainRows, parts: Array, shape: tuple[int, int]) -> None:
        size = shape[0] * shape[1]

        def compute(_: Parts) -> Array:
            first, *others = (parts.piece(start, *shape) for start in range(0, parts.size, size))
            return functools.reduce(plain.add, others, first)

        super().__init__(shape, compute)
        self.parts, self.n = parts, parts.size // size


class Rotated(Deferred):
    """The norms of heads (rows, heads, Dh), rotated."""

    def __init__(
        self,
        source: Array,
        weight: Array,
        eps: float,
        rotation: Rotation,
        compute: Callable[["Rotated"], Array],
    ) -> None:
        super().__init__(source.shape, compute)
        self.source, self.weight, self.eps, self.rotation = source, weight, eps, rotation

    def goes_with(self, other: "Rotated") -> bool:
        """Whether one kernel can rotate both."""
        same = self.rotation is other.rotation and self.eps == other.eps
        return same and self.shape[0] == other.shape[0] and self.shape[2] == other.shape[2]


class Attended(Deferred):
    """What the attention gave: float16 (rows, n), and ones as their scales."""

    def __init__(self, plain: PlainRows, numbers: Array, ones: Array) -> None:
        super().__init__(numbers.shape, lambda _: plain.from_half(numbers, ones))
        self.numbers, self.ones = numbers, ones


class RowKernels:
    """Notes what the verbs between products ask for, and starts the kernels.

    Args:
        queue: what starts them.
        memory: where results come from.
    """

    def __init__(self, queue: Queue, memory: Memory) -> None:
        self._queue = queue
        self._memory = memory
        self._plain = PlainRows(queue, memory)
        self._rotated: list[weakref.ref[Rotated]] = []  # the last two
        self._last_halves: tuple[Array, Halves] | None = None
        self._made_ones: dict[int, Array] = {}

    # Verbs, which only take note but for two; see `PlainRows`

    def add(self, x: Array, y: Array) -> Array:
        return self._plain.add(x, y)

    def rms_norm(self, x: Array, weight: Array | None, eps: float) -> Array:
        norm = Norm(self._plain, x, weight, eps)
        if isinstance(x, Residual) and x.waits:
            x.norms.append(weakref.ref(norm))
        return norm

    def residual(self, x: Array, y: Array, weight: Array, eps: float, scale: float) -> Array:
        def compute(result: Residual) -> Array:
            return self._residual(result, "residual", [x, *_parts_of(y), weight], eps, scale)

        return Residual(x.shape, compute)

    def residual_of_sum(
        self,
        x: Array,
        y: Array,
        y_weight: Array,
        z: Array,
        z_weight: Array,
        weight: Array,
        eps: float,
        scale: float,
    ) -> Array:
        def compute(result: Residual) -> Array:
            addends: list[Any] = [z, None, None, ctypes.c_int(0)]
            if isinstance(z, Combined) and z.waits:
                addends = [z.y, z.slots, z.shares, ctypes.c_int(z.shares.shape[1])]
            inputs = [x, *_parts_of(y), y_weight, *addends, z_weight, weight]
            return self._residual(result, "residual_of_sum", inputs, eps, scale)

        return Residual(x.shape, compute)

    def geglu(self, gate: Array, up: Array) -> Array:
        return Gated(self._plain, gate, up)

    def combine(self, y: Array, slots: Array, shares: Array) -> Array:
        return Combined(self._plain, y, slots, shares)

    def sum_of(self, parts: Array, shape: tuple[int, int]) -> Array:
        """The sum of (rows, columns) that lie one behind the other, as an array of the backend."""
        return Parts(self._plain, parts, shape)

    def attended(self, numbers: Array) -> Array:
        """Float16 (rows, n), none beyond what products may read, as an array of the backend."""
        return Attended(self._plain, numbers, self._ones(numbers.shape[0]))

    def norm_rope(self, x: Array, weight: Array, eps: float, rotation: Rotation) -> Array:
        rotated = Rotated(x, weight, eps, rotation, self._rotate_alone)
        self._rotated = [*self._rotated[-1:], weakref.ref(rotated)]
        return rotated

    def store_rows(self, k: Array, v: Array, store: LayerStore, places: Array) -> None:
        """As `PlainRows.store_rows`, which does not wait, and with it the queries are rotated."""
        waiting = isinstance(k, Rotated) and k.waits and isinstance(v, Norm) and v.waits
        if waiting and isinstance(k, Rotated) and isinstance(v, Norm) and v.weight is None and v.eps == k.eps:
            queries = [q for q in (ref() for ref in self._rotated) if q and q is not k and q.waits]
            q = next((q for q in queries if q.goes_with(k)), None)
            self._heads(q, k, v.source, store, places)
        else:
            self._plain.store_rows(k, v, store, places)

    # What is asked for

    def halves(self, x: Array) -> Halves:
        """The rows of x (rows, columns) as the products read them."""
        if not isinstance(x, Deferred):
            if self._last_halves is None or self._last_halves[0] is not x:
                self._last_halves = x, self._to_half(x)
            return self._last_halves[1]
        if x.halves is None and isinstance(x, Norm) and x.weight is not None:
            source = x.source.ready()  # which may compute this norm, too
            if x.halves is None:
                x.halves = out = self.empty_halves(x.shape)
                eps = ctypes.c_float(x.eps)
                self._run("norm_row", x.shape, [source, eps, x.weight, out.numbers, out.scales])
        elif x.halves is None and isinstance(x, Gated):
            x.halves = out = self.empty_halves(x.shape)
            self._run("geglu", x.shape, [x.gate, x.up, out.numbers, out.scales])
        elif x.halves is None and isinstance(x, Attended) and x.shape[1] % UNIT_COLUMNS == 0:
            x.halves = Halves(x.numbers, x.ones)
        elif x.halves is None:
            x.halves = self._to_half(x.ready())
        return x.halves

    def from_halves(self, halves: Halves) -> Array:
        """What a product gave as others read it, as an array of the backend."""
        made = Deferred(halves.numbers.shape, lambda _: self._plain.from_half(halves.numbers, halves.scales))
        made.halves = halves
        return made

    def empty_halves(self, shape: tuple[int, ...]) -> Halves:
        """Room for (rows, columns) as products read them."""
        rows, columns = shape
        padded = -(-columns // UNIT_COLUMNS) * UNIT_COLUMNS
        return Halves(self._memory.empty((rows, padded), np.float16), self._memory.empty((rows,)))

    # Kernels

    def _run(self, name: str, shape: tuple[int, ...], arguments: list[Any]) -> None:
        """Start a kernel of rows.cu for (rows, columns)."""
        rows, columns = shape
        macros = (("COLUMNS", columns),)
        self._queue.launch("rows", macros, name, (rows, 1), threads(columns), _in_memory(arguments))

    def _ones(self, rows: int) -> Array:
        if rows not in self._made_ones:
            self._made_ones[rows] = upload(np.ones(rows, np.float32))
        return self._made_ones[rows]

    def _to_half(self, x: Array) -> Halves:
        out = self.empty_halves(x.shape)
        self._run("to_half", x.shape, [x, out.numbers, out.scales])
        return out

    def _residual(self, result: Residual, name: str, inputs: list[Any], eps: float, scale: float) -> Array:
        """Start `residual` or `residual_of_sum`, with up to two of the norms that were asked for."""
        out = self._memory.empty(result.shape)
        noted = [norm for norm in (ref() for ref in result.norms) if norm is not None]
        norms = [norm for norm in noted if norm.waits and norm.weight is not None and norm.eps == eps]
        result.norms = []
        outputs: list[Any] = [out]
        for norm in norms[:2]:
            norm.halves = self.empty_halves(result.shape)
            outputs += norm.weight, norm.halves.numbers, norm.halves.scales
        outputs += [None] * (7 - len(outputs))
        scalars = [ctypes.c_float(eps), ctypes.c_float(scale)]
        self._run(name, result.shape, [*inputs, *scalars, *outputs])
        return out

    def _heads(
        self, q: Rotated | None, k: Rotated | None, v: Array | None, store: LayerStore | None, places: Any
    ) -> None:
        """Start the kernel of heads.cu for queries, or for keys and values, or for all of them."""
        some = q or k
        assert some is not None
        rows, _, dim = some.shape
        heads, kv_heads = (x.shape[1] if x else 0 for x in (q, k))
        out = self._memory.empty(q.shape) if q else None
        stored = [None, None] if store is None else [store.keys, store.values]
        capacity, first = (0, 0) if store is None else (store.keys.shape[1], store.length)
        sources = [x and x.source for x in (q, k)] + [v] + [x and x.weight for x in (q, k)]
        numbers = (ctypes.c_int(n) for n in (rows, heads, kv_heads, capacity, first))
        self._queue.launch(
            "heads",
            (("HEAD_DIM", dim),),
            "norm_rope_store",
            (-(-rows * (heads + 2 * kv_heads) // _HEADS), 1),
            32 * _HEADS,
            _in_memory([*sources, *some.rotation, out, *stored, places, *numbers, ctypes.c_float(some.eps)]),
        )
        if q and out:
            q.set(out)

    def _rotate_alone(self, q: Rotated) -> Array:
        self._heads(q, None, None, None, None)
        return q.ready()


def _parts_of(y: Array) -> tuple[Array, ctypes.c_int]:
    """What a kernel of rows.cu is to add up, and how many parts that has."""
    if isinstance(y, Parts) and y.waits:
        return y.parts, ctypes.c_int(y.n)
    return y, ctypes.c_int(1)


def _in_memory(arguments: list[Any]) -> list[Any]:
    """A kernel's arguments, with arrays that are computed."""
    return [argument.ready() if isinstance(argument, Array) else argument for argument in arguments]
