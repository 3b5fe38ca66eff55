"""What goes where: everything dense into GPU memory, and the experts of as many layers as fit.

A denoising step needs nearly every expert, so those of the other layers are copied to the GPU in
every step (`stream`): at 25 GB/s the bus beats a CPU that would compute them. They are spread
evenly, so that a layer's copy hides behind the layers before it.
"""

from dataclasses import dataclass, replace

from dgguf.errors import BackendError

# Left alone: the driver's context, kernels, and what the desktop takes.
RESERVE = 800_000_000
SLOTS = 2  # expert layers being copied or used


@dataclass(frozen=True)
class Sizes:
    """Bytes in GPU memory.

    Attributes:
        dense: all weights but the experts'.
        experts: of each layer's experts.
        kv_cache, scratch: beside the weights.
    """

    dense: int
    experts: tuple[int, ...]
    kv_cache: int
    scratch: int

    @property
    def fixed(self) -> int:
        return self.dense + self.kv_cache + self.scratch


@dataclass(frozen=True)
class PlacementPlan:
    """Where the weights go.

    Attributes:
        sizes: what was planned for.
        streamed_layers: whose experts stay in the host's memory.
        spare: bytes that are left, for the vision tower: experts come first, as every step needs them.
    """

    sizes: Sizes
    streamed_layers: frozenset[int]
    spare: int = 0

    @property
    def gpu_bytes(self) -> int:
        """What will be in GPU memory."""
        experts = self.sizes.experts
        resident = sum(size for i, size in enumerate(experts) if i not in self.streamed_layers)
        return self.sizes.fixed + resident + (SLOTS * max(experts) if self.streamed_layers else 0)

    @property
    def streamed_bytes(self) -> int:
        """What is copied to the GPU in every step."""
        return sum(self.sizes.experts[i] for i in self.streamed_layers)

    def describe(self) -> str:
        """One line: what is where."""
        n, missing = len(self.sizes.experts), len(self.streamed_layers)
        if not missing:
            return f"all {n} layers in GPU memory ({_gb(self.gpu_bytes)})"
        return (
            f"the experts of {n - missing} of {n} layers in GPU memory ({_gb(self.gpu_bytes)} in all), "
            f"those of the others copied in every step ({_gb(self.streamed_bytes)})"
        )


def spread(n_layers: int, missing: int) -> frozenset[int]:
    """`missing` of so many layers, evenly spread."""
    return frozenset((2 * i + 1) * n_layers // (2 * missing) for i in range(missing))


def make_plan(sizes: Sizes, free_bytes: int, resident: int | None, reserve: int = RESERVE) -> PlacementPlan:
    """Decide which layers' experts stay in GPU memory.

    Args:
        sizes: of the model.
        free_bytes: of GPU memory.
        resident: layers wanted there; None for as many as fit.
        reserve: bytes to leave alone.

    Raises:
        BackendError: it does not fit; says what would.
    """
    n = len(sizes.experts)
    if resident is not None and not 0 <= resident <= n:
        raise BackendError(f"the model has {n} layers: --gpu-layers must be from 0 to {n}, not {resident}")
    budget = free_bytes - reserve
    plans = (PlacementPlan(sizes, spread(n, missing)) for missing in range(n + 1))
    best = next((plan for plan in plans if plan.gpu_bytes <= budget), None)
    if best is None:
        least = min(PlacementPlan(sizes, spread(n, missing)).gpu_bytes for missing in {0, n})
        raise BackendError(
            f"the GPU has {_gb(free_bytes)} of free memory; the model needs {_gb(least + reserve)} "
            f"with none of its experts there, {_gb(sizes.kv_cache)} of it for the context: close what else "
            "uses the GPU, take a smaller context (-c), or run without --cuda"
        )
    if resident is None:
        return replace(best, spare=budget - best.gpu_bytes)
    wanted = PlacementPlan(sizes, spread(n, n - resident))
    if wanted.gpu_bytes > budget:
        raise BackendError(
            f"{resident} layers need {_gb(wanted.gpu_bytes + reserve)} of GPU memory, "
            f"{_gb(free_bytes)} are free: at most {n - len(best.streamed_layers)} fit (--gpu-layers), "
            "or more with a smaller context (-c)"
        )
    return replace(wanted, spare=budget - wanted.gpu_bytes)


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
