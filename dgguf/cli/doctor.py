"""`dgguf doctor`: what this machine has, and what would make it run."""

import json
import os
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dgguf.backends.cuda.diagnose import Check


@click.command()
@click.argument("model", required=False)
@click.option("-c", "--context", type=click.IntRange(2), help="Context to plan for.  [default: 8192]")
@click.option("--cuda", is_flag=True, help="A GPU that cannot be used is a failure.")
@click.option("--device", type=click.IntRange(0), default=0, help="Number of the GPU, as nvidia-smi counts.")
@click.option("--json", "as_json", is_flag=True, envvar="DGGUF_DOCTOR_JSON", help="Print one JSON object.")
@click.pass_context
def doctor(
    click_context: click.Context,
    model: str | None,
    context: int | None,
    cuda: bool,
    device: int,
    as_json: bool,
) -> None:
    """Look at this machine: CPU, memory, cache folder, GPU; and at what of MODEL would fit.

    Each failure ends with the step that mends it. The exit code is 1 if the CPU, or with --cuda the GPU,
    cannot be used.

    \b
    Examples:
      dgguf doctor
      dgguf doctor --cuda
      dgguf doctor model.gguf --context 32768 --json
    """
    sections = {"cpu": list(cpu_checks(model, context)), "gpu": list(gpu_checks(model, context, device))}
    fatal = [*sections["cpu"], *(sections["gpu"] if cuda else ())]
    if as_json:
        report: dict[str, Any] = {
            name: [{"name": c.name, "ok": c.ok, "found": c.found, "remedy": c.remedy} for c in checks]
            for name, checks in sections.items()
        }
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        click.echo("CPU")
        click.echo("\n".join(lines(sections["cpu"], "FAIL")))
        click.echo("\nGPU, for --cuda")
        click.echo("\n".join(lines(sections["gpu"], "FAIL" if cuda else "no")))
    if not all(check.ok for check in fatal):
        click_context.exit(1)


def cpu_checks(model: str | None, context: int | None) -> Iterator["Check"]:
    """What the CPU backend needs."""
    import numba

    from dgguf.backends.cpu.features import cpu_path
    from dgguf.backends.cuda.diagnose import Check
    from dgguf.benchmark import processor
    from dgguf.errors import BackendError
    from dgguf.jit import CACHE_FOLDER, compiled_features
    from dgguf.threads.pool import usable_cores

    yield Check(
        "system",
        True,
        f"{platform.platform()}, Python {platform.python_version()}, numba {numba.__version__}",
    )
    vectors = sorted(
        f
        for f in compiled_features()
        if f.startswith(("avx", "fma", "f16c", "neon", "dotprod", "i8mm", "amx"))
    )
    yield Check("processor", True, f"{processor()}: {' '.join(vectors) or 'no vector extensions'}")
    try:
        yield Check("kernels", True, cpu_path())
    except BackendError as error:
        yield Check("kernels", False, str(error), "unset DGGUF_CPU_PATH")
    yield Check("threads", True, f"{usable_cores()} of {os.cpu_count()} cores")
    yield _runs_a_kernel()
    if CACHE_FOLDER:
        yield Check("cache", True, f"compiled kernels are kept in {CACHE_FOLDER}")
    else:
        yield Check(
            "cache",
            False,
            "no folder for compiled kernels can be written",
            "set DGGUF_CACHE_DIR to a folder that can",
        )
    yield from _memory(model, context)


def _runs_a_kernel() -> "Check":
    import numpy as np

    from dgguf.backends.cuda.diagnose import Check
    from dgguf.quants.block import FORMATS_BY_NAME
    from dgguf.quants.decode import decoder

    raw = np.arange(34, dtype=np.uint8).reshape(1, 34)
    raw[0, :2] = np.array([1.0], np.float16).view(np.uint8)
    out = np.empty((1, 32), np.float32)
    decoder(FORMATS_BY_NAME["Q8_0"])(raw, out)
    ok = bool((out[0] == np.arange(2, 34)).all())
    remedy = "" if ok else "pip install --upgrade --force-reinstall numba llvmlite"
    return Check(
        "compiler", ok, "a kernel compiled and ran" if ok else "a kernel computes wrong numbers", remedy
    )


def _memory(model: str | None, context: int | None) -> Iterator["Check"]:
    from dgguf.backends.cuda.diagnose import Check
    from dgguf.cli.output import format_bytes

    available, total = system_memory()
    if total:
        yield Check("memory", True, f"{format_bytes(available)} of {format_bytes(total)} available")
    if model is None:
        return
    from dgguf.catalog import find_model
    from dgguf.cli.info import describe
    from dgguf.ggufio.file import GgufFile
    from dgguf.model.config import ModelConfig

    with GgufFile(find_model(model)) as file:
        memory = describe(file, ModelConfig.from_file(file), context)["memory"]
    beside = memory["kv_cache"] + memory["scratch"]
    found = f"{format_bytes(memory['weights_mapped'])} mapped, {format_bytes(beside)} beside it"
    if available and beside > available:
        yield Check("model", False, f"{found}: more than is available", "a smaller context (-c)")
    elif available and memory["weights_mapped"] + beside > available:
        yield Check(
            "model", True, f"{found}: parts of the file will be read again in every step, which is slow"
        )
    else:
        yield Check("model", True, found)


def system_memory() -> tuple[int, int]:
    """Available and total bytes; 0 where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = {
                line.split(":")[0]: 1024 * int(line.split()[1]) for line in file if line.endswith("kB\n")
            }
        return sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, KeyError):
        return 0, 0


def gpu_checks(model: str | None, context: int | None, device: int) -> Iterator["Check"]:
    """What --cuda needs."""
    from dgguf.backends.cuda.diagnose import examine

    sizes = None
    if model is not None:
        from dgguf.catalog import find_model
        from dgguf.ggufio.file import GgufFile
        from dgguf.model.config import ModelConfig
        from dgguf.session import choose_context, gpu_sizes

        with GgufFile(find_model(model)) as file:
            config = ModelConfig.from_file(file)
            sizes = gpu_sizes(file, config, choose_context(config, context))
    yield from examine(device, sizes)


def lines(checks: list["Check"], failed: str) -> Iterator[str]:
    """The checks as text; `failed` marks those that are not ok."""
    for check in checks:
        yield f"  {'ok' if check.ok else failed:<4} {check.name:<13} {check.found}"
        if check.remedy:
            yield f"       {'':<13} → {check.remedy}"
