"""`dgguf quantize`: make a GGUF file from a transformers checkpoint."""

import sys
import time
from pathlib import Path

import click

TYPES = ("F32", "BF16", "F16", "Q8_0")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--type", "type_name", type=click.Choice(TYPES, case_sensitive=False), required=True, help="Type of the matrices."
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
    raise NotImplementedError
