"""`dgguf doctor`: what this machine has, and what would make it run."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from dgguf.backends.check import Check
    from dgguf.cli.tables import Part
    from dgguf.model.config import ModelConfig


@click.command(short_help="See what this machine has and what is missing.")
@click.argument("model", required=False)
@click.option(
    "-c",
    "--context",
    type=click.IntRange(2),
    help="Context to plan for.  [default: 8192, or what the model can]",
)
@click.option("--cuda", is_flag=True, help="A GPU that cannot be used is a failure.")
@click.option("--device", type=click.IntRange(0), default=0, help="Number of the GPU, as nvidia-smi counts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
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
    from dgguf.checks import examine_cpu
    from dgguf.view.terminal import safe_json

    cpu = [*examine_cpu(), *memory_checks(model, context)]
    sections = {"cpu": cpu, "gpu": list(gpu_checks(model, context, device))}
    fatal = [*sections["cpu"], *(sections["gpu"] if cuda else ())]
    if as_json:
        report: dict[str, Any] = {
            name: [{"name": c.name, "ok": c.ok, "found": c.found, "remedy": c.remedy} for c in checks]
            for name, checks in sections.items()
        }
        click.echo(safe_json(json.dumps(report, ensure_ascii=False, indent=2)))
    else:
        from dgguf.cli.tables import echo

        gpu = table(sections["gpu"], "FAIL" if cuda else "no")
        echo("CPU", table(sections["cpu"], "FAIL"), "", "GPU, for --cuda", gpu)
    if not all(check.ok for check in fatal):
        click_context.exit(1)


def memory_checks(model: str | None, context: int | None) -> Iterator["Check"]:
    """The memory of this machine, and whether MODEL fits."""
    from dgguf.checks import check_memory, check_model, check_workers
    from dgguf.machine import system_memory, usable_processors

    available, total = system_memory()
    yield check_memory(available, total)
    if model is None:
        return
    from dgguf.catalog import find_model
    from dgguf.ggufio.file import GgufFile
    from dgguf.model.config import ModelConfig
    from dgguf.model.memory import choose_context, cpu_memory

    with GgufFile(find_model(model)) as file:
        config = ModelConfig.from_file(file)
        memory = cpu_memory(file, config, choose_context(config, context))
        path = file.path
    needed = memory.weights_mapped, memory.kv_cache + memory.scratch
    yield check_model(*needed, available)
    yield check_workers(*needed, available, usable_processors())
    yield check_tower(path, config)


def check_tower(model: "Path", config: "ModelConfig") -> "Check":
    """Whether the model can read images, and in what memory; that it cannot is no failure."""
    from dgguf.backends.check import Check
    from dgguf.cli.show import describe_vision, vision_words

    seen = describe_vision(model, config)
    if seen is None:
        return Check("images", True, "no vision tower (mmproj*.gguf) lies beside the model")
    wrong = "error" in seen
    remedy = "move it away, or give another one with --mmproj" if wrong else ""
    return Check("images", not wrong, vision_words(seen), remedy)


def gpu_checks(model: str | None, context: int | None, device: int) -> Iterator["Check"]:
    """What --cuda needs."""
    from dgguf.backends.cuda.diagnose import examine
    from dgguf.cli.show import describe_vision

    sizes, head_dims, tower = None, set(), None
    if model is not None:
        from dgguf.catalog import find_model
        from dgguf.ggufio.file import GgufFile
        from dgguf.model.config import ModelConfig
        from dgguf.model.memory import choose_context, gpu_sizes

        with GgufFile(find_model(model)) as file:
            config = ModelConfig.from_file(file)
            sizes = gpu_sizes(file, config, choose_context(config, context))
            head_dims = {layer.head_dim for layer in config.layers}
            tower = (describe_vision(file.path, config) or {}).get("on_gpu")
    yield from examine(device, sizes, head_dims, tower)


def table(checks: list["Check"], failed: str) -> "Part":
    """The checks for a reader; `failed` marks those that are not ok."""
    from dgguf.cli.tables import Facts

    rows = []
    for check in checks:
        rows.append((f"{'ok' if check.ok else failed:<4} {check.name}", check.found))
        if check.remedy and check.remedy not in check.found:
            rows.append(("", f"→ {check.remedy}"))
    return Facts(rows)
