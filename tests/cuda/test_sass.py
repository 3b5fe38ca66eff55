"""What the compiled products issue for a unit of weights, held to a budget where no GPU is."""

import pytest

from dgguf.backends.cuda.layout import layout
from dgguf.quants.block import FORMATS_BY_NAME
from tests.cuda.sass import disassemble, issue, matrix_loops, nvdisasm

pytestmark = [
    pytest.mark.skipif(nvdisasm() is None, reason="needs nvdisasm: pip install nvidia-cuda-nvdisasm"),
    pytest.mark.slow(10),
]
# Instructions of a warp for a unit of 16 x 64 weights and 16, 32 or 64 tokens, and how many of them use the
# integer lanes.
BUDGET = {
    "Q4_K": {16: (95, 35), 32: (120, 44), 64: (182, 78)},
    "Q8_0": {16: (94, 33), 32: (132, 55), 64: (184, 78)},
    "Q5_0": {16: (120, 59), 32: (159, 79), 64: (207, 101)},
    "Q6_K": {16: (119, 58), 32: (158, 78), 64: (207, 100)},
}


@pytest.mark.parametrize("name", BUDGET)
def test_a_unit_costs_no_more_than_it_did(name):
    from dgguf.backends.cuda.kernels import compile_cubin
    from dgguf.backends.cuda.matmul import kind_macros

    kernels = disassemble(compile_cubin("qgemm", kind_macros(layout(FORMATS_BY_NAME[name])), "sm_90"))
    loops = [*matrix_loops(kernels["qgemm_32"]), *matrix_loops(kernels["qgemm_64"])]
    loops.sort(key=lambda loop: sum(i.name.startswith("HMMA") for i in loop))
    for loop, (tokens, (total, integer)) in zip(loops, BUDGET[name].items(), strict=True):
        found = issue(loop, tokens)
        assert found.total <= total, (tokens, found)
        assert found.integer <= integer, (tokens, found)
        assert sum(i.name.startswith("HMMA") for i in loop) == 2 * found.kinds["HMMA"]  # two units a pass


def test_the_loop_is_found_by_its_products():
    """Two units a pass, of 8 x 16 x 16 products."""
    from tests.cuda.sass import Instruction

    outer = [Instruction("MOV", None)]
    loop = [*[Instruction("HMMA.16816.F32", None)] * 32, Instruction("LOP3.LUT", None), Instruction("BRA", 1)]
    (found,) = matrix_loops([*outer, *loop, Instruction("BRA", 0), Instruction("EXIT", None)])
    assert found == loop
    cost = issue(found, 32)
    assert (cost.total, cost.integer, cost.kinds["HMMA"]) == (17, 0.5, 16)
