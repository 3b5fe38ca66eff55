"""A GPU: opening it, or saying what is missing; its memory and its stream."""

import importlib.metadata
from typing import Any

import numpy as np

from dgguf.errors import BackendError, extra

OLDEST = (7, 5)  # compute capability: the first with the tensor-core shapes that the kernels use
INSTALL = f"for NVIDIA's driver 580 or newer {extra('cuda13')}; for 525 or newer {extra('cuda12')}"


def check_package() -> None:
    """See that numba-cuda is there and can be loaded.

    Raises:
        BackendError: it is missing, or does not go with the NumPy that is installed.
    """
    try:
        importlib.metadata.version("numba-cuda")
    except importlib.metadata.PackageNotFoundError:
        raise BackendError(
            f"--cuda needs the package numba-cuda, which is not installed: {INSTALL}"
        ) from None
    if np.lib.NumpyVersion(np.__version__) >= "2.5.0":  # has removed what it uses
        raise BackendError(f"numba-cuda does not load with NumPy {np.__version__}: pip install 'numpy<2.5'")


def count_devices() -> int:
    """How many GPUs there are.

    Raises:
        BackendError: there is no driver, or it finds none.
    """
    check_package()
    from numba import cuda

    try:
        n = len(cuda.gpus)
    except Exception as error:  # CudaSupportError, and what the driver's bindings raise
        raise BackendError(
            f"--cuda needs an NVIDIA driver, and none can be used here ({reason(error)}): install one "
            "(https://www.nvidia.com/drivers; under WSL on the Windows side), or run without --cuda"
        ) from error
    if n == 0:
        raise BackendError("--cuda needs an NVIDIA GPU, and the driver finds none: run without --cuda")
    return n


def reason(error: Exception) -> str:
    """The line of a library's message that tells most."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line.rstrip(".") for line in lines if line and not line.endswith(":")), type(error).__name__)


class Device:
    """One GPU.

    Args:
        number: which, as nvidia-smi counts them.

    Attributes:
        name: what the driver calls it.
        capability: compute capability, such as (9, 0).
        shared_bytes: of shared memory that a block may ask for.
        multiprocessors: how many it has.
        stream: on which everything runs.

    Raises:
        BackendError: it cannot be used; the message says what is missing.
    """

    def __init__(self, number: int) -> None:
        n = count_devices()
        if not 0 <= number < n:
            raise BackendError(f"there is no GPU {number}: --device must be from 0 to {n - 1}")
        from numba import cuda

        self._cuda = cuda
        self.number = number
        self.select()
        device = cuda.get_current_device()
        name = getattr(device, "name", "GPU")
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.capability: tuple[int, int] = tuple(device.compute_capability)
        if self.capability < OLDEST:
            raise BackendError(
                f"GPU {number} ({self.name}) has compute capability {_version(self.capability)}; "
                f"--cuda needs {_version(OLDEST)} or newer (GeForce RTX 20, Tesla T4): run without --cuda"
            )
        self.shared_bytes = int(device.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        self.multiprocessors = int(device.MULTIPROCESSOR_COUNT)
        self.stream: Any = cuda.stream()

    @property
    def arch(self) -> str:
        """As the compilers call it, such as "sm_90"."""
        return f"sm_{self.capability[0]}{self.capability[1]}"

    def describe(self) -> str:
        return f"GPU {self.number} ({self.name}, {self.arch})"

    def select(self) -> None:
        """Let the thread that calls use this GPU: numba gives each new one the first."""
        self._cuda.select_device(self.number)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = self._cuda.current_context().get_memory_info()
        return int(free), int(total)

    def launcher(self) -> Any:
        """What runs the CUDA C++ kernels."""
        from dgguf.backends.cuda.kernels import CudaLauncher

        return CudaLauncher(self.arch, self.number, self.stream)

    def download(self, view: Any) -> np.ndarray:
        """A copy of an array in the host's memory."""
        out: np.ndarray = view.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        return out


def _version(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
