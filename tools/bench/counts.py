"""Instructions of the product kernels, counted in the code that LLVM makes of them; no such CPU is needed.

    python tools/bench/counts.py                                    # neon, as for an Apple M2
    python tools/bench/counts.py neon --cpu neoverse-n1
    python tools/bench/counts.py avx_vnni                           # as for Intel's Alder Lake
    python tools/bench/counts.py avx2                               # Zen 3; and avx512_vnni: Zen 4

For each format: the loop that decodes panels, a weight; the loop of a whole tile, a product of a weight and
an activation; and the cycles that both need at least on a core with the pipes in `CORES`. On x86 dot
instructions are also those that add pairs, and "multiply" is all that needs a multiplier: they share them.
"""

import argparse
import re
from collections import Counter
from dataclasses import dataclass, replace

import llvmlite.binding as llvm
from llvmlite import ir

from dgguf.backends.cpu import qgemm_tile
from dgguf.backends.cpu.panels import PANEL_FORMATS
from dgguf.backends.cpu.unpack import PANEL_ROWS, emit_decoder
from dgguf.llvm_ir import I64, align_stack

FORMATS = ("Q4_K", "Q5_0", "Q6_K", "Q8_0", "Q4_0")
MOVES = r"v?p?(mov|broadcast)"
MULTIPLICATIONS = r"v?f?n?m(ul|add|la|aq)|vpm(add|ul)|vpdp|vpsign|sdot|smull"
DOTS = ("sdot", "smmla", "usmmla", "vpdpbusd", "vpmaddubsw")


@dataclass(frozen=True)
class Core:
    """What a core does in a cycle.

    Attributes:
        cpu: LLVM's name.
        triple: LLVM's target.
        vector, multiply, memory: pipes for vectors, of them with a multiplier, and for loads and stores.
        decoded: instructions.
    """

    cpu: str
    triple: str
    vector: int
    multiply: int
    memory: int
    decoded: int


# Performance cores. AVX-512 on Zen 4 is two halves, each on a pipe of its own.
CORES = {
    "neon": Core("apple-m2", "aarch64-unknown-linux-gnu", 4, 4, 3, 8),
    "avx_vnni": Core("alderlake", "x86_64-unknown-linux-gnu", 3, 2, 3, 6),
    "avx2": Core("znver3", "x86_64-unknown-linux-gnu", 4, 2, 3, 6),
    "avx512_vnni": Core("znver4", "x86_64-unknown-linux-gnu", 2, 1, 1, 6),
}


def assembly(core, n_arguments, write):
    """The code of a function of int64 arguments whose body `write` emits."""
    machine = llvm.Target.from_triple(core.triple).create_target_machine(cpu=core.cpu, opt=3)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * n_arguments), "code")
    builder = ir.IRBuilder(function.append_basic_block())
    write(builder, function.args)
    builder.ret_void()
    return machine.emit_assembly(llvm.parse_assembly(str(module)))


def longest_block(text):
    """The instructions between two labels, where they are most: the loop's body."""
    blocks = re.split(r"^\S+:.*$", text, flags=re.MULTILINE)
    found = [re.findall(r"^\t(?:{vex}\t)?([a-z]\S*)\t?(.*)$", block, re.MULTILINE) for block in blocks]
    return max(found, key=len)


def kinds(instructions):
    """How many instructions use the vector pipes, those of memory, and neither.

    On x86 one may use both; a load or a store of a whole vector uses those of memory alone.
    """
    counts = Counter()
    for name, operands in instructions:
        if "%" in operands:
            memory = "(" in operands and not name.startswith("lea")
            vector = re.search(r"%[xyz]mm", operands) and not (memory and re.match(MOVES, name))
        else:
            memory = name.startswith(("ld", "st", "prfm"))
            vector = not memory and re.match(r"[vqsdhb]\d", operands)
        counts["memory"] += bool(memory)
        counts["vector"] += bool(vector)
        counts["other"] += not memory and not vector
        counts["multiply"] += bool(vector and re.match(MULTIPLICATIONS, name))
        counts["dot"] += name in DOTS
        counts["spill"] += bool(memory) and ("[sp" in operands or "%rsp" in operands)
    return counts


def cycles(counts, core):
    """The least that a core can need."""
    total = counts["vector"] + counts["memory"] + counts["other"]
    return max(
        counts["vector"] / core.vector,
        counts["multiply"] / core.multiply,
        counts["memory"] / core.memory,
        total / core.decoded,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", nargs="?", choices=CORES, default="neon", help="CPU path (default: neon)")
    parser.add_argument("--cpu", help="LLVM's name of another CPU with these pipes")
    options = parser.parse_args()
    core, path = CORES[options.path], qgemm_tile.PATHS[options.path]
    core = replace(core, cpu=options.cpu or core.cpu)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    products = path.rows * path.width * path.lanes * 32
    print(f"{core.cpu}\n{'':6} {'decoder, a weight':>31}   {'tile, 1000 products':>48}")
    heads = ("vector", "memory", "other", "cycles", "dot", "multiply", "vector", "memory", "spill", "cycles")
    print(f"{'':6} " + " ".join(f"{head:>8}" for head in heads))
    for name in FORMATS:
        form = PANEL_FORMATS[name]
        decoder = assembly(core, 6, lambda b, args, form=form: emit_decoder(b, options.path, form, args))
        bits = max(form.bits, qgemm_tile.LEAST_BITS[path.dot])

        def write(b, args, form=form, bits=bits):
            align_stack(b)
            qgemm_tile.Tile(b, path, form.minimum, form.group, bits, path.rows, args).write()

        unpack, tile = kinds(longest_block(decoder)), kinds(longest_block(assembly(core, 10, write)))
        weights, thousands = form.block_size * PANEL_ROWS / 2, products / 1000
        figures = [unpack[kind] / weights for kind in ("vector", "memory", "other")]
        figures += [cycles(unpack, core) / weights]
        figures += [tile[kind] / thousands for kind in ("dot", "multiply", "vector", "memory", "spill")]
        print(f"{name:6} " + " ".join(f"{x:8.2f}" for x in [*figures, cycles(tile, core) / thousands]))


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
