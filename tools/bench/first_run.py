"""What a first run costs: seconds, processor seconds of all processes, and what is compiled meanwhile.

    python tools/bench/first_run.py
    python tools/bench/first_run.py run --names                       # each compilation, and its seconds
    python tools/bench/first_run.py run --beside CHECKOUT --rounds 5  # in turn with another version

Each job begins with an empty DGGUF_CACHE_DIR in a temporary folder:

    run        the demo answers a prompt
    quantize   the demo becomes Q4_K_M
    format     the demo as Q5_1 answers a prompt, where the kernels of `run` are in the cache already
    image      a tiny model answers about an image, where the kernels of a text are in the cache already

Figures are the best of the rounds: other programs only make one worse. They hold the start of Python and the
work itself, too; "again" is the same with all kernels in the cache. POSIX only.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE))

from tests.support.seeing import write_seeing_model  # noqa: E402

RUN = ("run", "demo", "-p", "Tell me a story.", "--seed", "7", "--view", "none")
JOBS = ("run", "quantize", "format", "image")
# Python imports it when it starts, in each process: it writes down what numba compiles.
LISTENER = """
import json, os, time
from numba.core import ccallback, event

stack = []

def begin():
    stack.append([time.process_time(), 0.0])

def end(name):
    began, inner = stack.pop()
    seconds = time.process_time() - began
    if stack:
        stack[-1][1] += seconds
    with open(os.environ["FIRST_RUN_NAMES"], "a") as file:
        file.write(json.dumps([name, seconds - inner, len(stack)]) + "\\n")

class Listener(event.Listener):
    def on_start(self, of):
        begin()

    def on_end(self, of):
        function = of.data["dispatcher"].py_func
        end(f"{function.__module__}.{function.__qualname__}")

event.register("numba:compile", Listener())
compile_c = ccallback.CFunc._compile_uncached

def compile_and_note(self):
    begin()
    try:
        return compile_c(self)
    finally:
        end(f"{self._pyfunc.__module__}.{self._pyfunc.__qualname__}")

ccallback.CFunc._compile_uncached = compile_and_note
"""


def spend(checkout: Path, cache: Path, *arguments: object, **variables: str) -> tuple[float, float]:
    """Run a command of the version in `checkout`: seconds, and processor seconds of all its processes."""
    paths = [str(checkout), variables.pop("LISTENER", "")]
    environment = {
        **os.environ,
        **variables,
        "DGGUF_CACHE_DIR": str(cache),
        "DGGUF_HISTORY": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, reversed(paths))),
    }
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dgguf", *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent


@contextlib.contextmanager
def prepared(job: str, checkout: Path) -> Iterator[tuple[Path, tuple[object, ...]]]:
    """Within the context, a cache for a job's first time, and the job's command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache, model = folder / "cache", folder / "model.gguf"
        match job:
            case "run":
                command: tuple[object, ...] = RUN
            case "quantize":
                command = ("quantize", "demo", model, "--type", "Q4_K_M", "--force")
            case "image":
                seeing, picture = write_seeing_model(folder, tower_type="BF16"), folder / "a.png"
                Image.new("RGB", (90, 60)).save(picture)
                text = ("run", seeing, "-p", "look", "-n", "8", "--seed", "7", "--view", "none")
                spend(checkout, cache, *text)
                command = (*text, "--image", picture, "--image-tokens", "70")
            case _:
                spend(checkout, folder / "other", "quantize", "demo", model, "--type", "Q5_1")
                spend(checkout, cache, *RUN)
                command = (RUN[0], model, *RUN[2:])
        yield cache, command


def list_compilations(job: str, checkout: Path) -> None:
    """Print what is compiled in a job, the longest first."""
    with prepared(job, checkout) as (cache, command), tempfile.TemporaryDirectory() as name:
        (Path(name) / "sitecustomize.py").write_text(LISTENER)
        found = Path(name) / "names"
        found.touch()
        spend(checkout, cache, *command, LISTENER=name, FIRST_RUN_NAMES=str(found))
        rows = [json.loads(line) for line in found.read_text().splitlines()]
    own = [row for row in rows if row[0].startswith("dgguf.")]
    print(f"{job}: {len(rows)} compilations, {sum(row[1] for row in rows):.1f} processor seconds; "
          f"{len(own)} of functions of dgguf, {sum(row[1] for row in own):.1f}")  # fmt: skip
    for name, seconds, depth in sorted(rows, key=lambda row: -row[1]):
        print(f"{seconds:8.3f}  {'  ' * depth}{name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help="of run, quantize, format, image (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--beside", type=Path, help="a checkout of another version")
    parser.add_argument("--names", action="store_true", help="list the compilations")
    given = parser.parse_args()
    if unknown := set(given.jobs) - set(JOBS):
        parser.error(f"there is no job {', '.join(sorted(unknown))}; there are {', '.join(JOBS)}")
    versions = [path for path in (given.beside and given.beside.resolve(), HERE) if path]
    for job in given.jobs or JOBS:
        if given.names:
            list_compilations(job, HERE)
            continue
        best: dict[Path, list[float]] = {}
        for _ in range(given.rounds):
            for version in versions:
                with prepared(job, version) as (cache, command):
                    figures = [*spend(version, cache, *command), *spend(version, cache, *command)]
                best[version] = list(map(min, figures, best.get(version, figures)))
        for version in versions:
            first, spent, again, again_spent = best[version]
            print(f"{job:<9}{first:7.2f} s, {spent:6.2f} s of processors; again {again:6.2f} s, "
                  f"{again_spent:6.2f} of processors; {version}")  # fmt: skip
        if given.beside:
            ratios = [new / old for new, old in zip(best[HERE], best[versions[0]], strict=True)]
            print(f"{job:<9}{ratios[0]:7.3f} of its time, {ratios[1]:.3f} of its processor time")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
