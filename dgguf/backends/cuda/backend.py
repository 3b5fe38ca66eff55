"""The CUDA backend: each verb of `backends.base.Backend`, on arrays in GPU memory.

`products` has matrices and arrays, `layers`, `vocabulary` and `tower` the verbs, and this module the steps:
computed kernel by kernel, or recorded and repeated.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from dgguf.backends.base import Prediction
from dgguf.backends.cuda.device import Device, reason
from dgguf.backends.cuda.layers import Layers
from dgguf.backends.cuda.matmul import GpuMatrix
from dgguf.backends.cuda.memory import Array
from dgguf.backends.cuda.plan import PlacementPlan
from dgguf.backends.cuda.products import NotPlacedError
from dgguf.backends.cuda.queue import Queue
from dgguf.backends.cuda.tower import Tower
from dgguf.backends.cuda.vocabulary import Vocabulary
from dgguf.backends.limits import kv_bytes
from dgguf.threads.allocator import keep_freed_memory


class CudaBackend(Tower, Layers, Vocabulary):
    """Runs the network on one GPU.

    Args:
        device: the GPU.
        plan: which layers' experts stay in its memory.
        threads: that repack the weights; None for one on each usable core.
        reference: plain kernels in place of those in qgemm.cu and attention.cu; slow, for tests.
        queue: what starts kernels; None for the device's own.
    """

    def __init__(
        self,
        device: Device,
        plan: PlacementPlan,
        threads: int | None = None,
        *,
        reference: bool = False,
        queue: Queue | None = None,
    ) -> None:
        keep_freed_memory()
        super().__init__(device, plan, threads, reference, queue)
        self.kv_bytes, self.is_async = kv_bytes(exact=False), True
        self.rounded: dict[str, int] = {}  # plain numbers are kept as float16
        self.arithmetic = "cuda"
        self._seen: Hashable = None
        self._recorded_positions: list[Any] = []
        self._recorded_inputs: Any = None  # of the head
        self._records, self._why_not = not plan.streamed_layers, "the copies of experts cannot be recorded"

    def describe(self) -> str:
        kernels = "reference kernels" if self._reference else "float16 products on tensor cores"
        if self._slow_heads:
            sizes = ", ".join(map(str, sorted(self._slow_heads)))
            kernels += f", attention with heads of {sizes} by a plain, slow kernel"
        recorded = "recorded as one graph" if self._recorded is not None else "to be recorded as one graph"
        steps = recorded if self._records else f"started kernel by kernel ({self._why_not})"
        return f"{self._device.describe()}, {kernels}; steps {steps}; {self._plan.describe()}"

    def embed(self, table: GpuMatrix, tokens: np.ndarray, scale: float) -> Array:
        self._passes += 1
        self._conditioned = None  # the last pass may have been interrupted
        return super().embed(table, tokens, scale)

    def replay_step(
        self,
        place: Hashable,
        compute: Callable[[], Prediction],
        canvas: np.ndarray,
        temperature: float,
        uniforms: np.ndarray,
    ) -> Prediction:
        """Compute a step once as it is, which compiles and allocates; record the next one; then repeat.

        In another place, as behind another prompt, nothing is left to compile: it is recorded at once.
        """
        known = place == self._seen or self._recorded is not None
        self._seen = place
        if not self._records or not known:
            return compute()
        self._queue.set_input("tokens", canvas.astype(np.int32))  # pins memory: not while recording
        self._queue.set_input("temperature", np.array([temperature], np.float32))
        self._queue.set_input("uniforms", uniforms)
        if place != self._recorded:
            self._record(place, compute)
        if self._recorded is None or self._reading is None:
            return compute()
        self._queue.repeat()
        self._reading.inputs = self._recorded_inputs
        return self._read(self._reading)

    def _record(self, place: Hashable, compute: Callable[[], Prediction]) -> None:
        """Record a step, in place of what was recorded; where that fails, nothing is."""
        self._recorded = None
        try:
            self._queue.record(compute)
        except NotPlacedError:
            return  # computing this step places it: the next is recorded
        except Exception as error:  # steps run without it, only slower
            self._records, self._why_not = False, reason(error)
            return
        self._recorded = place
        # Written outside of the recording, so nobody else may take their buffers.
        self._recorded_positions = self._placed_in_this_pass()
        self._recorded_inputs = self._reading and self._reading.inputs
