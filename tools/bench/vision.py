"""How long the vision tower takes for an image, beside BLAS's time for its products alone, and its memory.

python tools/synthetic/make_model.py mmproj.gguf --tower
python tools/bench/vision.py mmproj.gguf [--budget 280] [--rounds 3] [--threads 2]

Both run in turns, as other programs may run on the machine; the ratio is that of the least times. BLAS
multiplies float32 copies of one layer's matrices, as many times as there are layers.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from threadpoolctl import threadpool_limits  # noqa: E402

from dgguf.backends.cpu import CpuBackend  # noqa: E402
from dgguf.ggufio.file import GgufFile  # noqa: E402
from dgguf.images import BUDGETS, read_image  # noqa: E402
from dgguf.model.mmproj import VisionConfig, load_vision  # noqa: E402
from dgguf.model.vision import VisionTower  # noqa: E402


def memory():
    """Megabytes of this process that no file backs: now, and the resident most of all so far."""
    status = Path("/proc/self/status").read_text()
    return {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in status.splitlines() if "kB" in line}


def blas_seconds(config, n_patches, rng):
    """All products of the layers, in float32."""
    d, f = config.hidden_size, config.ff_size
    x, y = rng.standard_normal((n_patches, d), np.float32), rng.standard_normal((n_patches, f), np.float32)
    narrow, wide = rng.standard_normal((d, d), np.float32), rng.standard_normal((f, d), np.float32)
    began = time.perf_counter()
    for _ in range(config.n_layers):
        for _ in range(4):
            x @ narrow.T
        for _ in range(2):
            x @ wide.T
        y @ wide
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mmproj", type=Path)
    parser.add_argument("--budget", type=int, choices=BUDGETS, default=280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    image = read_image(rng.integers(0, 256, (700, 800, 3), np.uint8), options.budget)
    tower_times, blas_times = [], []
    with GgufFile(options.mmproj) as file:
        config = VisionConfig.from_file(file)
        backend = CpuBackend(options.threads)
        tower = VisionTower(config, load_vision(file, config, backend), backend)
        tower.encode(read_image(rng.integers(0, 256, (48, 480, 3), np.uint8), 70))  # compiles
        before = memory()["RssAnon"]
        for _ in range(options.rounds):
            began = time.perf_counter()
            tower.encode(image)
            tower_times.append(time.perf_counter() - began)
            if len(tower_times) == 1:
                most = memory()["VmHWM"] - memory()["RssFile"] - before
                print(f"memory beside the maps: {most:.0f} MB at most, {before:.0f} MB before")
            with threadpool_limits(backend.threads):
                blas_times.append(blas_seconds(config, 9 * image.n_tokens, rng))
            print(f"{tower_times[-1]:.2f} s, products by BLAS {blas_times[-1]:.2f} s", flush=True)
    print(
        f"{image.n_tokens} rows, {backend.threads} threads: {min(tower_times):.2f} s, "
        f"{min(tower_times) / min(blas_times):.2f} times BLAS's products"
    )


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
