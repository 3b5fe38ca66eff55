"""Compare a denoising step of dgguf with one of llama.cpp's DiffusionGemma branch, on the same file.

    python tools/bench/llama_cpp.py MODEL.gguf --build LLAMA_CPP/build [--threads N] [--repeats 3]

Both programs run in turn, so that both meet the same machine. llama.cpp's step is the time of a run
with many steps minus one with few, over the difference: no output of it is parsed, and loading and
the prompt cancel out. `--llama-args` replaces its arguments where a branch names them otherwise;
{steps}, {threads} and {model} are filled in.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

FEW, MANY = 1, 4
LLAMA_ARGS = '-m {model} -t {threads} -p "Why is the sky blue?" -n 256 -ub 512 --diffusion-steps {steps}'


def llama_seconds(program: Path, arguments: str, **values: object) -> float:
    """Wall time of a run."""
    command = [str(program), *(part.format(**values) for part in shlex.split(arguments))]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def dgguf_step(model: str, threads: int) -> float:
    """Seconds of a step, by `dgguf bench`."""
    command = [sys.executable, "-m", "dgguf", "bench", model, "--steps", str(MANY - FEW), "--json"]
    done = subprocess.run([*command, "-t", str(threads)], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["ms_per_step"]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a denoising step of dgguf and of llama.cpp, in turn.")
    parser.add_argument("model", metavar="MODEL.gguf")
    parser.add_argument("--build", type=Path, required=True, help="llama.cpp's build directory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--llama-args", default=LLAMA_ARGS)
    options = parser.parse_args()
    program = options.build / "bin" / "llama-diffusion-cli"
    if not program.is_file():
        sys.exit(f"{program} is missing: build llama.cpp's target llama-diffusion-cli")

    ours, theirs = [], []
    for turn in range(options.repeats):
        few, many = (
            llama_seconds(
                program, options.llama_args, model=options.model, threads=options.threads, steps=steps
            )
            for steps in (FEW, MANY)
        )
        theirs.append((many - few) / (MANY - FEW))
        ours.append(dgguf_step(options.model, options.threads))
        print(f"turn {turn + 1}: llama.cpp {theirs[-1]:.2f} s, dgguf {ours[-1]:.2f} s a step", flush=True)
    a, b = statistics.median(theirs), statistics.median(ours)
    print(f"median: llama.cpp {a:.2f} s, dgguf {b:.2f} s a step: dgguf is {a / b:.2f} times as fast")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
