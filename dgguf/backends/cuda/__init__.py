"""The CUDA backend: layers on a GPU. Imported only when asked for."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.plan import make_plan, measure
from dgguf.gguf_header import TensorInfo

if TYPE_CHECKING:
    from dgguf.backends.cuda.backend import CudaBackend


def open_backend(
    tensors: Iterable[TensorInfo],
    *,
    device: int,
    gpu_layers: int | None,
    kv_cache: int,
    scratch: int,
    threads: int | None,
) -> "CudaBackend":
    """The backend for a model on a GPU.

    Args:
        tensors: of the model.
        device: number of the GPU.
        gpu_layers: layers whose experts stay in its memory; None for as many as fit.
        kv_cache, scratch: bytes beside the weights.
        threads: that prepare the weights; None for all usable cores.

    Raises:
        BackendError: the GPU cannot be used or the model does not fit; says what is missing.
    """
    gpu = Device(device)
    free, _ = gpu.memory()
    plan = make_plan(measure(tensors, kv_cache, scratch), free, gpu_layers)
    from dgguf.backends.cuda.backend import CudaBackend

    return CudaBackend(gpu, plan, threads)
