"""Panels: the rows of a matrix as unsigned 8-bit codes, decoded 16 rows at a time.

With b bits, a weight is scale * (code - 2**(b - 1)), or scale * code - minimum. What the bits of
each format mean is drawn in `dgguf.quants`. Quantized weights are kept as they are; plain numbers are
rounded, as Q8_0 would round them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import types

from dgguf.backends.cpu import panel_fields as fields
from dgguf.backends.cpu import panel_floats as floats
from dgguf.backends.cpu import panel_grids as grids
from dgguf.backends.cpu.lanes import RowBlocks, emit_decoder
from dgguf.jit import address
from dgguf.llvm_ir import intrinsic
from dgguf.quants.block import FORMATS_BY_NAME


@dataclass(frozen=True)
class PanelFormat:
    """How a block format becomes a panel.

    Attributes:
        emit: writes the code that decodes a block, or a group of plain numbers.
        group: weights that share a scale, 16 or 32.
        bits: of the codes.
        affine: there are minimums; otherwise an offset of half the codes' range.
    """

    emit: Callable[[RowBlocks], None]
    group: int
    bits: int
    affine: bool = False

    @property
    def offset(self) -> int:
        """Of the codes; 0 where there are minimums."""
        return 0 if self.affine else 1 << self.bits - 1


PANEL_FORMATS: dict[str, PanelFormat] = {
    "Q4_0": PanelFormat(fields.emit_q4_0, 32, 4),
    "Q4_1": PanelFormat(fields.emit_q4_1, 32, 4, affine=True),
    "Q5_0": PanelFormat(fields.emit_q5_0, 32, 5),
    "Q5_1": PanelFormat(fields.emit_q5_1, 32, 5, affine=True),
    "Q8_0": PanelFormat(fields.emit_q8_0, 32, 8),
    "Q2_K": PanelFormat(fields.emit_q2_k, 16, 2, affine=True),
    "Q3_K": PanelFormat(fields.emit_q3_k, 16, 3),
    "Q4_K": PanelFormat(fields.emit_q4_k, 32, 4, affine=True),
    "Q5_K": PanelFormat(fields.emit_q5_k, 32, 5, affine=True),
    "Q6_K": PanelFormat(fields.emit_q6_k, 16, 6),
    "IQ4_NL": PanelFormat(fields.emit_iq4_nl, 32, 8),
    "IQ4_XS": PanelFormat(fields.emit_iq4_xs, 32, 8),
    "MXFP4": PanelFormat(fields.emit_mxfp4, 32, 5),
    "NVFP4": PanelFormat(fields.emit_nvfp4, 16, 5),
    "TQ1_0": PanelFormat(fields.emit_tq1_0, 32, 3),
    "TQ2_0": PanelFormat(fields.emit_tq2_0, 32, 3),
    "IQ3_S": PanelFormat(grids.emit_iq3_s, 32, 5),
    "IQ3_XXS": PanelFormat(grids.emit_iq3_xxs, 32, 7),
    "IQ2_S": PanelFormat(grids.emit_iq2_s, 16, 7),
    "IQ2_XS": PanelFormat(grids.emit_iq2_xs, 16, 7),
    "IQ2_XXS": PanelFormat(grids.emit_iq2_xxs, 32, 7),
    "IQ1_S": PanelFormat(grids.emit_iq1_s, 32, 5),
    "IQ1_M": PanelFormat(grids.emit_iq1_m, 16, 5),
    "F32": PanelFormat(floats.emit_f32, 32, 8),
    "F16": PanelFormat(floats.emit_f16, 32, 8),
    "BF16": PanelFormat(floats.emit_bf16, 32, 8),
}


def block_sizes(name: str) -> tuple[int, int, int]:
    """Weights and bytes of a block, and weights that share a scale: of a format in PANEL_FORMATS.

    Plain numbers count as blocks of as many as will share a scale.
    """
    block, group = FORMATS_BY_NAME[name], PANEL_FORMATS[name].group
    weights = max(block.block_size, group)
    return weights, block.row_bytes(weights), group


@intrinsic(prefer_literal=True)
def _decode(
    typing: Any,
    name: Any,
    path: Any,
    source: Any,
    stride: Any,
    blocks: Any,
    codes: Any,
    scales: Any,
    minimums: Any,
) -> Any:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        emit, sizes = PANEL_FORMATS[name.literal_value].emit, block_sizes(name.literal_value)
        emit_decoder(b, path.literal_value, emit, sizes, args[2:])
        return context.get_dummy_value()

    return types.void(name, path, *[types.int64] * 6), generate


def _decoder(name: str, path: str) -> Callable[..., None]:
    # numba keeps compiled functions by source and by what they capture: names, so they are found again.
    def decode(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
        _decode(name, path, source, stride, blocks, codes, scales, minimums)

    return decode


@functools.cache
def decoder_address(name: str, path: str) -> int:
    """The compiled decoder of a format in PANEL_FORMATS for a CPU path.

    It takes int64: the addresses of the first of 16 rows' blocks, the bytes from row to row, how many
    blocks (see `block_sizes`) a row has, and the addresses of codes, scales and minimums to write (see
    `lanes.RowBlocks`).
    """
    return address(_decoder(name, path), 6)
