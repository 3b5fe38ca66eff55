"""Instructions of the ARM kernels, counted in the code that LLVM makes of them; no ARM is needed.

    python tools/bench/arm_counts.py                      # as for an Apple M2
    python tools/bench/arm_counts.py --cpu neoverse-n1

For each format: the loop that decodes panels, a weight; the loop of a whole tile, a product of a weight and
an activation; and the cycles that both need at least on a core with four vector pipes and three for memory.
"""

import argparse
import re
from collections import Counter

import llvmlite.binding as llvm
from llvmlite import ir

from dgguf.backends.cpu import qgemm_tile
from dgguf.backends.cpu.panels import PANEL_FORMATS
from dgguf.backends.cpu.unpack import PANEL_ROWS, emit_decoder
from dgguf.llvm_ir import I64

FORMATS = ("Q4_K", "Q6_K", "Q8_0", "Q4_0")
VECTOR_PIPES, MEMORY_PIPES, DECODED = 4, 3, 8  # of a performance core; instructions decoded a cycle


def assembly(cpu, n_arguments, write):
    """The code of a function of int64 arguments whose body `write` emits."""
    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu=cpu, opt=3)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * n_arguments), "code")
    builder = ir.IRBuilder(function.append_basic_block())
    write(builder, function.args)
    builder.ret_void()
    return machine.emit_assembly(llvm.parse_assembly(str(module)))


def longest_block(text):
    """The instructions between two labels, where they are most: the loop's body."""
    blocks = re.split(r"^\S+:.*$", text, flags=re.MULTILINE)
    found = [re.findall(r"^\t([a-z]\S*)\t?(.*)$", block, re.MULTILINE) for block in blocks]
    return max(found, key=len)


def kinds(instructions):
    """How many instructions use the vector pipes, those of memory, and neither."""
    counts = Counter()
    for name, operands in instructions:
        if name.startswith(("ld", "st", "prfm")):
            counts["memory"] += 1
        elif re.match(r"[vqsdhb]\d", operands):
            counts["vector"] += 1
        else:
            counts["other"] += 1
        counts["dot"] += name in ("sdot", "smmla", "usmmla")
        counts["spill"] += name.startswith(("ld", "st")) and "[sp" in operands
    return counts


def cycles(counts):
    """The least that a core can need."""
    total = counts["vector"] + counts["memory"] + counts["other"]
    return max(counts["vector"] / VECTOR_PIPES, counts["memory"] / MEMORY_PIPES, total / DECODED)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cpu", default="apple-m2", help="LLVM's name (default: apple-m2)")
    options = parser.parse_args()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    path = qgemm_tile.PATHS["neon"]
    products = path.rows * path.width * path.lanes * 32
    print(f"{'':6} {'decoder, a weight':>34}   {'tile, 1000 products':>40}")
    heads = ("vector", "memory", "other", "cycles", "dot", "vector", "memory", "spill", "cycles")
    print(f"{'':6} " + " ".join(f"{head:>7}" for head in heads))
    for name in FORMATS:
        form = PANEL_FORMATS[name]
        decoder = assembly(options.cpu, 6, lambda b, args, form=form: emit_decoder(b, "neon", form, args))
        bits = max(form.bits, qgemm_tile.LEAST_BITS["sdot"])

        def write(b, args, form=form, bits=bits):
            qgemm_tile.Tile(b, path, form.minimum, form.group, bits, path.rows, args).write()

        unpack, tile = kinds(longest_block(decoder)), kinds(longest_block(assembly(options.cpu, 10, write)))
        weights, thousands = form.block_size * PANEL_ROWS, products / 1000
        figures = [unpack[kind] / weights for kind in ("vector", "memory", "other")]
        figures += [cycles(unpack) / weights]
        figures += [tile[kind] / thousands for kind in ("dot", "vector", "memory", "spill")]
        print(f"{name:6} " + " ".join(f"{x:7.2f}" for x in [*figures, cycles(tile) / thousands]))


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
