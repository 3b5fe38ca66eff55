"""Measure the CUDA backend on the full-size synthetic model: a step and its parts, prefill, GPU memory.

    python tools/bench/cuda_step.py [MODEL.gguf] [--type Q4_K_M] [--gpu-layers N] [--prompt-tokens 4096]

Without MODEL it writes the synthetic file of that type first (16.8 GB for Q4_K_M) into the current
folder, or uses the one that is there. What `dgguf bench --cuda` measures, and beside it the single
kernels: products of every shape of the model, with the bytes and operations they reach.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.benchmark import measure
from dgguf.loading import Gpu
from dgguf.session import Session
from tests.support.synthetic.vocabulary import full_vocabulary
from tests.support.synthetic.writer import FULL_SIZE, write_model


def products(session: Session, rows: int, repeats: int = 20) -> dict[str, dict[str, float]]:
    """Each kind of dense product of a layer and the head: microseconds, GB/s of weights, TFLOP/s."""
    from dgguf.backends.cuda.memory import upload

    backend, layer = session.backend, session.model.weights.layers[0]
    found = {}
    matrices = {
        name: getattr(layer, name) for name in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_down")
    }
    for name, w in {**matrices, "output": session.model.weights.output}.items():
        x = upload(np.random.default_rng(1).standard_normal((rows, w.columns), np.float32))
        backend.linear(x, w)
        backend.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            backend.linear(x, w)
        backend.synchronize()
        seconds = (time.perf_counter() - began) / repeats
        found[name] = {
            "us": 1e6 * seconds,
            "gb_per_s": 1e-9 * w.layout.matrix_bytes(w.rows, w.columns) / seconds,
            "tflops": 2e-12 * rows * w.rows * w.columns / seconds,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--gpu-layers", type=int)
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--prompt-tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    path = given.model or Path(f"synthetic-26b-{given.type}.gguf")
    if not path.exists():
        print(f"writing {path}", file=sys.stderr)
        write_model(path, FULL_SIZE, given.type, vocabulary=full_vocabulary())

    began = time.perf_counter()
    session = Session(path, context=given.prompt_tokens + 1024, gpu=Gpu(given.device, given.gpu_layers))
    loaded = time.perf_counter() - began
    print(session.backend.describe(), file=sys.stderr)
    from numba import cuda

    result = {
        "backend": session.backend.describe(),
        "load_seconds": loaded,
        **measure(
            session,
            prompt_tokens=given.prompt_tokens,
            steps=given.steps,
            progress=lambda line: print(line, file=sys.stderr),
        ),
        "products": products(session, session.config.canvas_length),
    }
    free, total = cuda.current_context().get_memory_info()
    result["gpu_bytes_in_use"] = int(total - free)
    result["file_bytes"] = session.file.n_bytes
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
