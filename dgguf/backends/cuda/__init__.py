"""The CUDA backend: layers on a GPU. Imported only when asked for."""

from typing import TYPE_CHECKING

from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.plan import Sizes, make_plan

if TYPE_CHECKING:
    from dgguf.backends.cuda.backend import CudaBackend


def open_backend(sizes: Sizes, *, device: int, gpu_layers: int | None, threads: int | None) -> "CudaBackend":
    """The backend for a model on a GPU.

    Args:
        sizes: of the model.
        device: number of the GPU.
        gpu_layers: layers whose experts stay in its memory; None for as many as fit.
        threads: that prepare the weights; None for one on each usable core.

    Raises:
        BackendError: the GPU cannot be used or the model does not fit; says what is missing.
    """
    gpu = Device(device)
    free, _ = gpu.memory()
    plan = make_plan(sizes, free, gpu_layers)
    from dgguf.backends.cuda.backend import CudaBackend

    return CudaBackend(gpu, plan, threads)
