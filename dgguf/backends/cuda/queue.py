"""What is to be done on the GPU, in order. A sequence can be recorded as a CUDA graph and repeated.

A denoising step is some 400 kernels; started one by one from Python they would take longer than
the work itself. A recording repeats them all with one call: same kernels, same addresses, same
numbers, but for what it copies in from pinned memory.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.jit import THREADS
from dgguf.backends.cuda.kernels import Launcher, Macros, check
from dgguf.backends.cuda.memory import allocate


class Queue:
    """Starts kernels and copies on one stream.

    Args:
        device: the GPU.
        launcher: of the C++ kernels.

    Attributes:
        recording: whether what is asked for is being recorded, and not done.
    """

    def __init__(self, device: Device, launcher: Launcher) -> None:
        self.recording = False
        self._stream = device.stream
        self._launcher = launcher
        self._worker = ThreadPoolExecutor(1, "dgguf-upload", initializer=device.select)
        self._upload: Future[None] | None = None
        self._inputs: dict[tuple[str, int], Any] = {}  # in GPU memory
        self._pinned: dict[tuple[str, int], np.ndarray] = {}  # where recordings copy them from
        self._graph: Any = None

    def run(self, kernel: Any, blocks: int | tuple[int, int], *arguments: Any) -> None:
        """Start a numba kernel with THREADS threads a block."""
        self._settle()
        kernel[blocks, THREADS, self._stream](*arguments)

    def launch(
        self,
        source: str,
        macros: Macros,
        name: str,
        grid: tuple[int, int],
        threads: int,
        arguments: list[Any],
        shared: int = 0,
    ) -> None:
        """Start a kernel of a C++ source; see `kernels.Launcher`."""
        self._settle()
        self._launcher.launch(source, macros, name, grid, threads, arguments, shared)

    def upload(self, data: np.ndarray) -> Any:
        """A copy of uint8 data in GPU memory, made while the next matrix is being prepared.

        Kernels wait for it; `data` must not change before the next call of anything here.
        """
        out = allocate(data.size)
        self._settle()
        self._upload = self._worker.submit(self._copy, data, out)
        return out

    def _copy(self, data: np.ndarray, target: Any) -> None:
        target.copy_to_device(data, stream=self._stream)
        self._stream.synchronize()

    def _settle(self) -> None:
        """Wait for the last upload."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            upload.result()

    def copy_in(self, host: np.ndarray, view: Any) -> None:
        """Copy memory of the host, which may change afterwards, or of the GPU to a view of equal size."""
        view.copy_to_device(host, stream=self._stream)

    def input(self, name: str, values: np.ndarray) -> Any:
        """Numbers that change from step to step, in GPU memory: always at the same address.

        A recording copies in what `set_input` has set before it is repeated.
        """
        key = (name, values.size)
        if key not in self._inputs:
            self._inputs[key] = cuda.device_array(values.size, values.dtype)
        view = self._inputs[key]
        if self.recording:
            self.set_input(name, values)
            self.copy_in(self._pinned[key], view)
        else:
            self.copy_in(np.ascontiguousarray(values), view)  # pinned memory may still be on its way
        return view

    def set_input(self, name: str, values: np.ndarray) -> None:
        """What the next repetition copies in; the last one must be done.

        Pinned memory is taken here, as steps of most numbers of rows are never recorded.
        """
        key = (name, values.size)
        if key not in self._pinned:
            self._pinned[key] = cuda.pinned_array(values.size, values.dtype)
        self._pinned[key][:] = values

    def record(self, compute: Callable[[], Any]) -> None:
        """Record what `compute` asks for, in place of what was recorded before; nothing of it is done."""
        from cuda.bindings import driver

        handle = driver.CUstream(int(self._stream))
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        check(driver.cuStreamBeginCapture(handle, mode))
        self.recording = True
        try:
            compute()
        except BaseException:
            _, unfinished = driver.cuStreamEndCapture(handle)  # whatever it says: the stream works again
            if unfinished:
                driver.cuGraphDestroy(unfinished)
            raise
        finally:
            self.recording = False
        graph = check(driver.cuStreamEndCapture(handle))
        self.forget()
        self._graph = check(driver.cuGraphInstantiate(graph, 0))
        check(driver.cuGraphDestroy(graph))

    def repeat(self) -> None:
        """Do what was recorded."""
        from cuda.bindings import driver

        check(driver.cuGraphLaunch(self._graph, driver.CUstream(int(self._stream))))

    def forget(self) -> None:
        """Let go of the recording."""
        from cuda.bindings import driver

        if self._graph is not None:
            graph, self._graph = self._graph, None
            check(driver.cuGraphExecDestroy(graph))
