"""Measure every kernel of a step of the full-size model on a GPU, without a model file, in under 6 minutes.

    python tools/bench/cuda_kernels.py [--out FILE.json] [--beside CHECKOUT] [--no-parity]
    python tools/bench/cuda_kernels.py --dry-run        # without a GPU: counts and modelled times alone

Nodes that do the same work are put into one graph, as often as they stand in the step, each with matrices
of its own, at least 20 of them; the best of 3 repetitions counts. Beside each stands what `gpu/model.py`
makes of it: which bound it has, and what share of its speed was reached. A layer and the whole step are
measured as graphs, too, and what VARIANTS and SCENES name. --beside measures another checkout in the same
call. The tests that need a GPU run at the end. Prints one JSON object; what it is doing goes to stderr.
"""

import argparse
import contextlib
import dataclasses
import importlib
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
COPIES, REPEATS = 20, 3
COMMITTED, ROWS = 2048, 256
# Ways to start the same step: attributes of modules of dgguf.backends.cuda that are set while it is noted.
# Only what differs then is measured. Whoever gives a kernel a choice adds a line here.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense products of 32 tokens": {"matmul.MANY_TOKENS": 32},
    "experts' products of 64 tokens": {"matmul.FEW_TOKENS": 8},
    "products of 64 rows a block": {"matmul.WIDE_BLOCKS": 1 << 30},
    "products whose columns no blocks divide": {"matmul.MOST_SPLITS": 1},
    "two blocks that stay on a multiprocessor": {"matmul.WIDE_RESIDENT": 2},
}
# Other passes: how many positions are committed, and rows; an encoder pass, or a step.
SCENES: dict[str, tuple[str, int, int]] = {
    "step of 128 rows": ("step", COMMITTED, 128),
    "step of 64 rows": ("step", COMMITTED, 64),
    "step behind 32,768 tokens": ("step", 32_768, ROWS),
    "encoding 1,024 tokens behind 1,024": ("encoding", 1024, 1024),
}
KEPT = (1, 32, 512)  # tokens of a row that a mean embedding is made of


class Clock:
    """Times graphs on a GPU."""

    def __init__(self, queue: Any, stream: Any) -> None:
        self._queue, self._stream = queue, stream

    def us(self, starts: list[Callable[[], None]]) -> float:
        """Microseconds of what these start, as one graph: the best of some repetitions."""
        from numba import cuda

        self._queue.record(lambda: [start() for start in starts])
        self._queue.repeat()
        times = []
        for _ in range(REPEATS):
            began, ended = cuda.event(), cuda.event()
            began.record(self._stream)
            self._queue.repeat()
            ended.record(self._stream)
            ended.synchronize()
            times.append(1e3 * cuda.event_elapsed_time(began, ended))
        return min(times)


class NoClock(Clock):
    """Walks through the same graphs where nothing can be timed."""

    def us(self, starts: list[Callable[[], None]]) -> float:
        assert starts
        return 0.0


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr)


class Bench:
    """All that is measured; `network` is the model, `clock` times graphs."""

    def __init__(self, network: Any, clock: Clock, card: Any) -> None:
        self.network, self.clock, self.card = network, clock, card
        self.known: dict[Any, float] = {}

    def graphs(self, nodes: list[Any]) -> dict[Any, list[Any]]:
        """The nodes by what they do, in the order of the step."""
        found: defaultdict[Any, list[Any]] = defaultdict(list)
        for node in nodes:
            found[node.signature].append(node)
        return found

    def time(self, nodes: list[Any]) -> float:
        """Microseconds of one of some nodes that do the same work; what was timed once is known."""
        signature = nodes[0].signature
        if signature not in self.known:
            some = (nodes * -(-COPIES // len(nodes)))[: max(COPIES, len(nodes))]
            self.known[signature] = self.clock.us([node.start for node in some]) / len(some)
        return self.known[signature]

    def kernels(self, nodes: list[Any]) -> list[dict[str, Any]]:
        """A row for each kind of node, the longest in all first."""
        from tools.bench.gpu.model import work

        rows = []
        for same in self.graphs(nodes).values():
            node, us = same[0], self.time(same)
            one = work(node, self.card)
            rows.append(
                {
                    "kernel": node.name,
                    "part": one.part,
                    "formats": sorted({w.tensor.format.name for w in node.matrices}),
                    "shapes": [(w.stack, w.rows, w.columns) for w in node.matrices],
                    "grid": node.grid,
                    "nodes": len(same),
                    "us": us,
                    "modelled_us": one.us,
                    "bound": one.bound,
                    "share_of_model": one.us / us if us else None,
                    "gb_per_s": 1e-3 * (one.dram_bytes or one.l2_bytes) / us if us else None,
                    "tflops": 1e-6 * one.operations / us if us else None,
                }
            )
        return sorted(rows, key=lambda row: -row["nodes"] * (row["us"] or row["modelled_us"]))

    def scene(self, nodes: list[Any]) -> dict[str, Any]:
        """A pass: its parts, the sum of its nodes, and all of them as one graph."""
        from tools.bench.gpu.model import parts

        modelled = parts(nodes, self.card)
        rows = self.kernels(nodes)
        measured = Counter[str]()
        for row in rows:
            measured[row["part"]] += 1e-3 * row["nodes"] * row["us"]
        for part, ms in measured.items() if self.network.queue.starts else ():
            modelled[part]["measured_ms"] = ms
        return {
            "nodes": len(nodes),
            "modelled_ms": sum(part["ms"] for part in modelled.values()),
            "sum_of_nodes_ms": sum(measured.values()),
            "graph_ms": 1e-3 * self.clock.us([node.start for node in nodes]),
            "parts": modelled,
            "kernels": rows,
        }

    def variants(self, base: list[Any]) -> dict[str, Any]:
        """What each of VARIANTS starts in place of other nodes, with the sum of both."""
        found = {}
        for name, settings in VARIANTS.items():
            if not all(map(has_choice, settings)):
                continue  # a checkout beside this one
            say(f"variant: {name}")
            with patched(settings):
                nodes = self.network.step(COMMITTED, ROWS)
            old, new = (self.graphs(some) for some in (base, nodes))
            # What is measured of the base is known by now; arrays of another noting are gone.
            sums = {
                "before": sum(len(old[s]) * self.known[s] for s in old.keys() - new.keys()),
                "after": sum(len(new[s]) * self.time(new[s]) for s in new.keys() - old.keys()),
            }
            rows = self.kernels([node for node in nodes if node.signature not in old])
            found[name] = {"us": sums, "kernels": rows}
        return found

    def soft_embeddings(self, nodes: list[Any]) -> dict[int, float]:
        """Microseconds of the nodes that make a mean embedding, by how many tokens each row keeps."""
        import numpy as np

        from tools.bench.gpu.nodes import VOCABULARY

        reading = self.network.backend._reading
        rng = np.random.default_rng(1)
        found = {}
        for kept in KEPT:
            if self.network.queue.starts:
                n, most = reading.tokens.shape
                reading.tokens.view.copy_to_device(rng.integers(0, VOCABULARY, (n, most)).astype(np.int32))
                reading.weights.view.copy_to_device(np.ones((n, most), np.float32))
                reading.counts.view.copy_to_device(np.full(n, kept, np.int32))
            mine = [node for node in nodes if node.name.startswith("soft_embed")]
            found[kept] = self.clock.us([node.start for node in mine * COPIES]) / COPIES
        return found

    def skewed_routing(self, nodes: list[Any]) -> float:
        """Microseconds of a layer's experts where few experts get most rows."""
        import numpy as np

        first, end = [i for i, node in enumerate(nodes) if node.name == "choose_experts"][:2]
        layer = [node for node in nodes[first:end] if node.matrices and node.matrices[0].stack > 1]
        if self.network.queue.starts:
            from dgguf.backends.cuda import experts
            from dgguf.backends.cuda.memory import upload

            chosen, _, row_of, slot_of, tiles = (array.view for array in nodes[first].arguments[3:8])
            n_experts, (rows, used) = layer[0].matrices[0].stack, chosen.shape
            weights = 1 / (1 + np.arange(n_experts))
            rng = np.random.default_rng(1)
            skewed = [rng.choice(n_experts, used, False, weights / weights.sum()) for _ in range(rows)]
            chosen.copy_to_device(np.array(skewed, np.int32))
            matrix_of, height = (
                upload(np.zeros(rows * used, np.int32)),
                experts.tile_height(rows * used, n_experts),
            )
            outputs = row_of, matrix_of.view, slot_of, tiles
            self.network.queue.run(experts.group_rows, n_experts, chosen, *outputs, height)
        return self.clock.us([node.start for node in layer * COPIES]) / COPIES

    def errors(self, nodes: list[Any]) -> list[dict[str, Any]]:
        """The largest error of each kind of product against float64, of a few rows; None without a GPU."""
        from tools.bench.gpu.errors import largest_error

        products = [same[0] for same in self.graphs(nodes).values() if same[0].module == "qgemm"]
        starts = self.network.queue.starts
        return [
            {
                "kernel": node.name,
                "formats": sorted({w.tensor.format.name for w in node.matrices}),
                "shapes": [(w.stack, w.rows, w.columns) for w in node.matrices],
                "largest_error": largest_error(node, self.network.queue) if starts else None,
            }
            for node in products
        ]

    def routing(self, nodes: list[Any]) -> list[list[int]]:
        """How many rows each expert of each layer got in the step; nothing without a GPU."""
        from tools.bench.gpu.errors import rows_of_experts

        if not self.network.queue.starts:
            return []
        listed = {
            id(node.arguments[8]): (node.arguments[8], node.matrices[0].stack)
            for node in nodes
            if node.module == "qgemm" and node.arguments[8] is not None
        }
        return [rows_of_experts(*tiles).tolist() for tiles in listed.values()]

    def layer(self, nodes: list[Any]) -> dict[str, float]:
        """A sliding layer as a graph against the sum of its nodes: what the gaps take."""
        starts = [i for i, node in enumerate(nodes) if node.name == "attention"]
        one = nodes[starts[0] : starts[1]]
        graph = self.clock.us([node.start for node in one * COPIES]) / COPIES
        return {"nodes": len(one), "graph_us": graph, "sum_us": sum(self.time([node]) for node in one)}


def has_choice(name: str) -> bool:
    """Whether dgguf.backends.cuda has such an attribute of a module."""
    module, attribute = name.split(".")
    return hasattr(importlib.import_module(f"dgguf.backends.cuda.{module}"), attribute)


@contextlib.contextmanager
def patched(settings: dict[str, Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(mock.patch(f"dgguf.backends.cuda.{name}", value))
        yield


def machine(device: Any) -> dict[str, Any]:
    """The GPU: what it is, how fast it copies, and what an empty kernel takes in a graph."""
    from numba import cuda

    from dgguf.backends.cuda.memory import allocate

    gpu = cuda.get_current_device()
    n_bytes = 1 << 30
    a, b = allocate(n_bytes), allocate(n_bytes)
    times = []
    for _ in range(REPEATS + 1):
        began, ended = cuda.event(), cuda.event()
        began.record(device.stream)
        b.copy_to_device(a, stream=device.stream)
        ended.record(device.stream)
        ended.synchronize()
        times.append(cuda.event_elapsed_time(began, ended))
    return {
        "gpu": device.describe(),
        "multiprocessors": gpu.MULTIPROCESSOR_COUNT,
        "copied_gb_per_s": 2e-6 * n_bytes / min(times),
    }


def clocks() -> str | None:
    """What nvidia-smi says of the clocks; call it while the GPU works."""
    asked = "--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu"
    try:
        found = subprocess.run(
            ["nvidia-smi", asked, "--format=csv"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def measure(network: Any, clock: Clock, card: Any) -> dict[str, Any]:
    """Everything of one checkout."""
    bench = Bench(network, clock, card)
    say("noting a step, which compiles its kernels")
    nodes = network.step(COMMITTED, ROWS)
    say(f"measuring {len(bench.graphs(nodes))} kinds of its {len(nodes)} nodes")
    found = {
        "step": bench.scene(nodes),
        "layer": bench.layer(nodes),
        "errors_of_products": bench.errors(nodes),
        "rows_of_experts": bench.routing(nodes),
        "us_of_soft_embedding_by_tokens_kept": bench.soft_embeddings(nodes),
        "us_of_experts_routed_unevenly": bench.skewed_routing(nodes),
        "variants": bench.variants(nodes),
        "scenes": {},
    }
    for name, (kind, committed, rows) in SCENES.items():
        say(name)
        found["scenes"][name] = bench.scene(getattr(network, kind)(committed, rows))
    return found


def empty_node_us(network: Any, clock: Clock) -> float:
    """Microseconds of a node that does nothing, in a graph of 1,000."""
    from tools.bench.gpu.nodes import nothing

    return clock.us([lambda: network.queue.run(nothing, 1)] * 1000) / 1000


def run(options: argparse.Namespace) -> dict[str, Any]:
    from dgguf.errors import BackendError
    from tools.bench.gpu import nodes as gpu_nodes
    from tools.bench.gpu.model import CARDS

    card = CARDS[options.card]
    if options.dry_run:
        with gpu_nodes.no_gpu() as device:
            network = gpu_nodes.Network(device, starts=False)
            clock = NoClock(network.queue, None)
            empty_node_us(network, clock)
            return {"modelled": options.card, **measure(network, clock, card)}
    from dgguf.backends.cuda.device import Device

    try:
        device = Device(options.device)
    except BackendError as error:
        sys.exit(f"{error}; --dry-run counts and models without one")
    found = machine(device)
    say(found["gpu"])
    card = dataclasses.replace(card, arch=device.arch, sms=found["multiprocessors"])
    network = gpu_nodes.Network(device, starts=True)
    clock = Clock(network.queue, device.stream)
    found["empty_node_us"] = empty_node_us(network, clock)
    found |= measure(network, clock, card)
    network.queue.repeat()
    found["clocks"] = clocks()
    return found


def other(checkout: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The same of another checkout, in a process of its own."""
    say(f"the same of {checkout}")
    command = [sys.executable, __file__, "--no-parity", "--tree", checkout, "--card", options.card]
    if options.dry_run:
        command.append("--dry-run")
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = (
        json.loads(found.stdout) if found.returncode == 0 else {"failed": found.returncode}
    )
    return result


def parity() -> dict[str, Any]:
    """The tests that need a GPU."""
    say("pytest -m gpu")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/cuda"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return {"exit_code": found.returncode, "ends_with": found.stdout[-2000:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="measure this one, too")
    parser.add_argument("--tree", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--card", choices=("H100", "H200"), default="H200", help="what the model assumes")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: walk through all of it")
    parser.add_argument("--no-parity", action="store_true", help="leave out the tests that need a GPU")
    options = parser.parse_args()
    sys.path[:0] = [str(options.tree.resolve()), str(ROOT)]
    import dgguf  # of the one checkout; the tools and tests are of this one

    assert Path(dgguf.__file__).parents[1] == options.tree.resolve()
    del sys.path[0]
    found = run(options)
    if options.beside:
        found["beside"] = other(options.beside, options)
    if not options.no_parity and not options.dry_run:
        found["parity"] = parity()
    text = json.dumps(found, indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
