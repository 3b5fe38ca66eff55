"""What a model takes in memory, from its header alone: no backend is needed, no kernel is loaded.

All results are bytes. Shape letters are those of `model.transformer`.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgguf.backends import limits
from dgguf.backends.base import Role
from dgguf.errors import PromptError
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.read_header import TensorInfo
from dgguf.model.cache import cache_bytes
from dgguf.model.config import ModelConfig
from dgguf.model.tensor_names import layer_and_kind, role_of

if TYPE_CHECKING:
    from dgguf.backends.cuda.plan import Sizes
    from dgguf.model.mmproj import VisionConfig

DEFAULT_CONTEXT = 8192
# Prompt rows encoded together: enough that a decoded expert serves many, few enough to report often.
ROWS_PER_CALL = 1024
# Rows of patches that pass the vision tower's feed-forward together, so that its arrays stay small.
VISION_MLP_ROWS = 1280
_FLOAT = 4  # bytes of a float32


@dataclass(frozen=True)
class Memory:
    """What a model takes on the CPU.

    Attributes:
        weights_mapped: the file, which the system may drop and read again.
        kv_cache: when full.
        scratch: the largest arrays that live at once beside weights and KV cache.
    """

    weights_mapped: int
    kv_cache: int
    scratch: int


def choose_context(config: ModelConfig, wanted: int | None) -> int:
    """The positions of a context: those wanted, else 8192 or what the model can.

    Raises:
        PromptError: the model cannot have that many, or no canvas fits.
    """
    context = min(DEFAULT_CONTEXT, config.context_length) if wanted is None else wanted
    if not config.canvas_length < context <= config.context_length:
        raise PromptError(
            f"a context of {context} does not fit the model: it must be above its canvas length "
            f"({config.canvas_length}) and at most {config.context_length}"
        )
    return context


def rows_per_call(config: ModelConfig) -> int:
    """Rows of one call to the network, at most."""
    return max(ROWS_PER_CALL, config.canvas_length)


def cpu_memory(file: GgufFile, config: ModelConfig, context: int, *, exact: bool = False) -> Memory:
    """What a model and its context take on the CPU.

    Args:
        context: positions, from `choose_context`.
        exact: whether everything is computed and kept in float32.
    """
    rows = rows_per_call(config)
    kv_cache = cache_bytes(config, context, rows, limits.kv_bytes(exact))
    return Memory(file.n_bytes, kv_cache, cpu_scratch_bytes(config, rows, exact))


def cpu_scratch_bytes(config: ModelConfig, rows: int, exact: bool) -> int:
    """The CPU backend's largest arrays that live at once, with calls of `rows` at most."""
    c, d, v = config.canvas_length, config.hidden_size, config.vocab_size
    at_once = limits.cpu_rows_at_once(c, v, exact)
    logits = at_once * v
    kept = (
        0 if limits.cpu_keeps_all(v, exact) else 2 * c * limits.MOST_TOKENS
    )  # tokens and weights of each distribution
    means = (1 if kept else 1 + limits.CPU_SOFT_SLICES) * c * d
    # Each expert's output as float32, or its inner activations, which are fewer, in 8 bits.
    expert_outputs = rows * config.n_experts_used * d // (1 if exact else 4)
    return _FLOAT * (logits + kept + means + expert_outputs)


def vision_scratch_bytes(config: "VisionConfig", budget: int) -> int:
    """The largest arrays that live at once while the CPU reads an image of `budget` rows."""
    from dgguf.images import POOL

    patches = POOL**2 * budget
    streams = 6 * patches * config.hidden_size  # the residual stream, its norm, q, k, v and the heads' sums
    return _FLOAT * (streams + 3 * min(patches, VISION_MLP_ROWS) * config.ff_size)


def gpu_tower_bytes(file: GgufFile, config: "VisionConfig") -> int:
    """What a vision tower and the largest image take in GPU memory."""
    from dgguf.backends.cuda.layout import layout
    from dgguf.images import BUDGETS, POOL
    from dgguf.model.mmproj import AUDIO, PATCHES

    weights = 0
    for name, tensor in file.tensors.items():
        if name.startswith(AUDIO):
            continue
        if name == PATCHES:  # a matrix, whose inputs have three axes in the file
            inputs = tensor.n_weights // config.hidden_size
            weights += layout(tensor.format).matrix_bytes(config.hidden_size, inputs)
        else:
            weights += _gpu_tensor_bytes(tensor, role_of(name))
    patches = POOL**2 * max(BUDGETS)
    # As for the CPU, with products of two rows for each, their sums, and what the pool of arrays rounds up.
    streams, gated = 14 * patches * config.hidden_size, 7 * min(patches, VISION_MLP_ROWS) * config.ff_size
    return weights + _FLOAT * (streams + gated)


def gpu_sizes(file: GgufFile, config: ModelConfig, context: int) -> "Sizes":
    """What a model and its context take in GPU memory, the experts of each layer told apart.

    Args:
        context: positions, from `choose_context`.
    """
    from dgguf.backends.cuda.plan import Sizes

    dense = 0
    experts = [0] * len(config.layers)
    for tensor in file.tensors.values():
        role, (layer, _) = role_of(tensor.name), layer_and_kind(tensor.name)
        if role is Role.EXPERTS and layer is not None and layer < len(experts):
            experts[layer] += _gpu_tensor_bytes(tensor, role)
        else:
            dense += _gpu_tensor_bytes(tensor, role)
    rows = rows_per_call(config)
    kv_cache = cache_bytes(config, context, rows, limits.kv_bytes(exact=False))
    return Sizes(dense, tuple(experts), kv_cache, gpu_scratch_bytes(config, rows))


def _gpu_tensor_bytes(tensor: TensorInfo, role: Role) -> int:
    """A tensor as the CUDA backend keeps it: vectors and the router in float32, other matrices repacked."""
    from dgguf.backends.cuda.layout import layout

    if len(tensor.shape) == 1 or role is Role.ROUTER:
        return _FLOAT * tensor.n_weights
    *stack, rows, columns = tensor.shape
    return math.prod(stack) * layout(tensor.format).matrix_bytes(rows, columns)


def gpu_scratch_bytes(config: ModelConfig, rows: int) -> int:
    """The CUDA backend's largest arrays that live at once, with calls of `rows` at most."""
    c, d = config.canvas_length, config.hidden_size
    logits = _FLOAT * c * config.vocab_size
    bins = (4 + 8) * limits.GPU_SLICES * limits.GPU_BINS * c  # int32 counts, uint64 masses
    expert_outputs = _FLOAT * rows * config.n_experts_used * d
    largest_head = max(layer.head_dim for layer in config.layers)
    # Attention, by blocks that divide keys. Two warps that share a head may have 16 columns more than it, and
    # 16 numbers more; of four there are half as many queries.
    divided = _FLOAT * limits.GPU_SPLIT_BLOCKS * 64 * (largest_head + 32)
    rest = 16 * _FLOAT * rows * d  # the residual stream, projections, and float16 copies
    return logits + bins + 2 * expert_outputs + rest + divided
