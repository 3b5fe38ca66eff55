"""Which kernels will be needed, and for which types of arguments: what numba would find out call by call.

A kernel that is not listed is compiled when it is called, so the list may lack some; tests/compiling holds it
against what an answer calls. The seconds are those of one Zen 4 core, parts included: they order the work and
make the forecast.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numba import types as numba_types

from dgguf.backends.cpu import (
    activations,
    attention,
    attention_tile,
    elementwise,
    experts,
    float_rows,
    logits,
    panels,
    qgemm,
    vision,
)
from dgguf.compiling.crew import Job
from dgguf.constraints import kernels, projection
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.quants.decode import decoder
from dgguf.quants.encode import KERNELS
from dgguf.text import merging
from dgguf.threads import worker_slots

types: Any = numba_types  # they have types in some versions, and not all


@dataclass(frozen=True)
class Work:
    """What kernels are needed for; as JSON, a helper gets it too.

    Attributes:
        threads: whether several share out the work.
        path: the CPU path of answers; "" if there are none.
        exact: the KV cache is in float32.
        panels: panel formats of products.
        embedding: the format of the tokens' rows.
        fused: gates and inputs of experts stand in one tensor.
        decoded: formats of rows that are read in a map, for products in float32 or for a conversion.
        encoded: formats of a conversion.
        tower: the CPU path of a vision tower, whose products `panels` and `decoded` are; "" if there is none.
        held: answers are held to a language.
    """

    threads: bool
    path: str = ""
    exact: bool = False
    panels: tuple[str, ...] = ()
    embedding: str = ""
    fused: bool = True
    decoded: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()
    tower: str = ""
    held: bool = False


def _rows(of: Any, n: int = 2, layout: str = "C", *, mapped: bool = False) -> Any:
    return types.Array(of, n, layout, readonly=mapped)


boolean, int32, int64, float64 = types.boolean, types.int32, types.int64, types.float64
float32, uint8, uint16 = types.float32, types.uint8, types.uint16
F1, F2, F3, D1, D2 = _rows(float32, 1), _rows(float32), _rows(float32, 3), _rows(float64, 1), _rows(float64)
I1, I2, I3, N1, N2 = _rows(int64, 1), _rows(int64), _rows(int64, 3), _rows(int32, 1), _rows(int32)
B1, B2, H3 = _rows(boolean, 1), _rows(uint8), _rows(uint16, 3)
MAPPED_F2 = _rows(float32, mapped=True)
MAPPED_1 = _rows(uint8, 1, mapped=True)
MAPPED_2, MAPPED_3 = _rows(uint8, mapped=True), _rows(uint8, 3, mapped=True)
MAPPED_PART = _rows(uint8, 3, "A", mapped=True)
LAYOUT = types.UniTuple(int64, 3)
CODE = types.Tuple((int64, int64, int64, types.UniTuple(int64, 5), int64, int64))
_TYPES = {int: int64, bool: boolean}  # of what encoders are told beside arrays


def needed(work: Work) -> list[Job]:
    """All jobs of some work, always in one order."""
    jobs: list[Job] = []
    if work.threads:
        jobs += _of_threads()
    if work.path:
        jobs += _of_answers(work)
        jobs += _of_panels(work) if work.path != "portable" else _of_floats()
        bf16 = work.path == "avx512_vnni" and attention_tile.supported()
        jobs += _of_wide_attention() if bf16 else _of_attention()
    jobs += _of_a_tower(work) if work.tower else ()
    jobs += _of_languages() if work.held else ()
    jobs += [_job(0.2, decoder(FORMATS_BY_NAME[name]), MAPPED_2, F2) for name in work.decoded]
    encoders = dict.fromkeys(KERNELS[name] for name in work.encoded)
    jobs += [_job(4.0, kernel, F2, F1, B2, *(_TYPES[of] for of in more)) for kernel, more in encoders]
    return jobs


def _job(seconds: float, kernel: Callable[..., Any], *arguments: Any) -> Job:
    return Job(seconds, functools.partial(kernel.compile, arguments))  # type: ignore[attr-defined]


def _of_threads() -> Iterator[Job]:
    yield _job(0.14, worker_slots.worker_loop, I1, I1, boolean, int64)
    yield _job(0.13, worker_slots.wait_all, I2, I1, int64)
    yield _job(0.10, worker_slots.submit, I2, I1, int64)
    yield _job(0.04, worker_slots.retire, I1)


def _of_answers(work: Work) -> Iterator[Job]:
    yield _job(1.6, logits.predict_rows, F2, float64, float64, D1, I1, I1, F1, N2, F2, I1, I1)
    yield _job(0.75, float_rows.multiply, F2, MAPPED_F2, F2, int64)  # of the router
    yield _job(0.65, elementwise.norm_rope, F3, F1, float64, F2, F2, F3, I1)
    yield _job(0.55, elementwise.choose_experts, F2, F1, N2, F2, I1)
    yield _job(0.7, merging.index_merges, MAPPED_1, I1, B1, MAPPED_1, I1, int64, N1, I2, I1)
    yield _job(0.55, merging.merge, I1, I2, int64, I2, I1)
    yield _job(0.36, elementwise.residual_of_sum, F2, F2, F1, F2, F1, F1, float64, float64, F2, I1)
    yield from _of_every_layer()
    yield _job(0.2, decoder(FORMATS_BY_NAME[work.embedding]), B2, F2)
    if not work.exact:
        yield _job(0.26, attention.round_rows, F3, F3, H3, H3, I1, I1)


def _of_every_layer() -> Iterator[Job]:
    yield _job(0.28, elementwise.rms_norm, F2, F1, float64, F2, I1)
    yield _job(0.25, elementwise.residual, F2, F2, F1, float64, float64, F2, I1)
    yield _job(0.20, elementwise.geglu, F2, F2, F2, I1)
    yield _job(0.17, elementwise.add, F2, F2, F2, I1)


def _of_wide_attention() -> Iterator[Job]:
    yield _job(2.9, attention.attend_tiles, F3, int64, H3, H3, int64, I3, I2, F3, I1)


def _of_attention() -> Iterator[Job]:
    yield _job(0.75, float_rows.multiply, F2, F2, F2, int64)
    yield _job(0.5, attention.masked_softmax, F2, int64, I3)
    yield _job(0.5, float_rows.add_weighted, F2, int64, F2, int64, F2)


def _of_panels(work: Work) -> Iterator[Job]:
    rows, codes = MAPPED_PART if work.fused else MAPPED_3, types.UniTuple(CODE, 2)
    yield _job(0.8, experts.panel_down, B2, I1, F2, I1, I2, CODE, MAPPED_3, F2, int64, I1)
    yield _job(0.7, experts.panel_gated, B2, I1, int64, I1, I2, codes, rows, rows, LAYOUT, B2, I1)
    yield from _of_products(work.panels, work.path)


def _of_products(names: tuple[str, ...], path: str) -> Iterator[Job]:
    yield _job(0.6, activations.prepare_together, F2, B2, LAYOUT, I1)
    yield _job(0.5, activations.prepare, F2, B2, LAYOUT)
    yield _job(0.3, qgemm.product, CODE, MAPPED_2, B2, F2, I1)
    yield Job(0.5, qgemm.panels_address)
    yield from (Job(0.05, functools.partial(panels.decoder_address, name, path)) for name in names)
    tiles = dict.fromkeys(qgemm.tile(name, path) for name in names)
    yield from (Job(0.15, functools.partial(address, *given)) for address, given in tiles)


def _of_a_tower(work: Work) -> Iterator[Job]:
    yield _job(2.5, vision.attend_tiles, F3, F3, F3, F3, I1)
    yield _job(0.7, vision.norm_rope_2d, F3, F1, float64, F2, F2, F2, F2, F3, I1)
    yield _job(0.75, float_rows.multiply, F2, MAPPED_F2, F2, int64)
    yield _job(0.2, decoder(FORMATS_BY_NAME["F32"]), B2, F2)  # of places
    yield from _of_every_layer()
    yield from _of_products(work.panels, work.tower) if work.panels else ()


def _of_languages() -> Iterator[Job]:
    spoken = types.NamedTuple((_rows(uint16), N1, B1, I1, I1, N1, N1), projection.Language)
    texts = types.NamedTuple((MAPPED_1, I1), projection.Texts)
    candidates = types.NamedTuple((I2, D2, D1, D1, D1), projection.Candidates)
    yield _job(2.0, projection.project, spoken, texts, candidates, int64, int64, I1, I1)
    yield _job(0.5, projection.allowed_entropy, spoken, texts, I2, F2, D1, D1, int64, I1, F1)
    yield _job(0.5, kernels.leading_tokens, N2, N1, N1, MAPPED_1, *[I1] * 6, I2, N2)
    yield _job(0.2, kernels.shared_bytes, MAPPED_1, I1, I1)


def _of_floats() -> Iterator[Job]:
    yield _job(0.3, experts.combine, F2, I2, F2, F2, I1)
