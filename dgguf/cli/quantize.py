"""`dgguf quantize`: make a GGUF file from a transformers checkpoint."""

import sys
from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "type_name",
    type=click.Choice(["F32", "F16", "BF16", "Q8_0"], case_sensitive=False),
    required=True,
    envvar="DGGUF_QUANTIZE_TYPE",
    help="Type of the matrices.",
)
@click.option("--force", is_flag=True, help="Overwrite OUT.")
def quantize(source: Path, out: Path, type_name: str, force: bool) -> None:
    """Convert SOURCE, a transformers checkpoint directory, to the GGUF file OUT.

    Norms, scales and the router stay F32. OUT appears only when it is complete.

    \b
    Examples:
      dgguf quantize ./diffusiongemma-26B-A4B-it model-bf16.gguf --type BF16
      dgguf quantize ./checkpoint model-q8_0.gguf --type Q8_0
    """
    from dgguf import convert
    from dgguf.cli.output import announce_compilation, format_bytes, format_count, say

    plan = convert.plan(source, type_name)
    for note in plan.notes:
        say(f"note: {note}")
    bits = 8 * plan.n_bytes / plan.n_weights
    say(
        f"{len(plan.tensors)} tensors, {format_count(plan.n_weights)} weights → "
        f"{format_bytes(plan.n_bytes)}, {bits:.2f} bits per weight"
    )
    events = convert.run(plan, out, force)
    with announce_compilation():
        event = next(events)  # looks at OUT and compiles before there is a bar to disturb
        n_bytes = sum(tensor.n_bytes for tensor in plan.tensors)
        with click.progressbar(length=n_bytes, label=f"writing {out.name}", file=sys.stderr) as bar:
            while isinstance(event, convert.TensorWritten):
                bar.update(event.n_bytes)
                event = next(events)
    say(f"{event.path}: {format_bytes(event.n_bytes)} in {event.seconds:.1f} s")
