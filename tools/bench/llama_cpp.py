"""Compare a denoising step of dgguf with one of llama.cpp's DiffusionGemma branch, on the same file.

    python tools/bench/llama_cpp.py MODEL.gguf --build LLAMA_CPP/build [--threads N] [--repeats 3]

Both programs run in turn, each as a process that has ended when the other begins: the memory of one must fit,
not that of both. What one of them leaves of the file in the page cache does not matter, as llama.cpp reads it
while it loads, and dgguf in the step that warms up. A run that fails, or that the system kills, is told, and
the others count; the exit code is 1 if a program never got through.

llama.cpp's step is the time that it prints. `--llama-args` replaces its arguments where a branch names them
otherwise; {steps}, {threads} and {model} are filled in.
"""

import argparse
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STEPS = 4
# Its --diffusion-steps is for other models: DiffusionGemma would go on to 48.
LLAMA_ARGS = (
    '-m {model} -t {threads} -p "Why is the sky blue?" -n 256 -ub 512 --diffusion-eb-max-steps {steps}'
)
_PRINTED = re.compile(r"time per step:\s*([0-9.]+)\s*ms\s*\(\s*([0-9]+) steps")


class FailedRunError(Exception):
    """A program ended without a result; says why."""


def run(command: list[str]) -> str:
    """What a program prints, both streams."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, errors="replace",
    )  # fmt: skip
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = ", as the system does where memory is short" if name == "SIGKILL" else ""
        raise FailedRunError(f"{command[0]} was ended by {name}{hint}")
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["nothing was printed"])[-1]
        raise FailedRunError(f"{command[0]} ended with {done.returncode}: {last:.300}")
    return done.stdout


def llama_step(program: Path, arguments: str, steps: int, **values: object) -> float:
    """Seconds of a step, as llama.cpp prints them: the mean of all steps of a run."""
    given = [part.format(steps=steps, **values) for part in shlex.split(arguments)]
    printed = _PRINTED.search(run([str(program), *given]))
    if printed is None:
        raise FailedRunError(f"{program} did not print its time per step")
    if int(printed[2]) > steps:
        raise FailedRunError(
            f"{program} made {printed[2]} steps, not {steps}: name its option in --llama-args"
        )
    return float(printed[1]) / 1000


def dgguf_step(model: str, threads: int, steps: int, program: tuple[str, ...]) -> float:
    """Seconds of a step, by `dgguf bench`."""
    text = run([*program, "bench", model, "--steps", str(steps), "--json", "-t", str(threads)])
    return float(json.loads(text[text.index("{") :])["ms_per_step"]) / 1000


def compare(programs: dict[str, Callable[[], float]], repeats: int) -> int:
    """Run the programs in turn, print each turn and the medians; the exit code."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats):
        for name, step in programs.items():
            try:
                found[name].append(step())
                print(f"turn {turn + 1}: {name} {found[name][-1]:.2f} s a step", flush=True)
            except FailedRunError as error:
                print(f"turn {turn + 1}: {name} failed: {error}", flush=True)
    if not all(found.values()):
        return 1
    (a, one), (b, other) = ((statistics.median(seconds), name) for name, seconds in found.items())
    counted = " and ".join(str(len(seconds)) for seconds in found.values())
    print(
        f"median of {counted}: {one} {a:.2f} s, {other} {b:.2f} s a step: "
        f"{other} is {a / b:.2f} times as fast"
    )
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a denoising step of dgguf and of llama.cpp, in turn.")
    parser.add_argument("model", metavar="MODEL.gguf")
    parser.add_argument("--build", type=Path, required=True, help="llama.cpp's build directory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--llama-args", default=LLAMA_ARGS)
    parser.add_argument(
        "--dgguf", default=f"{sys.executable} -m dgguf", metavar="COMMAND", help="(default: this one)"
    )
    options = parser.parse_args()
    program = options.build / "bin" / "llama-diffusion-cli"
    if not program.is_file():
        sys.exit(f"{program} is missing: build llama.cpp's target llama-diffusion-cli")
    values = {"model": options.model, "threads": options.threads}
    ours = tuple(shlex.split(options.dgguf))
    programs: dict[str, Callable[[], float]] = {
        "llama.cpp": lambda: llama_step(program, options.llama_args, STEPS, **values),
        "dgguf": lambda: dgguf_step(options.model, options.threads, STEPS, ours),
    }
    sys.exit(compare(programs, options.repeats))


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
