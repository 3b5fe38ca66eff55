"""How much the backends hold at once: numbers that decide what a call takes in memory.

They stand apart from the kernels that keep them, so that `model.memory` needs no numba.
"""

# A kept distribution never has more tokens than this.
MOST_TOKENS = 512

# The CPU backend: rows of logits computed together, and the parts that a mean embedding is summed in. With
# 128 rows the 26B's head takes 3 to 5 % less time, a step 0.8 %, and 71 to 134 MB more of memory.
CPU_ROWS_AT_ONCE = 64
CPU_SOFT_SLICES = 16

# Attention takes keys in tiles of so many positions on the CPU, wherever a call begins.
KEY_TILE = 128

# The CUDA backend: the parts of a row of logits, and the bins of a histogram.
GPU_SLICES = 64
GPU_BINS = 256
# Its fast attention takes heads of a multiple of 16 up to this size.
GPU_MOST_HEAD = 512
# Where it has fewer blocks of 64 queries, so many in all divide the keys: about one for each of the 132
# multiprocessors of an H100, and the same on every GPU, so that numbers are.
GPU_SPLIT_BLOCKS = 128
# Its attention over the patches of an image takes heads up to this size.
GPU_MOST_TOWER_HEAD = 176


def kv_bytes(exact: bool) -> int:
    """Of a number in the KV cache: float32 where exact, else 16 bits on every backend."""
    return 4 if exact else 2


def gpu_attends_fast(head_dim: int) -> bool:
    """Whether the CUDA backend has fast attention for heads of this size; others take a plain kernel."""
    return head_dim % 16 == 0 and head_dim <= GPU_MOST_HEAD


def cpu_keeps_all(vocab_size: int, exact: bool) -> bool:
    """Whether the CPU backend keeps distributions whole: where they are exact, or what is kept is no less."""
    return exact or vocab_size <= MOST_TOKENS


def cpu_rows_at_once(canvas_length: int, vocab_size: int, exact: bool) -> int:
    """Rows of logits that the CPU backend holds: all, where they are kept whole."""
    return canvas_length if cpu_keeps_all(vocab_size, exact) else min(canvas_length, CPU_ROWS_AT_ONCE)
