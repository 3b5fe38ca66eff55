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
    "Q4_K": ({16: (97, 33), 32: (115, 37), 64: (145, 42)}, {16: (85, 29), 32: (96, 29), 64: (118, 33)}),
    "Q8_0": ({16: (99, 31), 32: (116, 35), 64: (145, 40)}, {16: (83, 25), 32: (94, 26), 64: (121, 33)}),
    "Q5_0": ({16: (124, 56), 32: (141, 59), 64: (171, 66)}, {16: (112, 52), 32: (123, 52), 64: (145, 57)}),
    "Q6_K": ({16: (124, 55), 32: (142, 59), 64: (171, 66)}, {16: (111, 51), 32: (123, 51), 64: (145, 57)}),
}


def products(loop):
    return sum(instruction.name.startswith("HMMA") for instruction in loop)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", BUDGET)
def test_a_unit_costs_no_more_than_it_did(name, gated):
    """With gelu(gate) * up behind the loop registers lie otherwise: some more moves on integer lanes."""
    from dgguf.backends.cuda.kernels import compile_cubin
    from dgguf.backends.cuda.matmul import kind_macros

    macros = kind_macros(layout(FORMATS_BY_NAME[name]), gated=gated)
    kernels = disassemble(compile_cubin("qgemm", macros, "sm_90"))
    for budget, wide in zip(BUDGET[name], ("", "_wide"), strict=True):
        halves, whole = sorted(matrix_loops(kernels["qgemm_32" + wide]), key=products)
        loops = {16: halves, 32: whole, 64: matrix_loops(kernels["qgemm_64" + wide])[0]}
        for tokens, (total, integer) in budget.items():
            found = issue(loops[tokens], tokens)
            assert found.total <= total, (tokens, wide, found)
            assert found.integer <= integer + 4 * gated, (tokens, wide, found)
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
