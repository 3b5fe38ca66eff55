"""What a GPU computes beside float64: the errors of products as a step starts them, and rows of experts."""

import math
from typing import Any

import numpy as np

from dgguf.backends.cuda import matmul
from dgguf.backends.cuda.layout import UNIT_ROWS
from dgguf.backends.cuda.memory import allocate, upload
from tools.bench.gpu.nodes import Node, view_of

CHECKED = 4  # rows of each product


def _host(array: Any) -> np.ndarray:
    return np.asarray(view_of(array).copy_to_host())


def rows_of_experts(tiles: Any, n_experts: int) -> np.ndarray:
    """How many rows each expert has, of tiles (expert, first row, count)."""
    made = _host(tiles)
    return np.bincount(made[:, 0], made[:, 2], n_experts).astype(int)


def largest_error(node: Node, queue: Any) -> float:
    """Of some rows of a product of qgemm.cu, relative to their largest number.

    The reference decodes the same weights, multiplies them with the same float16 rows and sums in float64.
    Of gate and up whose rows alternate it is the error of gelu(gate) * up.
    """
    w = node.matrices[0]
    x, x_scales, gather, tiles, out = node.arguments[5:10]
    n_rows, cap, ends = node.arguments[12].value, node.arguments[14].value, node.arguments[15:17]
    node.start()
    slots = np.unique(np.linspace(0, n_rows - 1, CHECKED).astype(int))
    rows = slots if gather is None else _host(gather)[slots]
    experts = np.zeros(len(slots), np.int32)
    if tiles is not None:
        listed = _host(tiles)
        for expert, first, count in listed[listed[:, 2] > 0]:
            experts[(slots >= first) & (slots < first + count)] = expert
    given = upload(_host(x)[rows].astype(np.float32) * _host(x_scales)[rows, None])
    numbers = [upload(a.astype(np.int32)).view for a in (np.arange(len(slots)), experts)]
    wanted = allocate(4 * len(slots) * w.rows).view(np.float32).reshape(len(slots), w.rows)
    assert w.planes is not None
    queue.run(
        matmul.reference_product, len(slots), *w.arguments(w.planes), given.view, *numbers,
        w.rows, w.unscale, cap, wanted,
    )  # fmt: skip
    right = np.asarray(wanted.copy_to_host(), np.float64)
    if dict(node.macros).get("GATED"):
        gate, up = np.moveaxis(right.reshape(len(slots), -1, 2, UNIT_ROWS), 2, 0)
        right = (_gelu(gate) * up).reshape(len(slots), -1)
        made = _host(out)[slots].astype(np.float64) * _host(node.arguments[20])[slots, None]
    else:
        splits = node.arguments[21].value
        flat, found, first = _host(out).reshape(splits, -1).sum(axis=0), [], 0
        for end in dict.fromkeys((*(end.value for end in ends), w.rows)):  # matrices behind each other
            piece = flat[n_rows * first : n_rows * end].reshape(n_rows, end - first)
            found.append(piece[slots])
            first = end
        made = np.concatenate(found, axis=1)
    return float(abs(made - right).max() / abs(right).max())


def _gelu(x: np.ndarray) -> np.ndarray:
    made: np.ndarray = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return made
