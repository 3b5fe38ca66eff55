"""`dgguf bench`: how fast a model runs here."""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.commands import model_argument
from dgguf.cli.options import gpu_options, keep_weights_option, threads_option

if TYPE_CHECKING:
    from dgguf.cli.tables import Part
    from dgguf.session import Session


@click.command(short_help="Measure a model's speed on this machine.")
@model_argument
@click.option(
    "--prompt-tokens", type=click.IntRange(1), default=32, help="Length of the random prompt, in tokens."
)
@click.option(
    "--steps", type=click.IntRange(1), default=5, help="Denoising steps measured, after one to warm up."
)
@threads_option
@keep_weights_option
@click.option("--exact", is_flag=True, help="Float32 products, as the reference computes them.")
@click.option("--cold", is_flag=True, help="Drop the file from the system's page cache first (Linux).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@gpu_options
def bench(
    model: str,
    prompt_tokens: int,
    steps: int,
    threads: int | None,
    keep_weights: bool,
    exact: bool,
    gpu: Any,
    cold: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on this machine: a denoising step and its parts, encoding, start, memory.

    Times of a step and its parts are medians over the steps. The prompt and the canvas are random
    tokens; what is computed does not depend on what they mean. Between the steps the machine's peak is
    measured: shares are of what it could do at that moment.

    \b
    Examples:
      dgguf bench model.gguf
      dgguf bench model.gguf --prompt-tokens 2048 --steps 3 --json > bench.json
      DGGUF_CPU_PATH=portable dgguf bench model.gguf
    """
    from dgguf.benchmark import PeakMemory
    from dgguf.catalog import find_model
    from dgguf.cli import compilation, last
    from dgguf.cli.tables import echo
    from dgguf.ggufio.file import GgufFile
    from dgguf.machine import drop_from_page_cache
    from dgguf.session import Session

    if cold:
        with GgufFile(find_model(model)) as file:
            if not drop_from_page_cache(file.paths):
                raise click.UsageError("--cold needs Linux: this system drops no file from its page cache")
    with PeakMemory() as peak, compilation.announce_compilation():
        began = time.perf_counter()
        session = Session(model, threads=threads, exact=exact, keep_weights=keep_weights, gpu=gpu)
        loaded = time.perf_counter() - began
        result = {"cold": cold, "load_seconds": loaded, **_measured(session, prompt_tokens, steps)}
    last.remember_step(session.file.path.name, session.file.n_bytes, result["ms_per_step"] / 1e3)
    result["peak_private_bytes"] = peak.bytes
    result["backend"] = session.backend.describe()  # a GPU knows by now whether it records steps
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        echo(*parts(result))


def _measured(session: "Session", prompt_tokens: int, steps: int) -> dict[str, Any]:
    """What is measured with a session, and where."""
    from dgguf.backends.cpu import CpuBackend
    from dgguf.backends.cpu.roofline import Roofline
    from dgguf.benchmark import measure
    from dgguf.cli.output import say
    from dgguf.machine import processor

    cpu = session.backend if isinstance(session.backend, CpuBackend) else None
    peak = Roofline(cpu.path, cpu.threads).gops if cpu else None
    return {
        "model": str(session.file.path),
        "model_bytes": session.file.n_bytes,
        "machine": processor(),
        "cpu_path": cpu and cpu.path,
        "threads": cpu and cpu.threads,
        **measure(session, prompt_tokens=prompt_tokens, steps=steps, progress=say, peak=peak),
    }


def parts(result: dict[str, Any]) -> "Iterator[Part]":
    """The result for a reader."""
    from dgguf.cli.tables import Column, Facts, Rows
    from dgguf.units import format_bytes

    steps = result["ms_of_steps"]
    unit = "of float32 through BLAS" if result["cpu_path"] == "portable" else "of dot instructions"
    peak, memory = result["peak_gops"], result["peak_private_bytes"]
    facts = [
        ("machine", f"{result['machine'] or 'unknown'} · {result['backend']}"),
        *([("peak", f"{peak:.0f} GOP/s {unit}, without memory")] if peak else []),
        (
            "start",
            f"{result['load_seconds']:.2f} s to load"
            f" · {result['first_encode_seconds']:.2f} s for the first {result['first_encode_tokens']} tokens"
            f" · {_duration(result['first_step_ms'])} for the first step" + (" · file cold" * result["cold"]),
        ),
        ("encoding", f"{result['encode_tokens_per_s']:.1f} tokens/s, {result['prompt_tokens']} tokens"),
        ("commit", f"{_duration(result['commit_ms'])} a canvas"),
        *([("memory", f"{format_bytes(memory)} at most, beside the mapped file")] if memory else []),
        (
            "step",
            f"{_duration(result['ms_per_step'])}, median of {len(steps)}"
            f" ({_duration(min(steps))} to {_duration(max(steps))})"
            f" · {result['gops']:.0f} GOP/s{_of_peak(result, ', ', ' of the peak')}"
            f" · {result['gb_per_s']:.1f} GB/s of weights",
        ),
    ]
    yield Facts(facts, indent=0)
    yield ""
    if not result["cpu_path"]:
        yield "parts, each waited for, which takes longer than the step as a whole:"
    heads = ("part of a step", "time", "speed", *(["of the peak"] if peak else []))
    cells = [
        (part, _duration(cost["ms"]), f"{cost['gops']:.0f} GOP/s" if cost["gops"] else "", _of_peak(cost))
        for part, cost in result["parts"].items()
    ]
    columns = tuple(Column(head, right=head != heads[0]) for head in heads)
    yield Rows(columns, [row[: len(heads)] for row in cells])


def _of_peak(cost: dict[str, Any], before: str = "", behind: str = "") -> str:
    """The share of the peak in words, nothing where it is not known."""
    share = cost["share_of_peak"]
    return f"{before}{share:.0%}{behind}" if share else ""


def _duration(ms: float) -> str:
    return f"{ms / 1e3:.2f} s" if ms >= 1e3 else f"{ms:.3g} ms"
