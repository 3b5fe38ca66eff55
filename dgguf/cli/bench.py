"""`dgguf bench`: how fast a model runs here."""

import json
import os
import platform
import sys
import time
from typing import Any

import click


@click.command()
@click.argument("model")
@click.option(
    "--prompt-tokens", type=click.IntRange(1), default=32, help="Length of the random prompt, in tokens."
)
@click.option("--steps", type=click.IntRange(1), default=5, help="Denoising steps measured, after one to warm up.")
@click.option("-t", "--threads", type=click.IntRange(1), help="CPU threads.  [default: all usable cores]")
@click.option("--exact", is_flag=True, help="Float32 products, as the reference computes them.")
@click.option("--cold", is_flag=True, help="Drop the file from the system's page cache first (Linux).")
@click.option("--json", "as_json", is_flag=True, envvar="DGGUF_BENCH_JSON", help="Print one JSON object.")
def bench(
    model: str, prompt_tokens: int, steps: int, threads: int | None, exact: bool, cold: bool, as_json: bool
) -> None:
    """Measure MODEL on this machine: a denoising step and its parts, encoding, start, memory.

    Times of a step and its parts are medians over the steps. The prompt and the canvas are random
    tokens; what is computed does not depend on what they mean.

    \b
    Examples:
      dgguf bench model.gguf
      dgguf bench model.gguf --prompt-tokens 2048 --steps 3 --json > bench.json
      DGGUF_CPU_PATH=portable dgguf bench model.gguf
    """
    from dgguf.benchmark import PeakMemory, drop_from_page_cache, measure
    from dgguf.catalog import find_model
    from dgguf.cli.output import announce_compilation, say
    from dgguf.gguf_file import GgufFile
    from dgguf.session import Session

    if cold:
        with GgufFile(find_model(model)) as file:
            paths = file.paths
        drop_from_page_cache(paths)
    peak = PeakMemory()
    peak.start()
    began = time.perf_counter()
    with announce_compilation() as compiled:
        session = Session(model, threads=threads, context=None, exact=exact)
        loaded = time.perf_counter() - began
        say(f"{session.file.path}: {session.backend.describe()}")
        result = {
            "model": str(session.file.path),
            "bytes": session.file.n_bytes,
            "machine": _machine(),
            "backend": session.backend.describe(),
            "cpu_path": session.backend.cpu_path,
            "threads": session.backend.threads,
            "prompt_tokens": prompt_tokens,
            "cold": cold,
            "load_seconds": loaded,
            **measure(
                session,
                prompt_tokens=prompt_tokens,
                steps=steps,
                progress=lambda what: say(what) if sys.stderr.isatty() else None,
            ),
            "compiled": bool(compiled),
        }
