"""What a machine has of what --cuda needs, and whether it fits together; for `dgguf doctor`."""

import importlib.metadata
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.backends.check import Check
from dgguf.backends.cuda.device import INSTALL, OLDEST, Device, check_package, count_devices, reason
from dgguf.backends.cuda.plan import RESERVE, PlacementPlan, Sizes, make_plan, spread
from dgguf.backends.limits import GPU_MOST_HEAD, gpu_attends_fast
from dgguf.errors import BackendError, extra
from dgguf.units import format_bytes

# The toolkit's parts and the wheels that bring them for CUDA 12 and 13.
PARTS = {
    "nvrtc": ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc"),
    "nvvm": ("nvidia-cuda-nvcc-cu12", "nvidia-nvvm"),
    "nvjitlink": ("nvidia-nvjitlink-cu12", "nvidia-nvjitlink"),
}
PINNED_BYTES = 64 << 20


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter, by name; those that are missing are not in it."""
    names = ["numba-cuda", "cuda-core", "cuda-bindings", *(name for pair in PARTS.values() for name in pair)]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def check_wheels(versions: dict[str, str]) -> Check:
    """Whether the toolkit's wheels are there and of one CUDA version."""
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = {part: [name for name in names if name in versions] for part, names in PARTS.items()}
    twice = [part for part, names in parts.items() if len(names) > 1]
    if twice:
        old = " ".join(pair[0] for pair in PARTS.values() if pair[0] in versions)
        return Check(
            "toolkit", False, f"wheels of CUDA 12 and 13 side by side: {found}", f"pip uninstall {old}"
        )
    missing = [part for part, names in parts.items() if not names]
    if missing:
        return Check(
            "toolkit", False, f"{', '.join(missing)} missing; {found or 'nothing'} installed", INSTALL
        )
    numbers = {part: _version(versions[names[0]]) for part, names in parts.items()}
    major = numbers["nvrtc"][0]
    bindings = _version(versions.get("cuda-bindings", "0"))[0]
    again = extra(f"cuda{major}", "--upgrade --force-reinstall ")
    if len({number[0] for number in numbers.values()} | {bindings}) > 1:
        return Check("toolkit", False, f"parts of different CUDA versions: {found}", again)
    if numbers["nvjitlink"] < numbers["nvvm"]:
        return Check("toolkit", False, f"nvjitlink is older than nvvm: {found}", again)
    return Check("toolkit", True, found)


def check_driver(driver: tuple[int, int] | None, toolkit: int, found: str) -> Check:
    """Whether the driver runs what a toolkit of this major version compiles.

    Args:
        driver: the CUDA version that it offers; None if there is none.
        toolkit: major version.
        found: what to say of it.
    """
    if driver is None:
        remedy = "install an NVIDIA driver: https://www.nvidia.com/drivers (under WSL on the Windows side)"
        return Check("driver", False, found, remedy)
    if driver[0] < toolkit:
        remedy = f"pip uninstall cuda-bindings, then {extra('cuda12', '--force-reinstall ')}"
        if driver[0] < 12:
            remedy = "install a newer NVIDIA driver: https://www.nvidia.com/drivers"
        return Check("driver", False, f"{found}: too old for the toolkit of CUDA {toolkit}", remedy)
    return Check("driver", True, found)


def examine(
    number: int, sizes: Sizes | None, head_dims: Collection[int] = (), tower: int | None = None
) -> Iterator[Check]:
    """Look at everything, from the packages to a product computed; stops where nothing further can work.

    Args:
        number: of the GPU.
        sizes: of a model, to say what of it fits; None for none.
        head_dims: the sizes of its heads.
        tower: bytes of the vision tower beside it; None for none.
    """
    if sizes is not None:
        yield Check("model needs", True, needs(sizes))
        yield Check("attention", True, attention_kernels(head_dims))
    if tower is not None:
        found = f"{format_bytes(tower)} more for the vision tower; without them the CPU reads images"
        yield Check("tower needs", True, found)
    try:
        check_package()
    except BackendError as error:
        found, _, remedy = str(error).partition(": ")
        yield Check("packages", False, found, remedy)
        return
    versions = installed_versions()
    wheels = check_wheels(versions)
    yield wheels
    if not wheels.ok:
        return
    yield _compile_check("sm_90")
    toolkit = _version(versions["cuda-bindings"])[0]
    version, found = _driver()
    driver = check_driver(version, toolkit, found)
    yield driver
    if not driver.ok:
        return
    try:
        gpus = [_describe_gpu(i) for i in range(count_devices())]
        yield Check("GPUs", True, "; ".join(gpus))
        device = Device(number)
    except BackendError as error:
        yield Check("GPU", False, str(error), f"a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer")
        return
    yield _compile_check(device.arch)
    yield from _run_checks(device)
    if sizes is not None:
        free, _ = device.memory()
        try:
            plan = make_plan(sizes, free, None)
            yield Check("model fits", True, plan.describe())
            if tower is not None:
                reader = "GPU" if tower <= plan.spare else "CPU"
                yield Check(
                    "tower fits", True, f"the {reader} reads images: {plan.spare / 1e9:.1f} GB are left"
                )
        except BackendError as error:
            yield Check("model fits", False, str(error), "a smaller context (-c), or no --cuda")


def needs(sizes: Sizes) -> str:
    """How much free GPU memory a model takes."""
    everything, least = (
        (PlacementPlan(sizes, spread(len(sizes.experts), missing)).gpu_bytes + RESERVE) / 1e9
        for missing in (0, len(sizes.experts))
    )
    return (
        f"{everything:.1f} GB of free GPU memory for all layers, {least:.1f} GB with all experts streamed "
        f"({sizes.kv_cache / 1e9:.1f} GB of it for the context, {RESERVE / 1e9:.1f} GB in reserve)"
    )


def attention_kernels(head_dims: Collection[int]) -> str:
    """Which kernel attends with heads of these sizes."""
    fast, slow = (
        ", ".join(str(dim) for dim in sorted(set(head_dims)) if gpu_attends_fast(dim) == wanted)
        for wanted in (True, False)
    )
    found = [f"on tensor cores for heads of {fast}"] if fast else []
    if slow:
        found.append(
            f"by a plain, slow kernel for heads of {slow} (the fast one takes multiples of 16 "
            f"up to {GPU_MOST_HEAD})"
        )
    return "; ".join(found)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _driver() -> tuple[tuple[int, int] | None, str]:
    """The CUDA version of the driver, and a description."""
    try:
        from cuda.bindings import driver

        status, number = driver.cuDriverGetVersion()
        if int(status) != 0:
            return None, f"the driver answers with error {int(status)}"
    except Exception as error:  # the bindings raise RuntimeError where libcuda is missing
        return None, reason(error)
    version = (number // 1000, number % 1000 // 10)
    found = [f"CUDA {version[0]}.{version[1]}"]
    try:
        kernel = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
        found += re.findall(r"\b\d+\.\d+(?:\.\d+)?\b", kernel)[:1]
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        found += sorted({line.split()[-1] for line in maps.splitlines() if "libcuda.so" in line})
        if "microsoft" in Path("/proc/version").read_text(encoding="utf-8").lower():
            found.append("WSL")
    except (OSError, IndexError):
        pass  # not Linux
    return version, ", ".join(found)


def _describe_gpu(number: int) -> str:
    from numba import cuda

    with cuda.gpus[number]:
        device = cuda.get_current_device()
        free, total = cuda.current_context().get_memory_info()
        name = device.name.decode() if isinstance(device.name, bytes) else device.name
        major, minor = device.compute_capability
        memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        return f"{number}: {name}, compute capability {major}.{minor}, {memory}{_link(device)}"


def _link(device: Any) -> str:
    """The PCIe link of a GPU, where the system tells."""
    try:
        place = f"{device.PCI_DOMAIN_ID:04x}:{device.PCI_BUS_ID:02x}:{device.PCI_DEVICE_ID:02x}.0"
        folder = Path("/sys/bus/pci/devices") / place
        speed, width = ((folder / f"current_link_{what}").read_text().strip() for what in ("speed", "width"))
    except (OSError, AttributeError):
        return ""
    return f", PCIe x{width} at {speed}"


def _compile_check(arch: str) -> Check:
    """Compile the product kernel for Q4_K, which needs no GPU."""
    from dgguf.backends.cuda.kernels import compile_cubin
    from dgguf.backends.cuda.layout import layout
    from dgguf.backends.cuda.matmul import kind_macros
    from dgguf.quants.block import FORMATS_BY_NAME

    began = time.perf_counter()
    try:
        code = compile_cubin("qgemm", kind_macros(layout(FORMATS_BY_NAME["Q4_K"])), arch)
    except Exception as error:  # cuda-core has no common error class
        return Check("compiler", False, f"qgemm.cu for {arch}: {reason(error)}", INSTALL)
    return Check(
        "compiler", True, f"qgemm.cu for {arch}: {len(code)} bytes in {time.perf_counter() - began:.1f} s"
    )


def _run_checks(device: Device) -> Iterator[Check]:
    """A product by the fast kernel and by the plain one, and how fast the bus is."""
    from numba import cuda

    from dgguf.backends.base import HostTensor
    from dgguf.backends.cuda.backend import CudaBackend
    from dgguf.backends.cuda.memory import allocate, upload
    from dgguf.backends.cuda.queue import Queue
    from dgguf.quants.block import FORMATS_BY_NAME

    rng = np.random.default_rng(1)
    x, weights = rng.standard_normal((40, 256), np.float32), rng.standard_normal((48, 256), np.float32)
    tensor = HostTensor("probe", FORMATS_BY_NAME["F32"], weights.view(np.uint8), 256)
    wanted = x @ weights.T
    again = "report this, with all of doctor's output"
    for what, reference in (("plain kernels", True), ("tensor cores", False)):
        try:
            backend = CudaBackend(
                device, PlacementPlan(Sizes(0, (), 0, 0), frozenset()), 1, reference=reference
            )
            found = backend.to_host(backend.linear(upload(x), backend.load_matrix(tensor)))
            error = float(abs(found - wanted).max() / abs(wanted).max())
            yield Check(
                what, error < 2e-3, f"a product is right to {error:.1e}", "" if error < 2e-3 else again
            )
        except Exception as failure:  # whatever a driver or compiler may raise
            yield Check(what, False, f"a product fails: {reason(failure)}", again)
            return
    try:
        queue = Queue(device, device.launcher())
        backend = CudaBackend(device, PlacementPlan(Sizes(0, (), 0, 0), frozenset()), 1, queue=queue)
        given, w, outs = upload(x), backend.load_matrix(tensor), []
        backend.linear(given, w)
        queue.record(lambda: outs.append(backend.linear(given, w)))
        queue.repeat()
        error = float(abs(backend.to_host(outs[0]) - wanted).max() / abs(wanted).max())
        yield Check(
            "graphs",
            error < 2e-3,
            f"a recorded product is right to {error:.1e}",
            "" if error < 2e-3 else again,
        )
    except Exception as failure:  # steps run without, only slower
        yield Check("graphs", False, f"nothing can be recorded, steps take longer: {reason(failure)}", again)
    try:
        pinned = cuda.pinned_array(PINNED_BYTES, np.uint8)
        target = allocate(PINNED_BYTES)
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            target.copy_to_device(pinned, stream=device.stream)
            device.stream.synchronize()
            seconds.append(time.perf_counter() - began)
        yield Check(
            "bus", True, f"{1e-9 * PINNED_BYTES / min(seconds):.1f} GB/s to the GPU from pinned memory"
        )
    except Exception as failure:
        yield Check(
            "bus", False, f"no {PINNED_BYTES >> 20} MB of pinned memory: {reason(failure)}", "free memory"
        )
