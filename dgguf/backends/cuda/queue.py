"""What is to be done on the GPU, in order. A sequence can be recorded as a CUDA graph and repeated.

A denoising step is some 450 kernels; started one by one from Python they would take longer than
the work itself. A recording repeats them all with one call: same kernels, same addresses, same
numbers, but for what it copies in from pinned memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.cuda.jit import THREADS
from dgguf.backends.cuda.kernels import Launcher, Macros


class Queue:
    """Starts kernels and copies on one stream.

    Args:
        stream: numba's.
        launcher: of the C++ kernels.

    Attributes:
        recording: whether what is asked for is being recorded, and not done.
    """

    def __init__(self, stream: Any, launcher: Launcher) -> None:
        self.recording = False
        self._stream = stream
        self._launcher = launcher
        self._inputs: dict[tuple[str, int], tuple[np.ndarray, Any]] = {}
        self._graph: Any = None

    def run(self, kernel: Any, blocks: int | tuple[int, int], *arguments: Any) -> None:
        """Start a numba kernel with THREADS threads a block."""
        kernel[blocks, THREADS, self._stream](*arguments)

    def launch(
        self,
        source: str,
        macros: Macros,
        name: str,
        grid: tuple[int, int],
        threads: int,
        arguments: list[Any],
    ) -> None:
        """Start a kernel of a C++ source; see `kernels.Launcher`."""
        self._launcher.launch(source, macros, name, grid, threads, arguments)

    def copy_in(self, host: np.ndarray, view: Any) -> None:
        """Copy host memory, which may change afterwards, to the GPU."""
        view.copy_to_device(host, stream=self._stream)

    def input(self, name: str, values: np.ndarray) -> Any:
        """Numbers that change from step to step, in GPU memory: always at the same address.

        A recording copies in what `set_input` has set before it is repeated.
        """
        key = (name, values.size)
        if key not in self._inputs:
            self._inputs[key] = (
                cuda.pinned_array(values.size, values.dtype),
                cuda.device_array(values.size, values.dtype),
            )
        pinned, view = self._inputs[key]
        if self.recording:
            pinned[:] = values
            self.copy_in(pinned, view)
        else:
            self.copy_in(np.ascontiguousarray(values), view)  # `pinned` may still be on its way
        return view

    def set_input(self, name: str, values: np.ndarray) -> None:
        """What the next repetition copies in; the last one must be done."""
        self._inputs[name, values.size][0][:] = values

    def record(self, compute: Callable[[], Any]) -> None:
        """Record what `compute` asks for, in place of what was recorded before; nothing of it is done."""
        from cuda.bindings import driver

        handle = driver.CUstream(int(self._stream))
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        _check(driver.cuStreamBeginCapture(handle, mode))
        self.recording = True
        try:
            compute()
        except BaseException:
            driver.cuStreamEndCapture(handle)  # whatever it says: the stream works again
            raise
        finally:
            self.recording = False
        graph = _check(driver.cuStreamEndCapture(handle))
        self.forget()
        self._graph = _check(driver.cuGraphInstantiate(graph, 0))
        _check(driver.cuGraphDestroy(graph))

    def repeat(self) -> None:
        """Do what was recorded."""
        from cuda.bindings import driver

        _check(driver.cuGraphLaunch(self._graph, driver.CUstream(int(self._stream))))

    def forget(self) -> None:
        """Let go of the recording."""
        from cuda.bindings import driver

        if self._graph is not None:
            graph, self._graph = self._graph, None
            _check(driver.cuGraphExecDestroy(graph))


def _check(result: tuple[Any, ...]) -> Any:
    """What a call of the driver's bindings returns beside its status."""
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"the driver answers with {status.name}")
    return values[0] if values else None
