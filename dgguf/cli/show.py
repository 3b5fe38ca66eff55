"""`dgguf show`: what a model file holds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.commands import model_argument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dgguf.cli.tables import Part
    from dgguf.ggufio.file import GgufFile
    from dgguf.model.config import ModelConfig


@click.command(short_help="Show what a model file holds.")
@model_argument
@click.option(
    "-c",
    "--context",
    type=click.IntRange(2),
    help="Context to size the memory for.  [default: 8192, or what the model can]",
)
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object.",
)
def show(model: str, context: int | None, tensors: bool, as_json: bool) -> None:
    """Show what MODEL holds: sizes, types, sampler settings, memory needed. Of an mmproj file, its tower.

    \b
    Examples:
      dgguf show demo
      dgguf show model.gguf --context 32768
      dgguf show model.gguf --tensors --json
      dgguf show mmproj-BF16.gguf
    """
    from dgguf.catalog import find_model
    from dgguf.ggufio.file import GgufFile
    from dgguf.model.config import ModelConfig, is_mmproj
    from dgguf.view.terminal import safe_json

    with GgufFile(find_model(model)) as file:
        tower = is_mmproj(file)
        report = describe_tower(file) if tower else describe(file, ModelConfig.from_file(file), context)
        if tensors:
            report["tensors"] = [
                {"name": t.name, "shape": list(t.shape), "type": t.format.name, "bytes": t.n_bytes}
                for t in file.tensors.values()
            ]
    if as_json:
        click.echo(safe_json(json.dumps(report, ensure_ascii=False, indent=2)))
    else:
        from dgguf.cli.tables import echo

        echo(*(tower_parts if tower else parts)(report))


def describe(file: "GgufFile", config: "ModelConfig", context: int | None) -> dict[str, Any]:
    """Everything `show` tells, as JSON types; sizes in bytes."""
    import dataclasses

    from dgguf.diffusion.settings import SamplerSettings
    from dgguf.model.memory import choose_context, cpu_memory

    context = choose_context(config, context)
    geometry = dataclasses.asdict(config)
    layers = geometry.pop("layers")
    settings = SamplerSettings.from_metadata(file.metadata)
    in_file = [f"diffusion.eb_{f.name}" in file.metadata for f in dataclasses.fields(settings)]
    return {
        **_describe_file(file),
        "geometry": {
            **geometry,
            "n_layers": len(layers),
            "sliding_layers": sum(layer["window"] is not None for layer in layers),
            "sliding_window": next((layer["window"] for layer in layers if layer["window"]), None),
            "head_dims": sorted({layer["head_dim"] for layer in layers}),
            "n_kv_heads": sorted({layer["n_kv_heads"] for layer in layers}),
        },
        "sampler": dataclasses.asdict(settings),
        "sampler_source": "file" if all(in_file) else "file and defaults" if any(in_file) else "defaults",
        "memory": {"context": context, **dataclasses.asdict(cpu_memory(file, config, context))},
        "vision": describe_vision(file.path, config),
    }


def describe_vision(model: Path, config: "ModelConfig") -> dict[str, Any] | None:
    """The tower beside a model and its memory in bytes, or why it cannot be used; None for none."""
    from dgguf.errors import DggufError
    from dgguf.ggufio.file import GgufFile
    from dgguf.images import DEFAULT_BUDGET
    from dgguf.model.memory import gpu_tower_bytes, vision_scratch_bytes
    from dgguf.model.mmproj import VisionConfig
    from dgguf.seeing import find_mmproj

    try:
        path = find_mmproj(model)
        if path is None:
            return None
        with GgufFile(path) as beside:
            tower = VisionConfig.from_file(beside)
            tower.check_fits(beside, config, str(model))
            scratch = vision_scratch_bytes(tower, DEFAULT_BUDGET)
            return {
                "path": str(path),
                "weights_mapped": beside.n_bytes,
                "scratch": scratch,
                "on_gpu": gpu_tower_bytes(beside, tower),
            }
    except DggufError as error:
        return {"error": str(error)}


def describe_tower(file: "GgufFile") -> dict[str, Any]:
    """Everything `show` tells of an mmproj file, as JSON types; sizes in bytes."""
    import dataclasses

    from dgguf.images import BUDGETS
    from dgguf.model.memory import vision_scratch_bytes
    from dgguf.model.mmproj import BOUNDS, PROJECTOR, VisionConfig

    config = VisionConfig.from_file(file)
    return {
        **_describe_file(file),
        "projector": PROJECTOR,
        "geometry": {
            **dataclasses.asdict(config),
            "head_dim": config.head_dim,
            "clipped": any(name.endswith(BOUNDS) for name in file.tensors),
        },
        "memory": {
            "weights_mapped": file.n_bytes,
            "scratch": {budget: vision_scratch_bytes(config, budget) for budget in BUDGETS},
        },
    }


def _describe_file(file: "GgufFile") -> dict[str, Any]:
    """What is told of every file."""
    types = count_types(file)
    return {
        "path": str(file.path),
        "name": file.get("general.name", str, ""),
        "gguf_version": file.version,
        "bytes": file.n_bytes,
        "weights": sum(row["weights"] for row in types.values()),
        "types": types,
    }


def count_types(file: "GgufFile") -> dict[str, dict[str, int]]:
    """Tensors, weights and bytes of each type; what takes most stands first."""
    types: dict[str, dict[str, int]] = {}
    for t in file.tensors.values():
        row = types.setdefault(t.format.name, {"tensors": 0, "weights": 0, "bytes": 0})
        row["tensors"] += 1
        row["weights"] += t.n_weights
        row["bytes"] += t.n_bytes
    return dict(sorted(types.items(), key=lambda item: -item[1]["bytes"]))


def tower_parts(report: dict[str, Any]) -> "Iterator[Part]":
    """The report on an mmproj file for a reader."""
    from dgguf.cli.tables import Facts
    from dgguf.units import format_bytes

    g, memory = report["geometry"], report["memory"]
    scratch = [f"{format_bytes(size)} at {budget}" for budget, size in memory["scratch"].items()]
    options = [name for name in ("standardized", "clipped") if g[name]]
    yield from _head(report, report["projector"])
    facts = [
        ("vision tower", f"{g['n_layers']} layers{''.join(', ' + option for option in options)}"),
        ("hidden size", f"{g['hidden_size']} · feed-forward {g['ff_size']}"),
        ("attention", f"{g['n_heads']} heads of {g['head_dim']}"),
        ("rows", f"of {g['text_size']} numbers, for a text model of that hidden size"),
    ]
    yield Facts(facts, indent=0)
    yield from _types(report)
    yield "memory while an image is read"
    mapped = format_bytes(memory["weights_mapped"])
    yield Facts(
        [("weights, mapped from the file", mapped), ("scratch, by --image-tokens", ", ".join(scratch))]
    )
    yield from _tensors(report)


def parts(report: dict[str, Any]) -> "Iterator[Part]":
    """The report for a reader."""
    from dgguf.cli.tables import Facts
    from dgguf.units import format_bytes

    g, memory = report["geometry"], report["memory"]
    sliding, full = g["sliding_layers"], g["n_layers"] - g["sliding_layers"]
    yield from _head(report, g["architecture"])
    facts = [
        ("layers", f"{g['n_layers']}: {sliding} sliding (window {g['sliding_window']}), {full} full"),
        ("hidden size", f"{g['hidden_size']} · feed-forward {g['ff_size']}"),
        ("attention", f"{g['n_heads']} heads of {both(g['head_dims'])} · KV heads {both(g['n_kv_heads'])}"),
        ("experts", f"{g['n_experts_used']} of {g['n_experts']}, feed-forward {g['expert_ff_size']}"),
        ("vocabulary", f"{g['vocab_size']} tokens"),
        ("canvas", f"{g['canvas_length']} tokens · context up to {g['context_length']}"),
    ]
    yield Facts(facts, indent=0)
    yield from _types(report)
    yield f"sampler settings ({report['sampler_source']})"
    yield Facts([(name, str(value)) for name, value in report["sampler"].items()])
    yield ""
    yield f"memory at a context of {memory['context']}"
    yield Facts(
        [
            ("weights, mapped from the file", format_bytes(memory["weights_mapped"])),
            ("KV cache, when full", format_bytes(memory["kv_cache"])),
            ("scratch", format_bytes(memory["scratch"])),
        ]
    )
    if seen := report["vision"]:
        yield Facts([("images, besides", vision_words(seen))])
    yield from _tensors(report)


def vision_words(seen: dict[str, Any]) -> str:
    """The memory of a tower, or what is wrong with it, for a reader."""
    from dgguf.units import format_bytes

    if "error" in seen:
        return str(seen["error"])
    mapped, scratch = format_bytes(seen["weights_mapped"]), format_bytes(seen["scratch"])
    return f"{Path(seen['path']).name}: {mapped} mapped, {scratch} scratch"


def _head(report: dict[str, Any], kind: str) -> "Iterator[Part]":
    from dgguf.units import format_bytes, format_count

    yield report["path"]
    yield f"  {report['name'] or 'unnamed'} · {kind} · GGUF version {report['gguf_version']}"
    yield f"  {format_bytes(report['bytes'])} · {format_count(report['weights'])} weights"
    yield ""


def _types(report: dict[str, Any]) -> "Iterator[Part]":
    from dgguf.cli.tables import Column, Rows

    numbers = [Column(name, right=True) for name in ("tensors", "weights", "bytes")]
    cells = [(name, *map(str, row.values())) for name, row in report["types"].items()]
    yield ""
    yield Rows((Column("type"), *numbers), cells)
    yield ""


def _tensors(report: dict[str, Any]) -> "Iterator[Part]":
    from dgguf.cli.tables import Column, Rows

    if "tensors" not in report:
        return
    columns = (Column("tensor"), Column("shape", right=True), Column("type"), Column("bytes", right=True))
    rows = report["tensors"]
    yield ""
    yield Rows(
        columns, [(t["name"], "x".join(map(str, t["shape"])), t["type"], str(t["bytes"])) for t in rows]
    )


def both(values: list[int]) -> str:
    """The values of sliding and full layers, smaller first."""
    return " and ".join(map(str, values))
