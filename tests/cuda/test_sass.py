"""What the compiled products issue for a unit of weights, held to a budget where no GPU is."""

import pytest

from dgguf.backends.cuda.layout import layout
from dgguf.quants.block import FORMATS_BY_NAME
from tests.cuda.sass import (
    COMPILER,
    disassemble,
    is_the_compiler_of_budgets,
    issue,
    matrix_loops,
    nvdisasm,
    turn,
)

pytestmark = [
    pytest.mark.skipif(nvdisasm() is None, reason="needs nvdisasm: pip install nvidia-cuda-nvdisasm"),
    pytest.mark.skipif(not is_the_compiler_of_budgets(), reason=f"counted with NVRTC {COMPILER}*"),
    pytest.mark.slow(10),
]
# Instructions of a warp for a unit of 16 x 64 weights and 16, 32 or 64 tokens, and how many of them use the
# integer lanes; in the narrow kernels, then in the wide ones.
BUDGET = {
    "Q4_K": ({16: (101, 36), 32: (127, 41), 64: (160, 48)}, {16: (82, 29), 32: (103, 34), 64: (128, 38)}),
    "Q8_0": ({16: (105, 36), 32: (130, 42), 64: (164, 49)}, {16: (84, 28), 32: (103, 34), 64: (126, 37)}),
    "Q5_0": ({16: (125, 57), 32: (150, 61), 64: (184, 69)}, {16: (106, 51), 32: (127, 56), 64: (152, 60)}),
    "Q6_K": ({16: (125, 56), 32: (151, 62), 64: (183, 69)}, {16: (105, 50), 32: (126, 55), 64: (151, 60)}),
}


def products(loop):
    return sum(instruction.name.startswith("HMMA") for instruction in loop)


@pytest.mark.parametrize("name", BUDGET)
def test_a_unit_costs_no_more_than_it_did(name):
    from dgguf.backends.cuda.kernels import compile_cubin
    from dgguf.backends.cuda.matmul import kind_macros

    kernels = disassemble(compile_cubin("qgemm", kind_macros(layout(FORMATS_BY_NAME[name])), "sm_90"))
    for budget, wide in zip(BUDGET[name], ("", "_wide"), strict=True):
        halves, whole = sorted(matrix_loops(kernels["qgemm_32" + wide]), key=products)
        loops = {16: halves, 32: whole, 64: matrix_loops(kernels["qgemm_64" + wide])[0]}
        for tokens, (total, integer) in budget.items():
            found = issue(loops[tokens], tokens)
            assert found.total <= total, (tokens, wide, found)
            assert found.integer <= integer, (tokens, wide, found)
            assert found.kinds["HMMA"] == tokens / 2
            assert found.kinds["LDSM"] == tokens / (8 if wide else 4)


# Of a warp for 32 keys, with masks and all that most tiles skip: instructions, those on the integer lanes,
# accesses to shared memory, and the cycles of a warp that is alone.
TURNS = {256: (805, 245, 81, 2150), 512: (780, 210, 89, 2100)}


@pytest.mark.parametrize("dim", TURNS)
def test_a_tile_of_keys_costs_no_more_than_it_did(dim):
    from dgguf.backends.cuda.attention import shape
    from dgguf.backends.cuda.kernels import compile_cubin

    made = shape(dim, (9, 0), 227 << 10)
    found = turn(disassemble(compile_cubin("attention", made.macros, "sm_90"))["attention"])
    total, integer, shared, path = TURNS[dim]
    assert found.total <= total
    assert found.integer <= integer
    assert found.products == 128  # 16 queries, 32 keys and 256 columns, twice
    assert found.shared <= shared
    assert found.path <= path


def test_the_loop_is_found_by_its_products():
    """Two units a pass, of 8 x 16 x 16 products."""
    from tests.cuda.sass import Instruction

    outer = [Instruction("MOV", None)]
    loop = [*[Instruction("HMMA.16816.F32", None)] * 32, Instruction("LOP3.LUT", None), Instruction("BRA", 1)]
    (found,) = matrix_loops([*outer, *loop, Instruction("BRA", 0), Instruction("EXIT", None)])
    assert found == loop
    cost = issue(found, 32)
    assert (cost.total, cost.integer, cost.kinds["HMMA"]) == (17, 0.5, 16)
