"""`dgguf compare`: what sets two model files apart, such as a model and its quantization."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.options import evaluation_options

if TYPE_CHECKING:
    from dgguf.cli.tables import Part
    from dgguf.evaluate.divergence import Divergence


@click.command(short_help="Show what one model costs in place of another.")
@click.argument("first")
@click.argument("second")
@evaluation_options(default_chunks=8)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare(
    first: str,
    second: str,
    texts: tuple[Path, ...],
    special: bool,
    chunks: int,
    threads: int | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Show what it costs to take the model SECOND instead of FIRST.

    Both denoise the same canvases, taken from the texts, from all noise to mostly text. At each level of
    noise the divergence (Kullback-Leibler, of SECOND's predictions from FIRST's) is 0 where they predict
    the same, and the agreement is how often both find the same token likeliest.

    Both files are mapped, and needed in turn, once a chunk. With the predictions of a chunk, which are
    held, it takes some 2.5 GB of memory for the 26B beside the files.

    \b
    Examples:
      dgguf compare model-q8_0.gguf model-q4_k_m.gguf -f texts.txt
      dgguf compare model-bf16.gguf small.gguf -f chats.txt --special --chunks 2 --json
    """
    from dgguf.backends.cpu import CpuBackend
    from dgguf.cli.compilation import announce_compilation
    from dgguf.cli.output import say
    from dgguf.cli.progress import bar
    from dgguf.cli.tables import echo
    from dgguf.evaluate.divergence import LogitsBackend, check_comparable
    from dgguf.evaluate.divergence import compare as compare_models
    from dgguf.evaluate.noised_chunks import PASSES, Model, cut, read_text
    from dgguf.units import count
    from dgguf.view.terminal import safe_json

    contents = [read_text(path) for path in texts]
    cpu = CpuBackend(threads, exact=exact, keep_weights=True)  # or Q8_0's cost would be hidden
    backends = [LogitsBackend(cpu), LogitsBackend(cpu)]
    models = [Model(name, backend) for name, backend in zip((first, second), backends, strict=True)]
    check_comparable(*models)
    samples = cut(models[0], contents, special=special, limit=chunks)
    say(
        f"{count(len(samples), 'chunk')} of at most {2 * models[0].config.canvas_length} tokens, "
        f"{PASSES} passes each through both models"
    )
    found: list[list[Divergence]] = []
    pairs = list(zip(models, backends, strict=True))
    with announce_compilation(), bar("comparing", len(samples), amount=str, is_rate=False) as shown:
        for divergences in compare_models(pairs[0], pairs[1], samples):
            found.append(divergences)
            shown.advance(1)
    rows = _rows(found)
    if as_json:
        files = {"first": str(models[0].file.path), "second": str(models[1].file.path)}
        result = {**files, "chunks": len(found), "noise": rows}
        click.echo(safe_json(json.dumps(result, ensure_ascii=False, indent=2)))
    else:
        echo("divergence in nats", table(rows))


def _rows(found: "list[list[Divergence]]") -> list[dict[str, Any]]:
    """A summary for each level of noise, then one for all of them.

    Args:
        found: of each chunk, the divergence at each level.
    """
    from dgguf.evaluate.noised_chunks import NOISE

    rows = [_summary(f"{share:.0%}", [chunk[i] for chunk in found]) for i, share in enumerate(NOISE)]
    return [*rows, _summary("all", [divergence for chunk in found for divergence in chunk])]


def _summary(noise: str, divergences: "list[Divergence]") -> dict[str, Any]:
    """JSON types; the error is the standard error over the positions."""
    import numpy as np

    kl = np.concatenate([divergence.kl for divergence in divergences])
    agrees = np.concatenate([divergence.agrees for divergence in divergences])
    return {
        "noise": noise,
        "positions": len(kl),
        "kl_mean": float(kl.mean()),
        "kl_standard_error": float(kl.std(ddof=1) / len(kl) ** 0.5),
        "kl_median": float(np.median(kl)),
        "kl_99": float(np.quantile(kl, 0.99)),
        "kl_max": float(kl.max()),
        "agreement": float(agrees.mean()),
    }


def table(rows: list[dict[str, Any]]) -> "Part":
    """The rows for a reader."""
    from dgguf.cli.tables import Column, Rows

    names = ("mean", "± error", "median", "99 %", "largest", "same argmax", "positions")
    cells = []
    for row in rows:
        numbers = (row[f"kl_{key}"] for key in ("mean", "standard_error", "median", "99", "max"))
        values = (f"{value:.6f}" for value in numbers)
        cells.append((row["noise"], *values, f"{row['agreement']:.2%}", str(row["positions"])))
    return Rows((Column("noise"), *(Column(name, right=True) for name in names)), cells)
