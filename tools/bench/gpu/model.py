"""How long a GPU should take for the kernels of a pass: instructions, bytes and latencies, without measuring.

What is assumed is in `Card` and the tables below. It says where time goes and what a change is worth before a
GPU is at hand; measured times stand beside it in what `tools/bench/cuda_kernels.py` prints.
"""

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dgguf.backends.base import Role
from dgguf.backends.cuda.attention import Shape
from dgguf.backends.cuda.kernels import compile_cubin
from dgguf.backends.cuda.layout import UNIT_COLUMNS, UNIT_ROWS
from dgguf.backends.cuda.matmul import QGEMM_WARPS
from tests.cuda import sass
from tools.bench.gpu.nodes import Node, view_of


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        arch: for which kernels are compiled.
        sms: its multiprocessors.
        ghz: clock under load.
        dram, l2: GB/s that kernels reach.
        l2_bytes: that the second cache holds.
        reached: share of their instructions' bound that kernels reach.
        memory: cycles from a load to its bytes.
        small_us: of a small kernel, with the gap before the next.
    """

    arch: str
    sms: int
    ghz: float
    dram: float
    l2: float
    l2_bytes: float = 50e6
    reached: float = 0.65
    memory: float = 850
    small_us: float = 4.4

    @property
    def cycles_a_us(self) -> float:
        """Of all schedulers together, four a multiprocessor."""
        return 4 * self.sms * self.ghz * 1e3


CARDS = {
    "H100": Card("sm_90", 132, 1.65, 3000, 5500),
    "H200": Card("sm_90", 132, 1.65, 4350, 5500),
}

# Cycles of a scheduler for an instruction: integer lanes take two for a warp's; the tensor cores' m16n8k16
# at what mma.sync reaches of their peak on Hopper; ldmatrix.x4, of which four schedulers share a unit.
ALU_CYCLES, HMMA_CYCLES, LDSM_CYCLES = 2.0, 6.4, 16.0
# Of attention.cu, cycles of a warp for a tile of keys that no stall of an instruction tells: two barriers,
# the first loads from shared memory behind each, shuffles, and powers of two.
ATTENTION_WAITS = 400
PRODUCT_WAITS = (
    100  # of a product, for a chunk of 64 columns: a barrier, and loads from shared memory behind it
)
L2_BYTES_A_CYCLE = 64  # of one multiprocessor
# Instructions of an inner loop, for how many items of what the arrays hold; counted in SASS.
ROUTER_INSTRUCTIONS, SOFT_INSTRUCTIONS = 811 / 512, 259 / 16
KEPT_TOKENS = 400  # of a row, by random weights
SPREAD = 1.15  # tiles of experts that a router with random weights makes, of those that even shares would

PRODUCTS = {
    Role.EXPERTS: "experts' products",
    Role.ATTENTION: "attention projections",
    Role.MLP: "dense MLP",
    Role.SELF_CONDITIONING: "self-conditioning",
    Role.EMBEDDING: "head product",
    Role.HEAD: "head product",
}


def part_of(node: Node) -> str:
    """Which part of a pass a kernel belongs to."""
    if node.module == "qgemm":
        return PRODUCTS.get(node.matrices[0].tensor.role, "other products")
    if node.module == "attention" and node.name == "attention":
        return "attention"
    if node.name.startswith("router"):
        return "router's scores"
    if node.name.startswith("soft_embed"):
        return "soft embedding"
    return "sampling" if node.module in ("logits", "sampling") else "small kernels"


@dataclass(frozen=True)
class Work:
    """What a kernel has to do.

    Attributes:
        part: of the pass.
        dram_bytes, l2_bytes: that it moves, at least.
        operations: multiplications and additions of products with weights.
        us: modelled time.
        bound: by what.
    """

    part: str
    dram_bytes: float
    l2_bytes: float
    operations: float
    us: float
    bound: str


@functools.cache
def issue(macros: tuple[tuple[str, int], ...], name: str, arch: str) -> dict[int, sass.Issue]:
    """What a warp of a product issues for a unit, by the tokens of its tile; empty without a disassembler."""
    if sass.nvdisasm() is None:
        return {}
    loops = sass.matrix_loops(sass.disassemble(compile_cubin("qgemm", macros, arch))[name])
    sizes = [sum(i.name.startswith("HMMA") for i in loop) for loop in loops]
    tokens = [tokens_of(name) * size // max(sizes) for size in sizes]
    return {n: sass.issue(loop, n) for n, loop in zip(tokens, loops, strict=True)}


def tokens_of(name: str) -> int:
    """Tokens of a tile of a kernel in qgemm.cu."""
    found = re.search(r"_(\d+)(_wide)?$", name)
    assert found is not None, name
    return int(found[1])


@functools.cache
def tiles(tokens: int, stack: int, heights: tuple[int, ...]) -> dict[int, float]:
    """How many tiles of each height serve so many tokens, spread evenly over a stack or all for one matrix.

    The last tile of an expert has the least height that holds it.
    """
    heights = tuple(sorted(heights))
    if stack == 1:
        return {heights[-1]: math.ceil(tokens / heights[-1])}
    counts = np.random.default_rng(1).multinomial(tokens, np.full(stack, 1 / stack), 100)
    found: Counter[int] = Counter({heights[-1]: int((counts // heights[-1]).sum())})
    for left in (counts % heights[-1]).ravel().tolist():
        if left:
            found[next(height for height in heights if left <= height)] += 1
    return {height: SPREAD * n / len(counts) for height, n in found.items()}


def _product(node: Node, card: Card) -> Work:
    w, counts = node.matrices[0], issue(node.macros, node.name, card.arch)
    tokens = int(node.arguments[12].value)  # of out
    height, chunks = tokens_of(node.name), math.ceil(w.columns / UNIT_COLUMNS)
    row_blocks, n_tiles = math.ceil(w.rows / UNIT_ROWS), tiles(tokens, w.stack, tuple(counts) or (height,))
    wide = node.name.endswith("wide")
    stays = node.name == "qgemm_32_wide" and len(node.arguments) > 17  # of a checkout beside this perhaps not
    blocks_of_rows = math.ceil(row_blocks / QGEMM_WARPS / (2 if wide else 1))
    splits = int(node.arguments[21].value) if len(node.arguments) > 21 else 1
    unit_bytes = w.layout.code_bytes + w.layout.scale_bytes
    units = {tokens: n * row_blocks * chunks for tokens, n in n_tiles.items()}
    weights = w.stack * row_blocks * chunks * unit_bytes
    # Blocks run with x first: a matrix beyond the cache comes again for every tile of tokens, if rows are x.
    rows_first = not stays and node.grid[0] == blocks_of_rows * splits and weights > card.l2_bytes
    dram = weights * (sum(n_tiles.values()) if w.stack == 1 and rows_first else 1)
    inputs = (
        tokens * blocks_of_rows * chunks * 2 * UNIT_COLUMNS
    )  # rows that a tile does not have are not read
    out = view_of(node.arguments[9])
    l2 = sum(units.values()) * unit_bytes + inputs + math.prod(out.shape) * out.dtype.itemsize
    resident = (4 if wide else 6) if height <= 32 else 2 if wide else 4
    blocks = sum(n_tiles.values()) * blocks_of_rows * splits
    # Blocks behind each other, each of whose first loads is waited for; or one that stays, of so many strips.
    waves = 1 if stays else math.ceil(blocks / (card.sms * resident))
    strips = math.ceil(blocks / node.grid[0]) if stays else 1
    bounds = {
        "DRAM": 1e-3 * dram / card.dram,
        "L2": 1e-3 * l2 / card.l2,
    }
    if counts:
        # A block has a chunk less on its way than a pass of the loop takes.
        tallest, units_at_once = counts[max(counts)], 2 if wide else 1
        ahead = max(1, tallest.units / units_at_once - 1)
        chunk = max(tallest.path * units_at_once + PRODUCT_WAITS, card.memory / ahead)
        bounds["latency"] = (
            waves * (card.memory + strips * math.ceil(chunks / splits) * chunk) / card.ghz * 1e-3
        )
        cycles: Counter[str] = Counter()
        for tokens_of_tile, n in units.items():
            one = counts[tokens_of_tile]
            cycles["issue"] += n * one.total
            cycles["ALU"] += n * ALU_CYCLES * one.integer
            cycles["tensor cores"] += n * HMMA_CYCLES * one.kinds.get("HMMA", 0)
            cycles["shared memory"] += n * LDSM_CYCLES * one.kinds.get("LDSM", 0)
        bounds |= {bound: n / card.cycles_a_us / card.reached for bound, n in cycles.items()}
    bound = max(bounds, key=lambda name: bounds[name])
    operations = 2.0 * tokens * w.rows * w.columns
    return Work(part_of(node), dram, l2, operations, bounds[bound], bound)


@functools.cache
def turn(macros: tuple[tuple[str, int], ...], arch: str) -> sass.Turn | None:
    """What a warp of attention.cu does for a tile of keys; None without a disassembler."""
    if sass.nvdisasm() is None:
        return None
    return sass.turn(sass.disassemble(compile_cubin("attention", macros, arch))["attention"])


def _attention(node: Node, card: Card) -> Work:
    keys, runs, tiles = (view_of(node.arguments[i]) for i in (1, 4, 5))
    runs, tiles = (np.asarray(a.copy_to_host() if hasattr(a, "copy_to_host") else a) for a in (runs, tiles))
    shape = Shape(*dict(node.macros).values())
    group, splits = (int(node.arguments[i].value) for i in (11, 13))
    first, end = runs[:, tiles[:, 0] // group, 0], runs[:, (tiles[:, 1] - 1) // group, 1]
    # Turns of a block: of all, and of the one that has most.
    turns = np.maximum(0, -(-(end - first) // shape.keys)).sum(axis=0) / splits
    longest = math.ceil(turns.max())
    blocks = node.grid[0] * node.grid[1]
    on_one = max(longest, float(turns.mean()) * blocks / card.sms)  # turns of a multiprocessor
    a_turn = 2.0 * 2 * shape.keys * shape.head_dim  # bytes
    found = 4.0 * shape.found_numbers * (splits > 1)
    l2 = blocks * (float(turns.mean()) * a_turn + 2 * found)
    dram = 2.0 * 2 * keys.shape[0] * keys.shape[2] * int(runs[:, :, 1].max() - runs[0, :, 0].min())
    # The block that is done last reads what all have left.
    last_us = found * splits / L2_BYTES_A_CYCLE / card.ghz * 1e-3
    bounds = {"DRAM": 1e-3 * dram / card.dram, "L2": 1e-3 * l2 / card.l2}
    if one := turn(node.macros, card.arch):
        resident = 256 // shape.threads
        at_once = min(resident, math.ceil(blocks / card.sms))
        us = 1e-3 / card.ghz
        bounds["latency"] = us * on_one / at_once * (one.path + ATTENTION_WAITS) + last_us
        cycles = {
            "issue": one.total,
            "ALU": ALU_CYCLES * one.integer,
            "tensor cores": HMMA_CYCLES * one.products,
            "shared memory": LDSM_CYCLES * one.shared,
        }
        for name, n in cycles.items():  # of a warp; a scheduler has a fourth of a block's
            bounds[name] = us * on_one * shape.threads / 128 * n / card.reached + last_us
    bound = max(bounds, key=lambda name: bounds[name])
    return Work("attention", dram, l2, 0, bounds[bound], bound)


def work(node: Node, card: Card) -> Work:
    """What a kernel has to do, and how long that should take."""
    if node.module == "qgemm":
        return _product(node, card)
    if node.module == "attention" and node.name == "attention":
        return _attention(node, card)
    n_bytes = float(node.array_bytes)
    large = sum(
        math.prod(a.shape) * a.dtype.itemsize
        for a in map(view_of, node.arguments)
        if hasattr(a, "dtype")
        and math.prod(a.shape) * a.dtype.itemsize > card.l2_bytes / 2
        and not node.matrices
    )
    bounds = {"start": card.small_us, "L2": 1e-3 * n_bytes / card.l2}
    bounds["DRAM"] = 1e-3 * large / card.dram
    first = next((a.shape for a in map(view_of, node.arguments) if len(getattr(a, "shape", ())) > 1), (0, 0))
    instructions = 0.0
    if node.name == "router_scores":
        x, _, w = (view_of(a).shape for a in node.arguments[:3])
        instructions = ROUTER_INSTRUCTIONS * x[0] * w[0] * w[1] / 32
    elif node.name == "soft_embed":
        instructions = SOFT_INSTRUCTIONS * first[0] * KEPT_TOKENS * node.matrices[0].columns / 32
    bounds["issue"] = instructions / card.cycles_a_us / card.reached
    bound = max(bounds, key=lambda name: bounds[name])
    return Work(part_of(node), float(large), n_bytes, 0, bounds[bound], bound)


def parts(nodes: Iterable[Node], card: Card) -> dict[str, dict[str, float]]:
    """Of each part of a pass: nodes, GB through DRAM and L2, and modelled ms, the longest first."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for node in nodes:
        one = work(node, card)
        found[one.part].update(
            nodes=1, dram_gb=1e-9 * one.dram_bytes, l2_gb=1e-9 * one.l2_bytes, ms=1e-3 * one.us
        )
    return {part: dict(found[part]) for part in sorted(found, key=lambda part: -found[part]["ms"])}
