"""Compiled kernels taken apart: which instructions an inner loop issues, without a GPU.

Needs NVIDIA's disassembler: pip install nvidia-cuda-nvdisasm
"""

import functools
import importlib.metadata
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# What runs on a multiprocessor's integer lanes, which need two cycles for a warp's instruction.
INTEGER = re.compile(
    "LOP3|PLOP3|SHF|LEA|IADD3?|PRMT|MOV|SEL|ISETP|IMNMX|VIMNMX3?|VIADD|FMNMX|FSEL|FSETP|IABS|POPC|CS2R|R2P|P2R"
)


# Budgets of instructions and registers are what this compiler needed; others may take some more or less.
COMPILER = "13.5."


def is_the_compiler_of_budgets():
    try:
        return importlib.metadata.version("nvidia-cuda-nvrtc").startswith(COMPILER)
    except importlib.metadata.PackageNotFoundError:
        return False


@functools.cache
def nvdisasm():
    """The path of NVIDIA's disassembler; None if it is not installed."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(f.locate()) for f in files if f.stem == "nvdisasm" and "bin" in f.parts), None)


@dataclass(frozen=True)
class Instruction:
    """One of a kernel.

    Attributes:
        name: such as "HMMA.16816.F32".
        target: number of the instruction that it may jump to, or None.
        stall: cycles until its warp may issue the next one, as the compiler says, but for waits for memory.
    """

    name: str
    target: int | None
    stall: int = 1


def disassemble(cubin):
    """The instructions of each kernel in a cubin: {name: [Instruction]}."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        text = subprocess.run(
            [nvdisasm(), "-c", "-hex", path], capture_output=True, text=True, check=True
        ).stdout
    kernels, labels, name = {}, {}, None
    for line in text.splitlines():
        if found := re.match(r"\s*\.text\.(\w+):", line):
            name = found[1]
            kernels[name] = []
        elif found := re.match(r"(\.L_\w+):", line):
            labels[found[1]] = len(kernels.get(name, ()))
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)([^;]*);", line):
            label = re.search(r"\.L_\w+", found[2]) if found[1].startswith("BRA") else None
            kernels[name].append([found[1], label and label[0], 1])
        elif found := re.match(r"\s+/\* 0x([0-9a-f]{16}) \*/", line):  # the upper half of its code
            kernels[name][-1][2] = max(1, int(found[1], 16) >> 41 & 15)
    return {
        name: [Instruction(opcode, labels.get(label), stall) for opcode, label, stall in lines]
        for name, lines in kernels.items()
    }


def matrix_loops(instructions):
    """The innermost loops with products of matrices, each as a list of its instructions."""
    ranges = [
        (at.target, place + 1)
        for place, at in enumerate(instructions)
        if at.target is not None and at.target <= place
    ]
    ranges = [(a, b) for a, b in ranges if any(i.name.startswith("HMMA") for i in instructions[a:b])]
    inner = [r for r in set(ranges) if not any(r != s and r[0] <= s[0] and s[1] <= r[1] for s in ranges)]
    return [instructions[a:b] for a, b in sorted(inner)]


@dataclass(frozen=True)
class Issue:
    """What a warp issues for one pass over a unit of 16 x 64 weights.

    Attributes:
        total: instructions.
        integer: those of them on the integer lanes.
        kinds: all, by the first part of the name, such as "HMMA".
        path: cycles of a warp that is alone and waits for nothing: the sum of its stalls.
        units: that a pass of the loop takes.
    """

    total: float
    integer: float
    kinds: dict[str, float]
    path: float
    units: float


def issue(loop, tokens):
    """The `Issue` of a loop of qgemm.cu whose tile has so many tokens.

    How many units a pass of the loop takes follows from its products, each of 16 rows, 8 tokens and 16
    columns, or 8 columns before sm_80.
    """
    names = [instruction.name for instruction in loop]
    columns = sum(16 if "16816" in name else 8 for name in names if name.startswith("HMMA"))
    units = columns / (64 * tokens / 8)
    counts = Counter(name.split(".")[0] for name in names)
    integer = sum(n for name, n in counts.items() if INTEGER.fullmatch(name)) / units
    path = sum(instruction.stall for instruction in loop) / units
    return Issue(
        len(names) / units, integer, {name: n / units for name, n in counts.most_common()}, path, units
    )


@dataclass(frozen=True)
class Turn:
    """What a warp of attention.cu does for one tile of keys, with all that it may skip.

    Attributes:
        total, integer, products: instructions, those on the integer lanes, and those of the tensor cores.
        shared: 16-byte accesses of all lanes to shared memory, copies from global memory among them.
        path: cycles of a warp that is alone and waits for nothing: the sum of its stalls.
    """

    total: int
    integer: int
    products: int
    shared: int
    path: int


def turn(instructions):
    """The `Turn` of the loop of attention.cu."""
    (loop,) = matrix_loops(instructions)
    names = [instruction.name for instruction in loop]
    counts = Counter(name.split(".")[0] for name in names)
    wide = sum(name.startswith(("LDSM", "LDGSTS")) or name in ("LDS.128", "STS.128") for name in names)
    return Turn(
        len(names),
        sum(n for name, n in counts.items() if INTEGER.fullmatch(name)),
        counts["HMMA"],
        wide,
        sum(instruction.stall for instruction in loop),
    )
