"""Weight panels: the rows of a matrix as products want them, decoded 16 rows at a time.

Quantized weights become unsigned 8-bit codes of the same values. Plain numbers are rounded to such, as
Q8_0 would round them, or kept. What the bits of each format mean is drawn in `dgguf.quants`, what a panel
holds is in `unpack`.
"""

import functools
from collections.abc import Callable
from typing import Any

from numba import types

from dgguf.backends.cpu import panel_fields, panel_floats, panel_grids
from dgguf.backends.cpu.unpack import PanelFormat, emit_decoder
from dgguf.jit import address
from dgguf.llvm_ir import LITERAL, emits
from dgguf.quants.block import FORMATS_BY_NAME

PANEL_FORMATS: dict[str, PanelFormat] = {
    name: PanelFormat(FORMATS_BY_NAME[name], emit)
    for emitters in (panel_fields.EMITTERS, panel_grids.EMITTERS, panel_floats.EMITTERS)
    for name, emit in emitters.items()
}
# Of plain numbers that are kept.
KEPT_FORMATS: dict[str, PanelFormat] = {
    form.name: form
    for form in (
        PanelFormat(FORMATS_BY_NAME[n], emit, kept) for (n, kept), emit in panel_floats.KEEPERS.items()
    )
}


@emits(types.void, LITERAL, LITERAL, *[types.int64] * 6)
def _decode(
    b: Any,
    name: str,
    path: str,
    source: Any,
    stride: Any,
    blocks: Any,
    codes: Any,
    scales: Any,
    minimums: Any,
) -> None:
    emit_decoder(b, path, panel_format(name), (source, stride, blocks, codes, scales, minimums))


def panel_format(name: str) -> PanelFormat:
    """The one of PANEL_FORMATS or KEPT_FORMATS that has this name."""
    return PANEL_FORMATS.get(name) or KEPT_FORMATS[name]


def _decoder(name: str, path: str) -> Callable[..., None]:
    # numba keeps compiled functions by source and by what they capture: names, so they are found again.
    def decode(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
        _decode(name, path, source, stride, blocks, codes, scales, minimums)

    return decode


@functools.cache
def decoder_address(name: str, path: str) -> int:
    """The compiled decoder of a panel format for a CPU path.

    It takes int64: the addresses of the first of 16 rows' blocks, the bytes from row to row, how many
    blocks (of `PanelFormat.block_size` weights) a row has, and the addresses of codes, scales and
    minimums to write (see `unpack.RowBlocks`).
    """
    return address(_decoder(name, path), 6)
